"""What is said of GPUs where there is none: the estimates in the documentation, and the check's first words."""

from __future__ import annotations

import torch

from empg.policy.policy import Policy

from ..conftest import ROOT, module_of


def test_the_page_has_the_estimates_of_memory():
    rows = list(module_of("tools/gpu_memory.py").rows())
    assert len(rows) == 12
    page = (ROOT / "docs/running-on-gpus.md").read_text(encoding="utf-8").splitlines()
    assert [line for line in page if line in rows] == rows


def test_the_check_says_that_there_is_no_gpu_and_runs_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert module_of("tools/gpu_check.py").main(["--out", str(tmp_path)]) == 1
    printed = capsys.readouterr().out
    assert "No GPU: torch finds none" in printed
    assert "Run with --cpu" in printed
    assert not list(tmp_path.iterdir())


def test_what_fails_and_what_does_not_run_is_said(tmp_path, monkeypatch, capsys):
    """The paths themselves are run by `make gpu-check ARGS=--cpu`, for minutes."""
    check = module_of("tools/gpu_check.py")

    def fails() -> str:
        raise RuntimeError("train: no memory")

    paths = [("a", lambda: "fine"), ("b", fails), ("c", check._not_run("needs a GPU"))]
    monkeypatch.setattr(check, "paths", lambda _: iter(paths))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert check.main(["--cpu", "--out", str(tmp_path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    (folder,) = tmp_path.iterdir()
    assert [line.split()[:2] for line in lines[-4:-1]] == [["holds", "a"], ["FAILS", "b"], ["NOT", "RUN"]]
    assert lines[-3].endswith("train: no memory")
    assert lines[-1] == f"{folder / 'check.json'}: 1 of 3 hold"
    assert Policy.load(folder / "model", "").network.width == 256
