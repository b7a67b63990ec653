"""The command line: exit codes, one message on stderr, help for everything, pinned threads."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest

from empg import cli
from empg.errors import ConfigError, DivergenceError

COMMANDS = (
    "data",
    "dvc",
    "warmstart",
    "rollouts",
    "train",
    "evaluate",
    "decisiveness",
    "decisiveness-report",
    "report",
    "testbed",
    "testbed-report",
    "track",
    "serve-retriever",
    "fetch-model",
    "schema",
    "audit",
    "publish",
    "ui",
    "times",
    "fingerprint",
    "tune",
)


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.setattr(os, "environ", dict(os.environ))


def fails_with(monkeypatch, error):
    def stage(args):
        raise error

    monkeypatch.setattr(cli, "_times", stage)
    return cli.main(["times", "--results", "results/x"])


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ConfigError("config.yaml: k: expected a number"), 2, "config.yaml: k: expected a number"),
        (DivergenceError("iteration 3: loss nan"), 1, "iteration 3: loss nan"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (
            OSError(errno.ENOSPC, "No space left on device", "a/b"),
            1,
            "a/b: cannot be read or written: No space left on device",
        ),
    ],
)
def test_expected_failures_are_one_message(monkeypatch, capsys, error, code, message):
    assert fails_with(monkeypatch, error) == code
    assert capsys.readouterr().err == f"empg: error: {message}\n"


def test_an_unexpected_failure_shows_where_it_happened(monkeypatch, capsys):
    assert fails_with(monkeypatch, ZeroDivisionError("division by zero")) == 1
    error = capsys.readouterr().err
    assert "Traceback" in error
    assert error.endswith("empg: error: times: an error in the program; the traceback is above\n")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main([command, "--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert f"usage: empg {command}" in text
    assert "Traceback" not in text


def test_the_list_of_commands_is_whole(capsys):
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    lines = capsys.readouterr().out.splitlines()
    assert tuple(line.split()[0] for line in lines if line.startswith("    ") and line[4] != " ") == COMMANDS


def test_wrong_arguments_are_the_users_mistake(capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["train", "--config", "x.json"])
    assert end.value.code == 2
    assert "the following arguments are required" in capsys.readouterr().err


def test_a_missing_configuration(capsys, tmp_path):
    arguments = ["--config", str(tmp_path / "none.json"), "--data", "d", "--model", "m", "--out", str(tmp_path / "out")]
    assert cli.main(["evaluate", *arguments]) == 2
    assert capsys.readouterr().err == f"empg: error: {tmp_path}/none.json: expected a JSON file, found none\n"
    assert not (tmp_path / "out").exists()


def test_threads_are_pinned_before_torch_is_there():
    code = (
        "import os, sys; from empg import cli; cli._times = lambda args: None;"
        "cli.main(['times', '--results', 'x']);"
        "print('torch' in sys.modules, {os.environ[name] for name in cli.THREAD_VARIABLES})"
    )
    environment = dict(os.environ) | {"OMP_NUM_THREADS": "7"}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False {'1'}"
