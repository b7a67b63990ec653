"""Writes are whole or not at all: under an error, under a kill and with a reader beside them."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import save_file

from empg.errors import DataError, StorageError
from empg.files import atomic_directory, atomic_path, read_json, write_json, write_text

KILLED = """
import os, signal, sys
from pathlib import Path
from empg.files import atomic_directory, atomic_path
path = Path(sys.argv[1])
with (atomic_directory if sys.argv[2] == "directory" else atomic_path)(path) as temporary:
    (temporary / "a" if sys.argv[2] == "directory" else temporary).write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def fail_after_writing(path):
    path.write_text("ha")
    raise ZeroDivisionError


def test_a_file_is_replaced_when_it_is_whole(tmp_path):
    path = tmp_path / "made" / "a.txt"
    write_text(path, "old")
    with atomic_path(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
        assert temporary.parent == path.parent, "a rename across file systems would not be atomic"
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


def test_an_error_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(ZeroDivisionError), atomic_path(path) as temporary:
        fail_after_writing(temporary)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_directory_takes_its_place_when_it_is_whole(tmp_path):
    path = tmp_path / "model"
    for name in ("a", "b"):
        with atomic_directory(path) as folder:
            assert folder.parent == path.parent
            (folder / name).write_text(name)
        assert [file.name for file in path.iterdir()] == [name], "nothing of the old one stays"
    assert list(tmp_path.iterdir()) == [path]
    assert path.stat().st_mode & 0o777 == 0o755


def test_an_error_leaves_the_old_directory(tmp_path):
    path = tmp_path / "model"
    with atomic_directory(path) as folder:
        (folder / "a").write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_directory(path) as folder:
        fail_after_writing(folder / "a")
    assert (path / "a").read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("kind", ["directory", "file"])
def test_a_kill_leaves_what_was_there(kind, tmp_path):
    path = tmp_path / "result"
    if kind == "directory":
        path.mkdir()
    kept = path / "a" if kind == "directory" else path
    kept.write_text("old")
    ended = subprocess.run([sys.executable, "-c", KILLED, str(path), kind], env=os.environ, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert kept.read_text() == "old"
    write_text(
        path / "b" if kind == "directory" else path, "new"
    )  # the killed writer's temporary file does not disturb the next one


def test_json_is_the_same_bytes_for_the_same_value(tmp_path):
    value = {"b": [1, 2.5, None, True], "a": "ü", "tiny": 1e-300}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert text.endswith("}\n")
    assert "ü" in text
    write_json(tmp_path / "b.json", read_json(tmp_path / "a.json"))
    assert (tmp_path / "b.json").read_text(encoding="utf-8") == text


def test_nan_is_no_json(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"loss": float("nan")})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "expected a JSON file, found none"),
        (b'{"a": 1', "expected JSON, found"),
        (b"\xff\xfe", "expected JSON, found"),
    ],
)
def test_a_file_that_is_not_json_is_named(content, message, tmp_path):
    path = tmp_path / "a.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError) as error:
        read_json(path)
    assert str(error.value).startswith(f"{path}: {message}")


def write_torch(path):
    torch.save({"a": torch.rand(200_000)}, path)


def write_safetensors(path):
    save_file({"a": torch.rand(200_000)}, path)


def write_parquet(path):
    pl.DataFrame({"a": np.random.default_rng(0).random(100_000)}).write_parquet(path)


def write_csv(path):
    pl.DataFrame({"a": np.random.default_rng(0).random(100_000)}).write_csv(path)


@pytest.mark.parametrize("write", [write_torch, write_safetensors, write_parquet, write_csv])
@pytest.mark.parametrize("whole", ["file", "folder"])
def test_a_full_disk_is_called_that_whoever_writes(tmp_path, write, whole):
    """Each library has words of its own for it."""
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", tmp_path], check=False).returncode:
        pytest.skip("needs the right to mount a file system")
    path = tmp_path / "result"
    try:
        made = atomic_path(path) if whole == "file" else atomic_directory(path)
        with pytest.raises(StorageError) as caught, made as temporary:
            write(temporary if whole == "file" else temporary / "a")
        assert str(caught.value).startswith(f"{path}: expected room to write, found a full disk; what was finished")
        assert list(tmp_path.iterdir()) == []
    finally:
        subprocess.run(["umount", "--lazy", tmp_path], check=True)


def test_a_limit_on_the_size_of_files_is_named(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(StorageError, match="found a limit on the size of files"):
            write_text(tmp_path / "a", "a" * 2000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []
