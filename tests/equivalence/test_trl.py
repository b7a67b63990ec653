"""EMPGTrainer in the real TRL against the native trainer: one model, one batch of real episodes, one update.

Advantages and gradients agree up to float32 rounding. Two programs compute them: TRL pads rows, recomputes entropies
and multiplies by one matrix at a time; the native trainer packs rows, stacks matrices, and uses the entropies and
log-probabilities that its sampler recorded.

The outcome advantage is RLOO's, which both can compute alike: TRL's ``scale_rewards="none"`` gives R − mean, which
rewards times G / (G − 1) make RLOO's. The standard deviation of TRL's GRPO is another one (sample, ε = 1e-4).
"""

from __future__ import annotations

from itertools import product

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import GRPOConfig

from empg.config import Method
from empg.environments.alfworld.environment import AlfworldEnvironment
from empg.environments.alfworld.tasks import GeneratedGames
from empg.environments.base import Arena
from empg.integrations.trl import EMPGTrainer
from empg.policy.weights import name_map
from empg.rollouts.collect import group_episodes
from empg.rollouts.sampler import Sampler
from empg.training.credit import credit_batch
from empg.training.update import accumulate_gradients, token_batch

TEMPERATURE, GROUP = 0.9, 3
AGGREGATION = {"grpo": "seq-mean-token-mean", "dapo": "token-mean"}
# Advantages are about 1; measured differences are up to 1.3e-6. A gradient is compared in units of its largest element,
# 0.06 to 0.36, because processors sample other episodes: up to 1.8e-6 on an AMD EPYC, 3.8e-6 on an Intel Xeon.
ADVANTAGE_TOLERANCE, GRADIENT_TOLERANCE = 5e-6, 1e-5

# transformers tells TRL that two of its names are old.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


@pytest.fixture(scope="module")
def policy(make_policy):
    return make_policy("qwen2")


@pytest.fixture(scope="module")
def reference(make_policy):
    """Another network, so that the KL penalty has a gradient."""
    network = make_policy("qwen2").network
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(0.95)
    return network


@pytest.fixture(scope="module")
def trajectories(policy):
    """Three groups of real episodes; the rewards are made up, and those of the last group are equal."""
    games = GeneratedGames("small", 0)
    limits = iter([3, 5, 2, 4, 6, 3, 2, 3, 4])
    sampler = Sampler(
        policy.network,
        policy.chat,
        Arena(lambda: AlfworldEnvironment(games, next(limits))),
        max_response=10,
        max_context=512,
        temperature=TEMPERATURE,
    )
    played = sampler.play(group_episodes(games.tasks("train", range(3)), GROUP, 0, 1, "update"))
    for number, trajectory in enumerate(played):
        trajectory.reward = float(number in (0, 4, 5))
    return played


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")


def replay(trajectories):
    """A ``rollout_func`` that gives the recorded episodes as rows with a mask."""

    def rollouts(prompts, trainer):
        assert prompts == [str(t.episode.group) for t in trajectories]
        rows = [[part for s in t.steps for part in (s.prompt_ids, s.response_ids)] for t in trajectories]
        return {
            "prompt_ids": [row[0].tolist() for row in rows],
            "completion_ids": [[i for part in row[1:] for i in part.tolist()] for row in rows],
            "env_mask": [[j % 2 for j, part in enumerate(row) if j for _ in part] for row in rows],
            "logprobs": None,
        }

    return rollouts


class Recorder(EMPGTrainer):
    """Keeps the batch as it was before TRL shuffled its rows."""

    def _generate_and_score_completions(self, inputs):
        self.batch = dict(super()._generate_and_score_completions(inputs))
        return dict(self.batch)


class Gradients(TrainerCallback):
    def on_pre_optimizer_step(self, args, state, control, model, **kwargs):
        self.found = {name: p.grad.clone() for name, p in model.named_parameters()}


def train(folder, trajectories, policy, reference=None, *, beta=0.0, **settings):
    """One update in TRL: its batch, and the gradient before the optimiser step."""
    policy.save(folder)
    rewards = [t.reward * GROUP / (GROUP - 1) for t in trajectories]
    own = {name: settings.pop(name) for name in ("scale", "drop_equal") if name in settings}
    config = GRPOConfig(
        str(folder / "out"),
        num_generations=GROUP,
        max_completion_length=512,
        temperature=TEMPERATURE,
        scale_rewards="none",
        beta=beta,
        use_bias_correction_kl=False,  # the native loss has GRPO's own estimate, which TRL weighs by the ratio
        shuffle_dataset=False,
        gradient_checkpointing=False,
        max_steps=1,
        max_grad_norm=0.0,
        bf16=False,
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        **settings,
    )
    gradients = Gradients()
    trainer = Recorder(
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32),
        reward_funcs=lambda completions, **_: rewards,
        args=config,
        train_dataset=Dataset.from_list([{"prompt": str(group)} for group in range(3)]),
        processing_class=AutoTokenizer.from_pretrained(folder),
        rollout_func=replay(trajectories),
        callbacks=[gradients],
        **own,
    )
    if beta:
        tensors = dict(theirs(reference, dict(reference.named_parameters())))
        trainer.ref_model.load_state_dict(tensors, strict=False)
    trainer.train()
    return trainer.batch, gradients.found


def theirs(network, values):
    """Values by our parameters' names under Hugging Face's names."""
    for ours, parts in name_map(network.architecture):
        if ours in values:
            split = torch.split(values[ours].detach(), [rows for _, rows in parts])
            yield from zip((name for name, _ in parts), split, strict=True)


@pytest.mark.parametrize("case", list(product(AGGREGATION, (0.0, 0.3), (1, 3))), ids=str)
def test_advantages_and_gradients(tmp_path, policy, trajectories, reference, case):
    loss, beta, parts = case  # parts: micro-batches of shuffled rows, whose gradients TRL adds up
    size = {"per_device_train_batch_size": 9 // parts, "gradient_accumulation_steps": parts}
    batch, gradients = train(tmp_path, trajectories, policy, reference, beta=beta, loss_type=loss, **size)
    method = Method.model_validate(
        {"advantage": "rloo", "modulation": "empg", "zeta": 0.05, "kl_coef": beta, "aggregation": AGGREGATION[loss]}
    )
    credit = credit_batch(trajectories, method, max_response=10)
    mask = (batch["completion_mask"] * batch["tool_mask"]).bool()
    found = batch["advantages"][mask].double()
    torch.testing.assert_close(found, credit.token_advantage, rtol=0, atol=ADVANTAGE_TOLERANCE)

    expected = native_gradient(policy.network, reference if beta else None, trajectories, credit, method)
    compare(gradients, expected)


def test_dropped_groups_are_as_if_never_played(tmp_path, policy, trajectories):
    """``drop_equal`` is DAPO's group filter: statistics, weights and gradient are those of the other groups alone."""
    settings = {"loss_type": "dapo", "per_device_train_batch_size": 9, "drop_equal": True}
    batch, gradients = train(tmp_path, trajectories, policy, **settings)
    kept = trajectories[: 2 * GROUP]
    method = Method.model_validate(
        {"advantage": "rloo", "modulation": "empg", "zeta": 0.05, "kl_coef": 0.0, "aggregation": "token-mean"}
    )
    credit = credit_batch(kept, method, max_response=10)
    mask = (batch["completion_mask"] * batch["tool_mask"]).bool()
    assert not mask[2 * GROUP :].any()
    assert batch["num_items_in_batch"] == mask.sum()
    found = batch["advantages"][mask].double()
    torch.testing.assert_close(found, credit.token_advantage, rtol=0, atol=ADVANTAGE_TOLERANCE)
    compare(gradients, native_gradient(policy.network, None, kept, credit, method))


def native_gradient(network, reference, trajectories, credit, method):
    """The gradient of the native loss under Hugging Face's names."""
    network.zero_grad()
    native = token_batch(trajectories, credit.token_advantage, method.aggregation, torch.device("cpu"))
    options = {"temperature": TEMPERATURE, "micro_batch_tokens": 4096}
    accumulate_gradients(network, reference, native, method, **options)
    return dict(theirs(network, {name: p.grad for name, p in network.named_parameters()}))


def compare(gradients, expected):
    """The gradient in TRL is the native one, element by element."""
    assert set(expected) == set(gradients)
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    difference = {name: float((gradients[name] - expected[name]).abs().max()) / largest for name in expected}
    assert max(difference.values()) < GRADIENT_TOLERANCE, difference
    assert max(float(g.abs().max()) for g in expected.values()) > 0.05
