"""Runs of the real TRL on one process and on two, whose every batch ``toy.py`` compares with plain code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from .toy import CASES, make_model

pytestmark = pytest.mark.longer
TOY = Path(__file__).with_name("toy.py")
# Advantages are about 1. TRL pads rows and computes entropies in float32; the plain code runs each row alone and takes
# float64 from float32 logits. The narrow range of entropies enlarges the difference; the largest measured is 7e-6.
TOLERANCE = 3e-5
LAUNCHERS = {1: [], 2: ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]}


@pytest.fixture(scope="module", params=LAUNCHERS, ids=lambda count: f"processes={count}")
def runs(request, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, Path]:
    """All cases, trained; how many processes, and the folder of their results."""
    out = tmp_path_factory.mktemp("runs")
    make_model(out / "model")
    command = [sys.executable, *LAUNCHERS[request.param], str(TOY), str(out), *CASES]
    env = os.environ | {"TRL_EXPERIMENTAL_SILENCE": "1", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return request.param, out


def result(runs: tuple[int, Path], case: str) -> dict:
    return json.loads((runs[1] / f"{case}.json").read_text())


@pytest.mark.parametrize("case", CASES)
def test_every_batch_has_the_advantages_of_the_plain_code(runs, case):
    found = result(runs, case)
    settings = CASES[case]
    assert found["processes"] == runs[0]
    # A generation batch is used num_iterations times, in steps_per_generation parts of gradient_accumulation_steps.
    every = settings.get("num_iterations", 1) * settings.get("steps_per_generation", 2)
    batches = settings.get("max_steps", 2) * settings.get("gradient_accumulation_steps", 2) // every
    assert len(found["differences"]) == batches * runs[0]
    assert max(found["differences"]) < TOLERANCE
    assert found["moved"] > 0.05


def test_steps_are_counted_over_all_processes(runs):
    found = result(runs, "grpo")
    logged = [entry["empg/steps"] for entry in found["log"] if "empg/steps" in entry]
    assert logged == found["steps"] == [15 * runs[0]] * 2


@pytest.mark.parametrize("case", ["beta", "lora_beta"])
def test_the_reference_takes_part(runs, case):
    log = [entry["kl"] for entry in result(runs, case)["log"] if "kl" in entry]
    assert log[0] == pytest.approx(0.0, abs=1e-6)
    assert log[-1] > 1e-6


def test_groups_with_equal_rewards_are_dropped(runs):
    kept = [entry["empg/equal_reward_share"] for entry in result(runs, "dapo")["log"] if "loss" in entry]
    dropped = [entry["empg/equal_reward_share"] for entry in result(runs, "drop")["log"] if "loss" in entry]
    assert max(kept) > 0
    assert dropped == [0.0] * len(kept)


def test_evaluation_leaves_training_alone(runs):
    """Evaluation draws random numbers, so later batches differ; the first is the same."""
    found, plain = result(runs, "evaluation"), result(runs, "grpo")
    assert len([entry for entry in found["log"] if "eval_reward" in entry]) == 2
    first, other = (next(e for e in r["log"] if "loss" in e) for r in (found, plain))
    assert first["loss"] == other["loss"]
    assert first["grad_norm"] == other["grad_norm"]


@pytest.mark.parametrize("case", ["saved", "saved_lora"])
def test_a_resumed_run_ends_with_the_same_bits(runs, case):
    whole, resumed = (torch.load(runs[1] / f"{name}.pt") for name in (case, f"{case}_resumed"))
    assert set(whole) == set(resumed)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    if case == "saved":
        plain = torch.load(runs[1] / "whole.pt")
        assert all(torch.equal(whole[name], plain[name]) for name in whole)
