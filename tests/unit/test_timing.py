"""A stage's cost is that of all processes that worked on it, the killed ones included."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from empg import timing
from empg.files import write_json
from empg.pipeline import times
from empg.timing import FOLDER, Clock

BUSY = """
import sys, time
from pathlib import Path
from empg import timing
timing.SECONDS = 0.05
clock = timing.Clock(Path(sys.argv[1]), sys.argv[2])
recorded = 0.0
while recorded < 0.5:
    sum(range(100_000))
    recorded = (timing._read(clock._file) or {"cpu_seconds": 0.0})["cpu_seconds"]
print("busy", flush=True)
time.sleep(60)
"""


def killed(out: Path, digest: str) -> None:
    """A process that has used at least half a CPU second and recorded it, killed without warning."""
    with subprocess.Popen([sys.executable, "-c", BUSY, str(out), digest], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"busy\n"
        os.kill(process.pid, signal.SIGKILL)


def test_a_killed_process_counts(tmp_path: Path) -> None:
    for _ in range(2):
        killed(tmp_path, "this")
    clock = Clock(tmp_path, "this")
    clock.stop()
    total = clock.total()
    assert total["processes"] == 3
    assert 1.0 < total["cpu_seconds"] < 20
    assert total["startup_seconds"] > 0
    clock.forget()
    assert not (tmp_path / FOLDER).exists()


def test_the_highest_peak_of_all_processes_counts(tmp_path: Path) -> None:
    """One that was killed had taken 500 MB more than this one ever will."""
    fat = BUSY.replace("print(", "taken = bytearray(b'x') * 500_000_000; clock.write(); print(")
    with subprocess.Popen([sys.executable, "-c", fat, str(tmp_path), "this"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"busy\n"
        process.kill()
    clock = Clock(tmp_path, "this")
    clock.stop()
    assert clock.total()["processes"] == 2
    assert 500e6 < clock.total()[timing.PEAK] < 5e9


def test_peak_memory_is_that_of_this_process_or_of_one_that_it_started() -> None:
    show = "from empg import timing; print(timing.peak_memory())"
    measured = f"taken = bytearray(b'x') * 200_000_000; del taken; {show}"
    spawned = f"import subprocess, sys; subprocess.check_output([sys.executable, '-c', {measured!r}]); {show}"
    for program in (measured, spawned):
        printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
        assert 200e6 < int(printed) < 600e6


def test_a_process_that_worked_on_other_results_does_not_count(tmp_path: Path) -> None:
    killed(tmp_path, "other settings")
    clock = Clock(tmp_path, "this")
    clock.stop()
    assert clock.total()["processes"] == 1
    assert clock.total()["cpu_seconds"] < 0.5


@pytest.mark.parametrize("damage", ["", "{", "[]", json.dumps({"digest": "this"})])
def test_a_damaged_record_is_passed_over(tmp_path: Path, damage: str) -> None:
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / "x.json").write_text(damage)
    clock = Clock(tmp_path, "this")
    clock.stop()
    assert clock.total()["processes"] == 1


def test_a_record_that_cannot_be_written_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(timing, "write_json", full)
    clock = Clock(tmp_path, "this")
    clock.stop()
    assert clock.total()["processes"] == 1


def test_the_list_of_times_says_what_was_resumed(tmp_path: Path) -> None:
    for name, processes in (("whole", 1), ("cut", 3)):
        path = tmp_path / "results" / "s" / name / "timing.json"
        write_json(path, {"wall_seconds": 5.0, "cpu_seconds": 4.0, "processes": processes, timing.PEAK: 812_300_000})
    study = {"study": "s", "seeds": [1], "methods": {"grpo": {"advantage": "grpo"}}, "environments": {"rooms": {}}}
    write_json(tmp_path / "results" / "s" / "config" / "study.json", study)
    for data in ("rooms", "of_another_study"):
        write_json(tmp_path / "results" / "data" / f"{data}.timing.json", {"wall_seconds": 1.0})
    lines = times.table(tmp_path / "results" / "s").splitlines()
    assert sorted(line.split()[-2] for line in lines[1:-1] if line.endswith("whole")) == ["812"]
    assert sorted(line.split(maxsplit=3)[-1].split("/", 1)[-1] for line in lines[1:-1]) == [
        "cut  (resumed: 3 processes)",
        "rooms",
        "whole",
    ]
