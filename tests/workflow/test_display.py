"""What people see while Snakemake runs: live lines in a terminal, plain lines elsewhere, errors in words."""

from __future__ import annotations

import fcntl
import logging
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import time
from io import StringIO
from types import SimpleNamespace

import pytest
from rich.console import Console
from snakemake_interface_logger_plugins.common import LogEvent

from empg.errors import EmpgError
from snakemake_logger_plugin_empg import LogHandler, terminal, words
from snakemake_logger_plugin_empg.plain import Plain
from snakemake_logger_plugin_empg.study import Job, Study

pytestmark = pytest.mark.xdist_group("plans")

CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
# Runs before the code that replaces ``empg``: one training takes 3 s and reports progress; one run fails.
SLOW = """
import os, sys, time
from pathlib import Path
from empg.progress import Progress, write_to
write_to(Path(sys.argv[sys.argv.index("--log") + 1]), sys.argv[1])
if sys.argv[1] == "train":
    out = sys.argv[sys.argv.index("--out") + 1]
    for i in range(5 * ("/rooms/grpo/" in out)):
        print(Progress("iterations", 30 + 10 * i, 100, i, 9.0), file=sys.stderr, flush=True)
        time.sleep(0.6)
    if os.environ.get("FAIL", "nothing") in out:
        sys.exit("empg: error: iteration 3: loss nan")
"""


@pytest.fixture
def slow(mimicked, fresh):
    """A project of the test's own whose jobs compute nothing but take some time."""
    code = (mimicked / "src/empg/__main__.py").read_text()
    (fresh.root / "src/empg/__main__.py").write_text(SLOW + code)
    return fresh


def in_terminal(project, columns, *arguments, **environment):
    """The output of ``snakemake`` in a terminal with this many columns, and its exit code."""
    main, side = pty.openpty()
    fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    command = [sys.executable, "-m", "snakemake", *arguments]
    variables = project.env | {"TERM": "xterm"} | environment
    variables.pop("COLUMNS", None)
    with subprocess.Popen(command, cwd=project.root, env=variables, stdin=side, stdout=side, stderr=side) as process:
        os.close(side)
        output = b""
        while True:
            try:
                part = os.read(main, 65536)
            except OSError:  # Linux: the other side is closed
                break
            if not part:
                break
            output += part
    os.close(main)
    return output.decode(), process.returncode


# --------------------------------------------------------------------------------------------------------- whole runs
@pytest.mark.parametrize("columns", [80, 40])
def test_a_terminal_shows_live_lines(slow, columns):
    output, code = in_terminal(slow, columns, "--cores", "2")
    assert code == 0, output
    lines = [line.rstrip() for line in CONTROL.sub("", output).replace("\r", "\n").splitlines()]
    live = {line for line in lines if line.startswith("Train") and "%" in line}
    patterns = {
        80: r"Train grpo, seed 1 \(rooms\) +[━╸╺]+ +[3-7]0% +0:0\d left",
        40: r"Train grpo, seed 1 \(rooms\) +[3-7]0% +0:0\d",
    }
    assert any(re.fullmatch(patterns[columns], line) for line in live), live
    assert max(map(len, live)) <= columns
    assert any(re.match(r"1?\d of 19 jobs done, 0:\d\d", line) for line in lines)
    assert any(re.fullmatch(r"Train grpo, seed 1 \(rooms\): done in 0:0\d", line) for line in lines)
    assert "Report: results/mini/report/report.html" in lines
    assert re.fullmatch(r"Done: 19 jobs in \d:\d\d\.", [line for line in lines if line][-1])
    assert "Reason" not in output
    assert output.rindex("\x1b[?25h") > output.rindex("\x1b[?25l"), "the cursor stays hidden"


def test_a_pipe_shows_plain_lines(slow):
    result = slow.snakemake("--cores", "2")
    lines = result.stderr.splitlines()
    assert result.returncode == 0
    assert not CONTROL.search(result.stderr)
    assert len(lines) == 2 + 2 * 19 + 2  # the profile and the memory; each job; the report and the end
    assert re.fullmatch(r"Memory: at most about \d\.\d GB for 2 jobs side by side, the largest job .*", lines[1])
    begin = lines.index("Train grpo, seed 1 (rooms): started")
    end = next(i for i, line in enumerate(lines) if line.startswith("Train grpo, seed 1 (rooms): done in 0:0"))
    assert begin < end
    assert re.search(r" \(\d+ of 19 jobs done\)$", lines[end])
    again = slow.snakemake("--cores", "2")
    assert again.stderr.splitlines()[1:] == ["Nothing to be done (all requested files are present and up to date)."]


@pytest.mark.parametrize("tty", [False, True], ids=["pipe", "terminal"])
def test_a_failure_shows_the_jobs_message(slow, tty):
    fail = {"FAIL": "/rooms/grpo_empg/"}
    if tty:
        output, code = in_terminal(slow, 80, "--cores", "2", **fail)
    else:
        command = [sys.executable, "-m", "snakemake", "--cores", "2"]
        done = subprocess.run(command, cwd=slow.root, env=slow.env | fail, capture_output=True, text=True, check=False)
        output, code = done.stderr, done.returncode
    assert code == 1
    text = [line.strip() for line in CONTROL.sub("", output).replace("\r", "\n").splitlines()]
    lines = [line for line in text if line and not re.search(r"\S  +\S|━", line)]  # without the live ones
    at = next(i for i, line in enumerate(lines) if line.startswith("Train grpo_empg, seed 1 (rooms): failed after 0:0"))
    assert "CalledProcessError" not in output
    log = "results/mini/logs/rooms/grpo_empg/seed1/train.log"
    assert lines[at + 1 : at + 3] == ["empg: error: iteration 3: loss nan", f"Log: {log}"]
    assert re.fullmatch(r"Stopped after 0:\d\d: 15 of 19 jobs done, 1 failed\.", lines[-3])
    assert lines[-2:] == [
        "failed: Train grpo_empg, seed 1 (rooms)",
        "Run the same command again to continue from here.",
    ]


def test_a_dry_run_lists_jobs_with_their_reasons(planned):
    planned.edit("config/config.yaml", lambda study: study["environments"]["rooms"]["train"].update(iterations=3))
    result = planned.snakemake("-n")
    lines = result.stdout.splitlines()
    assert result.returncode == 0
    changed = "results/mini/config/rooms/grpo/seed1/train.json"
    assert f"Train grpo, seed 1 (rooms): changed: {changed}" in lines
    assert "Evaluate grpo, seed 1 (rooms): an earlier job changes its input" in lines
    assert lines[-1] == f"Dry run: {len(lines) - 1} jobs to run."


@pytest.mark.parametrize(
    ("arguments", "there"),
    [
        (("--quiet",), ""),
        (("--quiet", "all"), ""),
        (("--verbose",), "Reason: Missing output files"),
        (
            ("--printshellcmds",),
            "    python -m empg track --log results/logs/mlflow_database.log --init --results results",
        ),
    ],
)
def test_options_of_snakemakes_own(slow, arguments, there):
    result = slow.snakemake("--cores", "2", "results/mlflow.db", *arguments)
    assert result.returncode == 0
    assert there in result.stderr
    assert ("Create the MLflow database" in result.stderr) is bool(there)


def test_a_mistake_in_the_workflow_is_shown(fresh):
    fresh.append("Snakefile", '\nrule broken:\n    output: "a"\n    input: "nowhere"\n')
    result = fresh.snakemake("--cores", "1", "a")
    assert result.returncode == 1
    assert "MissingInputException" in result.stderr
    assert "nowhere" in result.stderr


def test_a_display_that_fails_does_not_stop_the_run(slow):
    file = slow.root / "src/snakemake_logger_plugin_empg/terminal.py"
    drawing = "def table(study: Study, now: float, width: int, height: int) -> Table:\n"
    text = file.read_text()
    assert drawing in text
    file.write_text(text.replace(drawing, f"{drawing}    if study.done > 2:\n        raise ValueError('no picture')\n"))
    output, code = in_terminal(slow, 80, "--cores", "2")
    assert code == 0, output
    assert "Traceback" not in output
    assert "Write the report: started" in output
    assert "Done: 19 jobs in " in output


# ------------------------------------------------------------------------------------------------------ single events
SETTINGS = SimpleNamespace(
    dryrun=False, stdout=False, nocolor=False, quiet=set(), verbose=False, debug_dag=False, show_failed_logs=True
)


def record(message=None, level=logging.INFO, created=100.0, **fields):
    found = logging.LogRecord("snakemake", level, "", 0, message, None, None)
    vars(found).update(fields, created=created)
    return found


def began(jobid, rule="train", message="Train grpo, seed 1 (rooms).", log="train.log", **fields):
    own = {"rule_name": rule, "rule_msg": message, "wildcards": {}, "log": [log], "reason": "", "shellcmd": "x"}
    return record(event=LogEvent.JOB_INFO, jobid=jobid, **own | fields)


@pytest.fixture
def plain():
    return Plain(Study(), StringIO(), SETTINGS)


def test_a_job_that_is_tried_again_does_not_count_as_failed(plain, tmp_path):
    log = tmp_path / "train.log"
    log.write_text("empg: error: cut off\n")
    plain.handle(record("x", event=LogEvent.RUN_INFO, stats={"all": 1, "train": 1, "total": 2}))
    plain.handle(began(1, log=str(log)))
    plain.handle(record(event=LogEvent.JOB_ERROR, level=logging.ERROR, jobid=1, log=[str(log)], created=160.0))
    plain.handle(record("Trying to restart job 1."))
    plain.handle(began(1, log=str(log), created=161.0))
    plain.handle(record("Finished", event=LogEvent.JOB_FINISHED, job_id=1, created=172.0))
    plain.close()
    plain.close()
    lines = plain.stream.getvalue().splitlines()
    assert lines[:7] == [
        "Train grpo, seed 1 (rooms): started",
        "Train grpo, seed 1 (rooms): failed after 1:00",
        "    empg: error: cut off",
        f"    Log: {log}",
        "Trying to restart job 1.",
        "Train grpo, seed 1 (rooms): started",
        "Train grpo, seed 1 (rooms): done in 0:11 (1 of 1 jobs done)",
    ]
    assert len(lines) == 8
    assert lines[7].startswith("Done: 1 job in ")


def test_a_job_that_was_killed_shows_its_exit_status(plain, tmp_path):
    (tmp_path / "train.log").write_text("iterations: 1/2, 0:01 elapsed\n")
    plain.handle(began(1, shellcmd="python -m empg train"))
    ended = "RuleException:\nCommand 'set -euo pipefail;  {}' returned non-zero exit status {}."
    plain.handle(record(ended.format("python -m empg other", 1), level=logging.ERROR, event=LogEvent.ERROR))
    plain.handle(record(ended.format("python -m empg train", 137), level=logging.ERROR, event=LogEvent.ERROR))
    failure = {"log": [f"{tmp_path}/train.log"], "shellcmd": "python -m empg train", "created": 107.0}
    plain.handle(record(event=LogEvent.JOB_ERROR, level=logging.ERROR, jobid=1, **failure))
    assert plain.stream.getvalue().splitlines()[1:] == [
        "Train grpo, seed 1 (rooms): failed after 0:07 (exit status 137)",
        "    It wrote no message. It may have been killed, for example because memory ran out.",
        f"    Log: {tmp_path}/train.log",
    ]


def test_warnings_and_unknown_messages_pass(plain):
    plain.handle(record("Building DAG of jobs..."))
    plain.handle(record("Building DAG of jobs has a problem", level=logging.WARNING))
    plain.handle(record("Creating conda environment envs/cpu.yaml..."))
    plain.handle(record("None"))
    assert (
        plain.stream.getvalue() == "Building DAG of jobs has a problem\nCreating conda environment envs/cpu.yaml...\n"
    )


@pytest.mark.parametrize(
    ("log", "shown"),
    [
        (
            "tokens: 1/2, 0:01 elapsed\nempg: error: a: k: expected 1\nb: found 2\n",
            ["empg: error: a: k: expected 1", "b: found 2"],
        ),
        (
            "Traceback\n  line\nempg: error: train: an error in the program; the traceback is above\n",
            ["Traceback", "  line", "empg: error: train: an error in the program; the traceback is above"],
        ),
        (
            "tokens: 1/2, 0:01 elapsed\n",
            ["It wrote no message. It may have been killed, for example because memory ran out."],
        ),
        ("\n".join(map(str, range(50))), [*map(str, range(30, 50))]),
    ],
)
def test_the_error_in_a_log(tmp_path, log, shown):
    path = tmp_path / "a.log"
    path.write_text(log)
    assert words.error([str(path)], show=True) == [*shown, f"Log: {path}"]


def test_no_log_to_show(tmp_path):
    assert words.error([], show=True) == ["It has no log."]
    assert words.error([f"{tmp_path}/none.log"], show=True) == ["It wrote no log.", f"Log: {tmp_path}/none.log"]


def test_every_expected_error_of_a_stage_begins_as_the_display_looks_for(capsys, monkeypatch):
    from empg import cli

    def stage(args):
        raise EmpgError("what is wrong")

    monkeypatch.setattr(cli, "_times", stage)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    cli.main(["times", "--results", "x"])
    assert capsys.readouterr().err.startswith("empg: error:")


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("Missing output files: a, b; Input files updated by another job: c", "not done yet"),
        ("Input files updated by another job: c", "an earlier job changes its input"),
        ("Updated input files: a, b; Code has changed since last execution", "changed: a, b, its rule has changed"),
        ("Something new", "Something new"),
    ],
)
def test_reasons(reason, said):
    assert words.reason(reason) == said


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (599, "9:59"), (3662, "61 min"), (9000, "2.5 h")])
def test_rough_times(seconds, text):
    assert words.roughly(seconds) == text


# --------------------------------------------------------------------------------------------------------- live lines
def drawn(study, width, now, height=24):
    console = Console(width=width, height=height, file=StringIO(), color_system=None, force_terminal=True)
    console.print(terminal.table(study, now, width, height))
    return [CONTROL.sub("", line).rstrip() for line in console.file.getvalue().splitlines()]


@pytest.fixture
def study(tmp_path):
    """One job is done, two run, two wait. The first running job has reported its time left, the second nothing yet."""
    now = time.time()
    study = Study()
    study.plan({"all": 1, "data": 1, "train": 2, "evaluate": 1, "report": 1, "total": 6}, now - 100)
    study.start(Job(0, "data", "Make the data set (rooms)", None, now - 100))
    study.finish(0, now - 90)
    for i, method in enumerate(("grpo", "grpo_empg_with_a_long_name"), start=1):
        study.start(Job(i, "train", f"Train {method}, seed 1 (alfworld)", tmp_path / f"{i}.log", now - 60))
    (tmp_path / "1.log").write_text("iterations: 40/100, 1:00 elapsed, 1:30 left\n")
    (tmp_path / "2.log").write_text("")
    return study


def test_live_lines_of_80_columns(study):
    one, two, whole = drawn(study, 80, time.time())
    assert re.fullmatch(r"Train grpo, seed 1 \(alfworld\) +[━╸╺]+ +40%  +1:30 left", one)
    assert re.fullmatch(r"Train grpo_empg_with_a_long_na… \(alfworld\) +1:00 so far", two)
    assert re.fullmatch(r"1 of 5 jobs done, 1:40 elapsed +[━╸╺]+ +20% +about \d:\d\d left", whole)
    assert max(map(len, (one, two, whole))) <= 80


def test_live_lines_of_40_columns(study):
    one, two, whole = drawn(study, 40, time.time())
    assert re.fullmatch(r"Train grpo, se… \(alfworld\) +40% +1:30", one)
    assert re.fullmatch(r"Train grpo_emp… \(alfworld\) +\+1:00", two)
    assert re.fullmatch(r"1 of 5 jobs done, 1:40 .*… +20% +~\d:\d\d", whole)
    assert max(map(len, (one, two, whole))) <= 40


def test_live_lines_of_120_columns_have_numbers(study):
    assert re.search(r"40/100 iterations +━", drawn(study, 120, time.time())[0])


def test_more_jobs_than_the_terminal_has_lines(study):
    for i in range(10, 90):
        study.start(Job(i, "train", f"Train {i}", None, time.time()))
    lines = drawn(study, 80, time.time(), height=10)
    assert len(lines) == 8
    assert lines[-2] == "and 76 more jobs"


def test_the_log_of_an_earlier_run_does_not_count(study, tmp_path):
    log = tmp_path / "1.log"
    os.utime(log, (0, 0))
    assert study.running[1].progress() is None
    log.unlink()
    assert study.running[1].waiting
    assert "waiting" in drawn(study, 80, time.time())[0]


def test_the_time_left_of_the_study(study, tmp_path):
    now = time.time()
    # train: 60 + 90 = 150 s, as typical. Left: 90 s and 90 s of training and 25 s of evaluation on two workers; then
    # 25 s for the report alone.
    assert study.left(now) == pytest.approx((90 + 90 + 25) / 2 + 25, abs=1)
    study.finish(1, now)  # after 60 s: everything else is taken to be as much faster
    (tmp_path / "1.log").unlink()
    assert study.left(now) == pytest.approx(max(0, 10 / 2) + 10, abs=1)
    empty = Study()
    empty.plan({"train": 3}, now)
    assert empty.left(now) is None


def test_the_handler_chooses_its_display():
    def handler(**changes):
        return LogHandler(SimpleNamespace(**vars(SETTINGS) | changes), None)._display

    assert type(handler()) is Plain
    assert type(handler(verbose=True)).__name__ == "ColorizingTextHandler"
    assert type(handler(quiet={"host"})) is Plain
    assert type(handler(quiet={"host", "rules"})).__name__ == "ColorizingTextHandler"


class Broken(Plain):
    """A display that cannot draw."""

    def handle(self, record):
        raise ValueError("no picture")

    def close(self):
        raise ValueError("no picture")


def test_plain_lines_take_over_from_a_broken_display(capsys):
    handler = LogHandler(SETTINGS, None)
    handler._display = Broken(handler._study, StringIO(), SETTINGS)
    handler.emit(record("x", event=LogEvent.RUN_INFO, stats={"train": 1, "total": 1}))
    handler.emit(began(1))
    handler._display = Broken(handler._study, StringIO(), SETTINGS)
    handler.close()
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "Train grpo, seed 1 (rooms): started"
    assert lines[1].endswith(": 0 of 1 jobs done, 0 failed.")
