"""EMPG in the real verl: found as a plug-in, its advantages in the V1 trainer and in verl's loss, and what is refused.

The trainer's queue of tensors is replaced by a dictionary; its own needs a Ray cluster.
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import verl  # the import that finds the plug-in
from hydra import compose, initialize_config_module
from omegaconf import DictConfig
from tensordict import TensorDict
from verl.trainer.ppo import core_algos
from verl.trainer.ppo.ray_trainer import compute_advantage
from verl.trainer.ppo.v1 import get_trainer_cls
from verl.utils import transferqueue_utils
from verl.utils.tensordict_utils import list_of_dict_to_tensordict

from empg.core.advantages import grpo
from empg.core.loss import policy_loss
from empg.core.modulation import modulate

# Two tasks with two sessions each; the first session of the second task is two conversations. A row of padding, as
# verl adds. The queue has the rows in another order.
ROWS = {
    "a_0_0": (1.0, [1, 1, 0, 1, 1, 1]),
    "a_1_0": (0.0, [1, 0, 0, 1]),
    "b_0_0": (0.0, [1, 1]),
    "b_0_1": (0.0, [1, 0, 1, 1]),
    "b_1_0": (1.0, [1, 1, 1]),
    "pad_0_0": (0.0, [0]),
}
STEPS = [("a_0_0", 0, 2), ("a_0_0", 3, 6), ("a_1_0", 0, 1), ("a_1_0", 3, 4), ("b_0_0", 0, 2)]
STEPS += [("b_0_1", 0, 1), ("b_0_1", 2, 4), ("b_1_0", 0, 3)]
TRAJECTORY = [0, 0, 1, 1, 2, 2, 2, 3]
ORDER = ["b_0_1", "a_1_0", "pad_0_0", "b_1_0", "b_0_0", "a_0_0"]


class Batch(NamedTuple):
    """What the trainer asks of verl's batches."""

    keys: list[str]
    partition_id: str = "train"

    def __len__(self) -> int:
        return len(self.keys)


class Queue:
    """The rows of a batch by key and field."""

    def __init__(self) -> None:
        draw = torch.Generator().manual_seed(3)
        self.rows: dict[str, dict[str, Any]] = {}
        for key, (reward, mask) in ROWS.items():
            scores = torch.zeros(len(mask))
            scores[-1] = reward
            self.rows[key] = {
                "uid": key.partition("_")[0],
                "response_mask": torch.tensor(mask),
                "rm_scores": scores,
                "old_log_probs": -torch.rand(len(mask), generator=draw),
                "entropy": torch.rand(len(mask), generator=draw),
            }

    def kv_batch_get(self, keys: list[str], partition_id: str, select_fields: list[str]) -> TensorDict:
        rows = [{name: self.rows[key][name] for name in select_fields if name in self.rows[key]} for key in keys]
        return list_of_dict_to_tensordict(rows)

    def kv_batch_put(self, keys: list[str], partition_id: str, fields: TensorDict) -> Batch:
        for name in fields.keys():  # noqa: SIM118 - a TensorDict's iterator goes over its rows
            for key, value in zip(keys, fields[name].unbind(), strict=True):
                self.rows[key][name] = value
        return Batch(keys)


def config(*overrides: str) -> DictConfig:
    with initialize_config_module("verl.trainer.config", version_base=None):
        return compose("ppo_trainer", overrides=["algorithm.adv_estimator=empg", *overrides])


def trainer(*overrides: str) -> Any:
    return get_trainer_cls("sync")(config=config(*overrides))


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch) -> Queue:
    queue = Queue()
    monkeypatch.setattr(transferqueue_utils, "tq", queue)
    monkeypatch.setattr("verl.trainer.ppo.v1.trainer_base.tq", queue)
    return queue


def expected(queue: Queue, **options: float) -> dict[str, torch.Tensor]:
    """The advantages of each row, step by step from the plain function."""
    outcome = grpo(torch.tensor([1.0, 0.0, 0.0, 1.0], dtype=torch.float64), torch.tensor([0, 0, 1, 1]))
    entropy = torch.stack([queue.rows[key]["entropy"][first:end].mean() for key, first, end in STEPS])
    modulated = modulate(outcome, entropy, torch.tensor(TRAJECTORY), **options).advantage
    rows = {key: torch.zeros(len(mask)) for key, (_, mask) in ROWS.items()}
    for (key, first, end), advantage in zip(STEPS, modulated, strict=True):
        rows[key][first:end] = advantage
    return rows


@pytest.mark.parametrize(
    ("overrides", "options"),
    [
        ((), {}),
        (("+algorithm.empg.zeta=0.1", "+algorithm.empg.k=0.5", "+algorithm.empg.k_future=2"), (0.1, 0.5, 2.0)),
        (("+algorithm.empg.scale=False",), {"scale": False}),
    ],
)
def test_the_trainer_gives_every_step_its_modulated_advantage(queue, overrides, options):
    options = options if isinstance(options, dict) else dict(zip(("zeta", "k", "k_future"), options, strict=True))
    metrics: dict[str, Any] = {}
    out = trainer(*overrides)._compute_advantage(Batch(ORDER), metrics=metrics)
    assert out.keys == ORDER
    for key, advantage in expected(queue, **options).items():
        torch.testing.assert_close(queue.rows[key]["advantages"], advantage, rtol=0, atol=1e-6)
        assert queue.rows[key]["returns"].equal(queue.rows[key]["advantages"])
    assert metrics["empg/steps"] == len(STEPS)
    assert metrics["empg/trajectories"] == 4
    assert metrics["empg/step_entropy/max"] > metrics["empg/step_entropy/min"] > 0


def test_other_estimators_stay_as_they_are(queue):
    metrics: dict[str, Any] = {}
    trainer("algorithm.adv_estimator=grpo")._compute_advantage(Batch(ORDER), metrics=metrics)
    assert not metrics
    solved, failed = (queue.rows[key]["advantages"] for key in ("a_0_0", "a_1_0"))
    assert solved.tolist() == [solved[0], solved[0], 0, solved[0], solved[0], solved[0]]
    assert solved[0] == -failed[0] > 0


def test_the_loss_and_its_gradient_are_ours(queue):
    """verl's clipped loss takes an advantage for each token, and equals this package's."""
    trainer()._compute_advantage(Batch(ORDER), metrics={})
    fields = ["response_mask", "old_log_probs", "advantages"]
    batch = queue.kv_batch_get(ORDER, "train", fields).to_padded_tensor(0)
    mask, old, advantage = (batch[name] for name in fields)
    logprob = (old + 0.3 * torch.randn(old.shape, generator=torch.Generator().manual_seed(1))).requires_grad_()
    actor = config().actor_rollout_ref.actor
    actor.clip_ratio_low, actor.clip_ratio_high = 0.2, 0.28
    loss, _ = core_algos.get_policy_loss_fn("vanilla")(
        old, logprob, advantage, mask, "token-mean", verl_actor(actor), None
    )
    (gradient,) = torch.autograd.grad(loss, logprob)
    sampled = mask.bool()
    weight = torch.full((int(sampled.sum()),), 1 / int(sampled.sum()))
    ours = policy_loss(logprob[sampled], old[sampled], advantage[sampled], weight, clip_low=0.2, clip_high=0.28)
    (again,) = torch.autograd.grad(ours, logprob)
    torch.testing.assert_close(loss, ours, rtol=0, atol=1e-7)
    torch.testing.assert_close(gradient, again, rtol=0, atol=1e-7)
    assert gradient.abs().max() > 0.01


def verl_actor(settings: DictConfig) -> Any:
    from verl.utils.config import omega_conf_to_dataclass

    settings.ppo_micro_batch_size_per_gpu = 1
    settings.optim.lr_scheduler_type = "constant"
    return omega_conf_to_dataclass(settings)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("+algorithm.empg.gamma=1", "algorithm.empg: expected k, k_future, zeta, scale, found gamma"),
        ("+algorithm.empg.k=-1", "algorithm.empg.k: expected a finite number ≥ 0, found -1"),
        ("algorithm.norm_adv_by_std_in_grpo=False", "norm_adv_by_std_in_grpo: expected True"),
        ("algorithm.rollout_correction.bypass_mode=True", "leaves out the pass that gives the entropies"),
        ("algorithm.rollout_correction.rollout_rs=token_k1", "found token_k1: tokens that it rejects"),
    ],
)
def test_settings_that_cannot_work_are_refused_when_the_trainer_is_made(override, message):
    with pytest.raises(ValueError, match=message):
        trainer(override)


def test_a_trainer_without_entropies_is_an_error():
    """verl's other trainers call the estimator without them."""
    data = verl.DataProto.from_dict(
        tensors={"token_level_rewards": torch.ones(2, 3), "response_mask": torch.ones(2, 3, dtype=torch.int64)},
        non_tensors={"uid": np.array(["a", "a"], dtype=object)},
    )
    with pytest.raises(RuntimeError, match="adv_estimator=empg: expected the trainer V1"):
        compute_advantage(data, adv_estimator="empg", config=config().algorithm)


PROGRAM = """
import sys
{before}
import verl
from verl.trainer.ppo.core_algos import get_adv_estimator_fn
function = get_adv_estimator_fn("empg")
print(function.__module__)
try:
    function(None, None, None, None)
except RuntimeError as error:
    print(error)
"""


def run(before: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM.format(before=before)],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_verl_finds_the_plugin():
    assert run().stdout.splitlines()[0] == "empg.integrations.verl"


def test_without_the_plugin_verl_knows_no_such_estimator():
    done = run(VERL_USE_EXTERNAL_PLUGINS="none")
    assert done.returncode != 0
    assert "Unknown advantage estimator" in done.stderr


def test_a_plugin_that_cannot_load_is_an_error_and_not_silence():
    """A missing library is the estimator's error; a missing package fails at once where verl is told of it."""
    _, error = run(before="sys.modules['wrapt'] = None").stdout.splitlines()
    assert error == "algorithm.adv_estimator=empg: expected wrapt, found none; pip install 'empg[verl]'"
    _, error = run(before="import importlib.metadata").stdout.splitlines()
    assert "expected the trainer V1" in error
    done = run(before="sys.modules['empg'] = None", VERL_USE_EXTERNAL_MODULES="empg.integrations.verl")
    assert done.returncode != 0
    assert "ModuleNotFoundError" in done.stderr
