"""A log of a job, and its lines of progress: what a job writes is what the display reads."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from empg import progress
from empg.progress import Progress, clock


class Clock:
    """Seconds that a test sets."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time(monkeypatch):
    monkeypatch.setattr(progress.time, "monotonic", found := Clock())
    return found


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (7.4, "0:07"), (59.6, "1:00"), (963, "16:03"), (7500, "2:05:00"), (-3, "0:00")]
)
def test_clock(seconds, text):
    assert clock(seconds) == text


times = st.integers(0, 10**6).map(float)


@given(
    st.sampled_from(["tokens", "iterations"]), st.integers(0, 10**9), st.integers(0, 10**9), times, st.none() | times
)
def test_a_written_line_is_read_back(unit, done, total, elapsed, left):
    line = Progress(unit, done, total, elapsed, left)
    assert Progress.parse(f"{line}\n") == line


@pytest.mark.parametrize(
    "line", ["", "empg: error: 3/4", "iterations: 3/4", "see iterations: 3/4, 0:01 elapsed", "loss 3/4, 0:01 elapsed"]
)
def test_other_lines_are_no_progress(line):
    assert Progress.parse(line) is None


def test_the_first_line_comes_at_once_then_one_every_two_seconds(time, capsys):
    with progress.shown("iterations") as report:
        for seconds, done in ((3.0, 0), (4.9, 1), (5.0, 2), (6.0, 3), (7.5, 4)):
            time.now = 100.0 + seconds
            report(done, 4)
    assert capsys.readouterr().err.splitlines() == [
        "iterations: 0/4, 0:03 elapsed",
        "iterations: 2/4, 0:05 elapsed, 0:02 left",
        "iterations: 4/4, 0:08 elapsed",
    ]


def test_a_job_that_resumes_tells_the_time_left_by_its_own_speed(time, capsys):
    with progress.shown("iterations") as report:
        time.now += 10
        report(900, 1000)  # from a checkpoint: these took no time in this run
        time.now += 10
        report(910, 1000)
    assert capsys.readouterr().err.splitlines()[-1] == "iterations: 910/1000, 0:20 elapsed, 1:30 left"


def test_the_log_of_a_long_job_stays_small(time, capsys):
    seconds = 10 * 60 * 60
    with progress.shown("episodes") as report:
        for second in range(seconds + 1):
            time.now = 100.0 + second
            report(second, seconds)
    assert 100 < len(capsys.readouterr().err.splitlines()) < 800


def test_more_than_everything_is_everything(capsys):
    with progress.shown("tokens") as report:
        report(12, 10)
    assert capsys.readouterr().err == "tokens: 10/10, 0:00 elapsed\n"


def test_the_last_progress_of_a_log(tmp_path):
    log = tmp_path / "train.log"
    assert progress.last(log) is None
    log.write_text("a warning\n")
    assert progress.last(log) is None
    log.write_text(
        "x" * 100_000 + "\niterations: 1/9, 0:05 elapsed\niterations: 2/9, 0:07 elapsed\nanother warning\nite"
    )
    assert progress.last(log) == Progress("iterations", 2, 9, 7.0)


def test_a_log_keeps_the_lines_of_every_process(tmp_path):
    """Snakemake deletes the log before each start; the display reads what the last process says."""
    log = tmp_path / "logs" / "train.log"
    for name in ("first", "second"):
        log.unlink(missing_ok=True)
        command = ["empg", "times", "--log", log, "--results", tmp_path / name]
        ended = subprocess.run([sys.executable, "-m", *command], check=False, capture_output=True, text=True)
        assert (ended.returncode, ended.stderr) == (2, "")
    begin, first, again, second = log.read_text().splitlines()
    assert begin.startswith(progress.BEGIN)
    assert again.startswith(progress.BEGIN)
    assert ", empg times, process " in begin
    assert ("/first" in first, "/second" in second) == (True, True)
    assert progress.of_last_process([begin, first, again, second]) == [second]


def test_a_process_that_has_said_nothing_has_no_progress(tmp_path):
    log = tmp_path / "train.log"
    log.write_text(f"iterations: 7/9, 0:07 elapsed\n{progress.BEGIN}now ===\n")
    assert progress.last(log) is None
