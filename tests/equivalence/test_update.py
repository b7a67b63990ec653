"""An update's gradient: the same for every micro-batch size, and that of a plain padded computation in transformers."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from empg.config import Method
from empg.config import Optimiser as OptimiserConfig
from empg.environments.alfworld.environment import AlfworldEnvironment
from empg.environments.alfworld.tasks import GeneratedGames
from empg.environments.base import Arena
from empg.errors import DivergenceError
from empg.policy.weights import name_map
from empg.rollouts.collect import group_episodes
from empg.rollouts.sampler import Sampler
from empg.training.credit import credit_batch
from empg.training.optimiser import Optimiser
from empg.training.update import accumulate_gradients, renyi2_entropies, token_batch, update

AGGREGATIONS = ("token-mean", "seq-mean-token-mean", "seq-mean-token-sum")
TEMPERATURE = 0.9
CPU = torch.device("cpu")


def method(**options) -> Method:
    value = {"advantage": "grpo", "modulation": "empg", "zeta": 0.05, "kl_coef": 0.3}
    return Method.model_validate(value | options)


@pytest.fixture(scope="module")
def policy(make_policy):
    return make_policy("qwen2")


@pytest.fixture(scope="module")
def trajectories(policy):
    """Real episodes of different lengths, sampled from the policy, with made-up rewards."""
    games = GeneratedGames("small", 0)
    limits = iter([3, 5, 2, 4, 6, 3])
    sampler = Sampler(
        policy.network,
        policy.chat,
        Arena(lambda: AlfworldEnvironment(games, next(limits))),
        max_response=10,
        max_context=512,
        temperature=TEMPERATURE,
    )
    played = sampler.play(group_episodes(games.tasks("train", range(2)), 3, 0, 1, "update"))
    for number, trajectory in enumerate(played):
        trajectory.reward = float(number in (0, 4, 5))
    return played


@pytest.fixture(scope="module")
def batch(trajectories):
    advantage = credit_batch(trajectories, method(), 10).token_advantage
    return lambda aggregation: token_batch(trajectories, advantage, aggregation, CPU)


@pytest.fixture(scope="module")
def moved(policy):
    """The policy some updates later: importance ratios are away from 1."""
    network = copy.deepcopy(policy.network)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.02)
    return network


def gradients(network, reference, batch, chosen, micro_batch_tokens=10**6):
    network.zero_grad()
    metrics = accumulate_gradients(
        network, reference, batch, chosen, temperature=TEMPERATURE, micro_batch_tokens=micro_batch_tokens
    )
    return {name: p.grad.clone() for name, p in network.named_parameters()}, metrics


def assert_gradients_close(found, expected, relative):
    """Every gradient within ``relative`` of its own largest entry."""
    for name, gradient in expected.items():
        assert gradient.abs().max() > 0, name
        scale = float(gradient.abs().max())
        torch.testing.assert_close(
            found[name], gradient, atol=relative * scale, rtol=0.0, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_the_micro_batch_size_changes_nothing(policy, moved, batch, aggregation):
    chosen = method(aggregation=aggregation, entropy_coef=0.1)
    whole, metrics = gradients(moved, policy.network, batch(aggregation), chosen)
    for micro_batch_tokens in (1, 120, 250):
        parts, metrics_of_parts = gradients(moved, policy.network, batch(aggregation), chosen, micro_batch_tokens)
        assert_gradients_close(parts, whole, 1e-4)
        assert metrics_of_parts == pytest.approx(metrics, rel=1e-4)


def padded_loss(model, reference, trajectories, advantage, chosen):
    """The loss from padded rows and full log-softmaxes, written term by term; and the share of clipped tokens.

    ``advantage`` is each step's.
    """
    rows = [np.concatenate([part for s in t.steps for part in (s.prompt_ids, s.response_ids)]) for t in trajectories]
    width = max(map(len, rows))
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    attention = torch.zeros(len(rows), width, dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.from_numpy(row)
        attention[i, : len(row)] = 1

    def statistics(network):
        log_p = (network(ids, attention_mask=attention).logits[:, :-1].double() / TEMPERATURE).log_softmax(-1)
        return log_p.gather(-1, ids[:, 1:, None])[..., 0], -(log_p.exp() * log_p).sum(-1)

    new, entropy = statistics(model)
    with torch.no_grad():
        ref, _ = statistics(reference)
    terms, clipped, step = [], 0, 0
    for i, trajectory in enumerate(trajectories):
        position, of_trajectory = 0, []
        for s in trajectory.steps:
            position += len(s.prompt_ids)
            for token, old in enumerate(s.logprobs.tolist()):
                at = (i, position + token - 1)
                logprob, a = new[at], advantage[step]
                ratio = (logprob - old).exp()
                bounded = ratio.clamp(1 - chosen.clip_low, 1 + chosen.clip_high)
                d = ref[at] - logprob
                kl, bonus = chosen.kl_coef * (d.exp() - d - 1), chosen.entropy_coef * entropy[at]
                of_trajectory.append(-torch.min(ratio * a, bounded * a) + kl - bonus)
                clipped += bool(bounded * a < ratio * a)
            position += len(s.response_ids)
            step += 1
        terms.append(torch.stack(of_trajectory))
    match chosen.aggregation:
        case "token-mean":
            loss = torch.cat(terms).mean()
        case "seq-mean-token-mean":
            loss = torch.stack([t.mean() for t in terms]).mean()
        case "seq-mean-token-sum":
            loss = torch.stack([t.sum() for t in terms]).mean()
    return loss, clipped / sum(map(len, terms))


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_the_gradient_is_that_of_a_padded_computation(policy, moved, trajectories, aggregation, tmp_path):
    chosen = method(aggregation=aggregation, clip_low=0.05, clip_high=0.1, entropy_coef=0.2)
    credited = credit_batch(trajectories, chosen, 10)
    advantage, batch = (
        credited.modulation.advantage,
        token_batch(trajectories, credited.token_advantage, aggregation, CPU),
    )
    found, metrics = gradients(moved, policy.network, batch, chosen, 200)
    models = []
    for name, network in (("moved", moved), ("reference", policy.network)):
        type(policy)(network, policy.chat, policy.config).save(tmp_path / name)
        models.append(AutoModelForCausalLM.from_pretrained(tmp_path / name))
    loss, clipped = padded_loss(*models, trajectories, advantage, chosen)
    loss.backward()
    theirs = {name: p.grad for name, p in models[0].named_parameters()}
    expected = {
        ours: torch.cat([theirs[name] for name, _ in parts])
        for ours, parts in name_map(moved.architecture)
        if ours in found
    }
    assert_gradients_close(found, expected, 1e-3)
    assert 0.05 < clipped < 0.95
    assert metrics["clip_fraction"] == pytest.approx(clipped)
    assert metrics["loss"] == pytest.approx(loss.item(), rel=1e-4)
    assert metrics["kl"] > 0


def test_the_first_update_is_on_policy(policy, trajectories, batch):
    """Every ratio is 1, so the loss is −Σ weight · advantage, nothing is clipped and the divergence is 0."""
    tokens = batch("seq-mean-token-mean")
    _, metrics = gradients(policy.network, policy.network, tokens, method())
    assert metrics["clip_fraction"] == 0.0
    assert metrics["kl"] == pytest.approx(0.0, abs=1e-9)
    assert metrics["loss"] == pytest.approx(-(tokens.weight * tokens.advantage).sum().item(), abs=1e-5)


def test_an_update_moves_probability_towards_the_advantage(policy, batch):
    network = copy.deepcopy(policy.network)
    optimiser = Optimiser(network, OptimiserConfig(lr=1e-3, muon_lr=1e-3))
    tokens = batch("token-mean")
    losses = [
        update(network, None, optimiser, tokens, method(), temperature=TEMPERATURE, micro_batch_tokens=10**6)["loss"]
        for _ in range(3)
    ]
    assert losses[0] > losses[1] > losses[2]


@pytest.mark.parametrize("coef", [0.5, -0.5], ids=["bonus", "minimisation"])
def test_the_entropy_term_alone_moves_the_entropy(policy, trajectories, coef):
    """Advantages of 0, no divergence: only the entropy's gradient is left."""
    network = copy.deepcopy(policy.network)
    optimiser = Optimiser(network, OptimiserConfig(lr=1e-3, muon_lr=1e-3))
    tokens = sum(len(step.response_ids) for t in trajectories for step in t.steps)
    nothing = token_batch(trajectories, torch.zeros(tokens), "token-mean", CPU)
    losses = [
        update(
            network,
            None,
            optimiser,
            nothing,
            method(entropy_coef=coef),
            temperature=TEMPERATURE,
            micro_batch_tokens=10**6,
        )["loss"]
        for _ in range(3)
    ]
    recorded = np.concatenate([step.entropies for t in trajectories for step in t.steps])
    assert losses[0] == pytest.approx(-coef * recorded.mean(), rel=1e-4)
    mean_entropy = [-loss / coef for loss in losses]
    assert (mean_entropy == sorted(mean_entropy)) == (coef > 0)
    assert (mean_entropy == sorted(mean_entropy, reverse=True)) == (coef < 0)


def renyi2_by_hand(network, trajectory):
    """−log Σ p² at each sampled token, step by step, from the whole conversation's logits."""
    ids = np.concatenate([part for s in trajectory.steps for part in (s.prompt_ids, s.response_ids)])
    hidden = network.states(torch.from_numpy(ids))
    p = torch.softmax((hidden @ network.output_weight.T).double() / TEMPERATURE, -1)
    position = 0
    for s in trajectory.steps:
        first = position + len(s.prompt_ids)
        position = first + len(s.response_ids)
        yield -p[first - 1 : position - 1].square().sum(-1).log().numpy()


@pytest.mark.parametrize("micro_batch_tokens", [1, 10**6])
@torch.no_grad()
def test_renyi_entropies_are_those_of_the_sampling_distribution(policy, trajectories, micro_batch_tokens):
    found = renyi2_entropies(
        policy.network, trajectories, temperature=TEMPERATURE, micro_batch_tokens=micro_batch_tokens
    )
    expected = np.concatenate([values for t in trajectories for values in renyi2_by_hand(policy.network, t)])
    np.testing.assert_allclose(found, expected, atol=1e-5)
    recorded = np.concatenate([step.entropies for t in trajectories for step in t.steps])
    assert (found.numpy() <= recorded + 1e-4).all()  # never above Shannon's, which the sampler recorded
    assert found.std() > 0.1


def test_a_loss_that_is_not_finite_leaves_the_weights(policy, batch):
    network = copy.deepcopy(policy.network)
    before = {name: p.clone() for name, p in network.named_parameters()}
    optimiser = Optimiser(network, OptimiserConfig())
    tokens = batch("token-mean")
    tokens.old_logprob[3] = torch.nan
    with pytest.raises(DivergenceError, match="update: expected a finite loss, found nan"):
        update(network, None, optimiser, tokens, method(), temperature=TEMPERATURE, micro_batch_tokens=10**6)
    assert all(torch.equal(p, before[name]) for name, p in network.named_parameters())


def test_a_gradient_that_is_not_finite_leaves_the_weights(policy, batch):
    network = copy.deepcopy(policy.network)
    before = {name: p.clone() for name, p in network.named_parameters()}
    network.norm.register_hook(lambda gradient: gradient * torch.nan)
    with pytest.raises(DivergenceError, match="update: expected a finite gradient norm, found nan"):
        update(
            network,
            None,
            Optimiser(network, OptimiserConfig()),
            batch("token-mean"),
            method(),
            temperature=TEMPERATURE,
            micro_batch_tokens=10**6,
        )
    assert all(torch.equal(p, before[name]) for name, p in network.named_parameters())
