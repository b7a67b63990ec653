"""Locks: who waits says so, and a file system without locks is refused."""

from __future__ import annotations

import errno
import fcntl
import threading

import pytest

from empg.errors import StorageError
from empg.locks import locked
from empg.pipeline import dvc
from empg.provenance import only_writer
from empg.tracking.database import create


def refuse(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Let the system answer locks as a file system without them does."""

    def flock(file: object, operation: int) -> None:
        raise OSError(number, "refused")

    monkeypatch.setattr(fcntl, "flock", flock)


@pytest.mark.parametrize("name", ["ENOLCK", "ENOSYS", "EOPNOTSUPP"])
def test_a_file_system_without_locks_is_refused(tmp_path, monkeypatch, name):
    refuse(monkeypatch, getattr(errno, name))
    for write in (only_writer(tmp_path), locked(tmp_path / "lock")):
        with pytest.raises(StorageError, match="expected a file system with locks") as error, write:
            pytest.fail("it may not be written")
        assert str(error.value).startswith(f"{tmp_path}: ")


def test_neither_data_nor_mlflow_are_made_without_locks(tmp_path, monkeypatch):
    refuse(monkeypatch, errno.ENOLCK)
    with pytest.raises(StorageError, match="expected a file system with locks"):
        create(tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data.yaml").write_text("data_sets: {rooms: {type: alfworld}}")
    with pytest.raises(StorageError, match="expected a file system with locks"):
        dvc.run("rooms", tmp_path / "data.yaml", tmp_path / "rooms.json")


def test_other_refusals_stay_what_they_are(tmp_path, monkeypatch):
    refuse(monkeypatch, errno.EIO)
    with pytest.raises(OSError, match="refused"), locked(tmp_path / "lock"):
        pytest.fail("it may not be written")


def test_who_waits_says_so(tmp_path, capsys):
    entered = []

    def enter() -> None:
        with locked(tmp_path / "lock", "waiting for the other"):
            entered.append(1)

    with locked(tmp_path / "lock"):
        second = threading.Thread(target=enter)
        second.start()
        second.join(0.3)
        assert not entered
    second.join(10)
    assert entered == [1]
    assert capsys.readouterr().err == "waiting for the other\n"
