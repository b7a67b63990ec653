"""Whole iterations of the loop against the same iterations written out term by term: whatever it wires, it wires right.

The loop is built from files as a run builds it. Two of its parts are others: plain gradient descent in place of the
optimisers, so that weights show every gradient, and a sampler that makes up rewards, as the policy never succeeds.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from empg.config import TrainRun, parse
from empg.environments import data as data_stage
from empg.environments.alfworld.registration import AlfworldData
from empg.environments.datasets import open_dataset
from empg.policy.policy import Policy
from empg.provenance import Record
from empg.rollouts.collect import difficulty_table, group_episodes, make_sampler
from empg.rollouts.table import to_table
from empg.schema import DIFFICULTY, STEPS, write_table
from empg.timing import Clock
from empg.training import rl
from empg.training.credit import credit_batch

TEMPERATURE, LEARNING_RATE, ITERATIONS, UPDATES = 0.7, 0.005, 4, 2
FACTORS = [1.0, 0.75, 0.5]  # decay 1 over four iterations: 1 − iteration / 4
DATA = AlfworldData.model_validate({"sizes": {"train": 8, "valid_seen": 1, "valid_unseen": 1, "tune": 1}})
METHOD = {
    "advantage": "grpo",
    "modulation": "empg",
    "zeta": 0.5,
    "kl_coef": 0.5,
    "clip_low": 0.1,
    "clip_high": 0.2,
    "aggregation": "token-mean",
}


def config(**method: object) -> TrainRun:
    value = {
        "environment": "alfworld",
        "data": DATA.model_dump(),
        "max_steps": 3,
        "system": "",
        "interface": {},
        "policy": {"type": "tiny"},
        "sampling": {"temperature": TEMPERATURE, "max_response": 10, "max_context": 512},
        "train": {
            "iterations": ITERATIONS,
            "groups": 3,
            "group_size": 3,
            "updates": UPDATES,
            "decay": 1.0,
            "micro_batch_tokens": 200,
        },
        "seed": 0,
        "method_name": "m",
        "method": METHOD | method,
    }
    return parse(TrainRun, value, "test")


class Rewarded:
    """Plays with a real sampler; every third trajectory is a success, another one each time."""

    def __init__(self, sampler) -> None:
        self.sampler, self.calls = sampler, 0

    def play(self, episodes):
        trajectories = self.sampler.play(episodes)
        for number, trajectory in enumerate(trajectories):
            trajectory.reward = float((number + number // 3 + self.calls) % 3 == 0)
        self.calls += 1
        return trajectories


class Recorded:
    """Batches that remember what they gave."""

    def __init__(self, batches) -> None:
        self.batches, self.given = batches, []

    def collect(self, iteration):
        self.given.append(self.batches.collect(iteration))
        return self.given[-1]


class Descent:
    """Plain gradient descent, with the loop's learning-rate factor."""

    def __init__(self, network) -> None:
        self.parameters = list(network.parameters())

    def zero_grad(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self, factor: float) -> float:
        for parameter in self.parameters:
            parameter.sub_(parameter.grad, alpha=LEARNING_RATE * factor)
        return 1.0


@pytest.fixture(scope="module")
def root(make_policy, tmp_path_factory):
    """A data set, a policy that speaks, and its rollouts."""
    root = tmp_path_factory.mktemp("iteration")
    data_stage.run(DATA, root / "data")
    (root / "model").mkdir()
    make_policy("qwen2").save(root / "model")
    (root / "rollouts").mkdir()
    chosen = config()
    dataset = open_dataset(DATA, root / "data", chosen.interface)
    policy = Policy.load(root / "model", "")
    sampler = Rewarded(make_sampler(policy, chosen.sampling, dataset, chosen.max_steps))
    played = sampler.play(group_episodes(dataset.tasks("train")[:4], 3, 0, 0, "rollouts"))
    write_table(to_table(played, iteration=0, policy_version=0), STEPS, root / "rollouts" / "rollouts.parquet")
    write_table(difficulty_table(played), DIFFICULTY, root / "rollouts" / "difficulty.parquet")
    return root


def build(root, out, **method: object) -> rl.Loop:
    loop = rl.build(
        config(**method), root / "data", root / "model", root / "rollouts", Record(out, "the test's", Clock(out, ""))
    )
    loop.optimiser = Descent(loop.policy.network)
    loop.batches = Recorded(replace(loop.batches, sampler=Rewarded(loop.batches.sampler)))
    return loop


def log_probabilities(network, trajectory):
    """Of every token of the vocabulary at each sampled token, ``[tokens, vocabulary]``; and the sampled tokens."""
    parts = [part for s in trajectory.steps for part in (s.prompt_ids, s.response_ids)]
    ids = torch.from_numpy(np.concatenate(parts).astype(np.int64))
    sampled = torch.from_numpy(np.concatenate([np.full(len(part), i % 2 == 1) for i, part in enumerate(parts)]))
    hidden = network.states(ids)
    logits = (hidden @ network.output_weight.T).double() / TEMPERATURE
    return logits[:-1].log_softmax(-1)[sampled[1:]], ids[sampled]


def minibatch_loss(network, reference, trajectories, advantages, chosen):
    """The loss over the sampled tokens of these trajectories, each token once; and the mean divergence."""
    losses, divergences = [], []
    for trajectory, advantage in zip(trajectories, advantages, strict=True):
        log_p, ids = log_probabilities(network, trajectory)
        with torch.no_grad():
            ref_log_p, _ = log_probabilities(reference, trajectory)
        new, ref = (values.gather(1, ids[:, None])[:, 0] for values in (log_p, ref_log_p))
        old = torch.from_numpy(np.concatenate([s.logprobs for s in trajectory.steps])).double()
        ratio = (new - old).exp()
        bounded = ratio.clamp(1 - chosen.clip_low, 1 + chosen.clip_high)
        divergence = (ref - new).exp() - (ref - new) - 1
        losses.append(-torch.minimum(ratio * advantage, bounded * advantage) + chosen.kl_coef * divergence)
        divergences.append(divergence.detach())
    return torch.cat(losses).mean(), torch.cat(divergences).mean().item()


def by_hand(root, batches, chosen):
    """The weights after these batches, and the mean divergence of each iteration."""
    network, reference = (Policy.load(root / "model", "").network for _ in range(2))
    divergences = []
    for factor, (trajectories, _) in zip(FACTORS, batches, strict=True):
        tokens = [sum(len(s.response_ids) for s in t.steps) for t in trajectories]
        credited = credit_batch(trajectories, chosen, 10).token_advantage.double().split(tokens)
        half = len(trajectories) // UPDATES
        of_parts = []
        for part in (slice(0, half), slice(half, None)):
            loss, divergence = minibatch_loss(network, reference, trajectories[part], credited[part], chosen)
            gradients = torch.autograd.grad(loss, list(network.parameters()))
            with torch.no_grad():
                for parameter, gradient in zip(network.parameters(), gradients, strict=True):
                    parameter.sub_(gradient, alpha=LEARNING_RATE * factor)
            of_parts.append(divergence)
        divergences.append(np.mean(of_parts))
    return dict(network.named_parameters()), divergences


def test_three_iterations_are_those_written_out(root, tmp_path):
    """Killed by: the policy as its own reference, another temperature, a minibatch left out, a learning rate that does
    not fall or falls at another time, gradients that are left from the update before."""
    loop = build(root, tmp_path)
    start = Policy.load(root / "model", "").network
    metrics = [loop.iterate() for _ in FACTORS]
    expected, divergences = by_hand(root, loop.batches.given, loop.config.method)
    for name, parameter in loop.policy.network.named_parameters():
        moved = expected[name].detach() - start.get_parameter(name).detach()
        found = parameter.detach() - start.get_parameter(name).detach()
        scale = moved.abs().max().item()
        assert scale > 1e-4, name
        torch.testing.assert_close(found, moved, rtol=0, atol=2e-3 * scale, msg=lambda m, n=name: f"{n}: {m}")
    assert [m["kl"] for m in metrics] == pytest.approx(divergences, rel=1e-3)
    assert divergences[-1] > 1e-3
    assert loop.progress.updates == UPDATES * len(FACTORS)
    assert [row["iteration"] for row in loop.progress.history] == [0, 1, 2]


def test_the_reference_stays_the_warm_start(root, tmp_path):
    loop = build(root, tmp_path)
    loop.iterate()
    warm = Policy.load(root / "model", "").network
    for name, parameter in loop.reference.named_parameters():
        assert torch.equal(parameter, warm.get_parameter(name)), name
        assert not torch.equal(parameter, loop.policy.network.get_parameter(name)), name


def test_without_a_penalty_there_is_no_reference(root, tmp_path):
    loop = build(root, tmp_path, kl_coef=0.0)
    assert loop.reference is None
    assert loop.iterate()["kl"] is None


@pytest.mark.parametrize("entropy", ["shannon", "renyi2"])
def test_the_credit_is_of_the_entropy_that_the_method_names(root, tmp_path, entropy):
    loop = build(root, tmp_path, entropy=entropy)
    (trajectories, _) = loop.collect(0)
    expected = []
    with torch.no_grad():
        for trajectory in trajectories:
            log_p, _ = log_probabilities(loop.policy.network, trajectory)
            p = log_p.exp()
            values = -(p * log_p).sum(-1) if entropy == "shannon" else -p.square().sum(-1).log()
            expected += [v.mean() for v in values.split([len(s.response_ids) for s in trajectory.steps])]
    np.testing.assert_allclose(loop.credit(trajectories).step_entropy, expected, atol=1e-5)


def test_the_next_batch_is_sampled_by_the_updated_policy(root, tmp_path):
    """Before its first update a batch is on-policy: its log-probabilities are those of the weights at that time."""
    loop = build(root, tmp_path)
    loop.iterate()
    (trajectories, _) = loop.collect(1)
    with torch.no_grad():
        for trajectory in trajectories:
            log_p, ids = log_probabilities(loop.policy.network, trajectory)
            recorded = np.concatenate([s.logprobs for s in trajectory.steps])
            np.testing.assert_allclose(log_p.gather(1, ids[:, None])[:, 0], recorded, atol=1e-4)
