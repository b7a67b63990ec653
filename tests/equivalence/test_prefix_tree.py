"""Sharing beginnings changes no hidden state and no gradient: they are those of the sequences one by one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from empg.config import Method, TinyPolicy
from empg.policy import prefix_tree
from empg.policy.packing import Conversation, packs
from empg.policy.prefix_tree import PrefixTree
from empg.training.update import TokenBatch, accumulate_gradients
from empg.training.warmstart import tiny_policy

CPU = torch.device("cpu")
VOCABULARY = 50


@pytest.fixture(scope="module", params=["qwen2", "llama"])
def network(request, chat):
    sizes = {"width": 32, "heads": 4, "kv_heads": 2, "layers": 3, "mlp_width": 48, "max_positions": 512}
    made = tiny_policy(TinyPolicy(family=request.param, **sizes), chat, seed=0).network.double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype), alpha=0.1)
    return made


def random_conversations(seed: int, count: int = 14, longest: int = 90) -> list[Conversation]:
    """Conversations that begin like an earlier one up to a random place; some are equal, some end inside another."""
    random = np.random.default_rng(seed)
    made: list[Conversation] = []
    for _ in range(count):
        length = int(random.integers(2, longest))
        ids, mask = random.integers(VOCABULARY, size=length).astype(np.int32), random.random(length) < 0.4
        if made and random.random() < 0.8:
            earlier = made[random.integers(len(made))]
            shared = int(random.integers(1, len(earlier.ids) + 1))
            rest = length if random.random() < 0.7 else 0
            ids = np.concatenate([earlier.ids[:shared], ids[:rest]])
            own = random.random() < 0.3  # the same tokens, but others of them are in the loss
            mask = np.concatenate([random.random(shared) < 0.4 if own else earlier.mask[:shared], mask[:rest]])
        mask[0], mask[1] = False, True
        made.append(Conversation(ids, mask))
    return made


def gradients_of(network, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    network.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("run", [3, 1000])
@pytest.mark.parametrize("seed", range(4))
def test_hidden_states_of_random_trees_are_those_of_the_sequences(network, seed, run, monkeypatch):
    monkeypatch.setattr(prefix_tree, "RUN", run)
    sequences = [c.ids for c in random_conversations(seed)]
    tree = PrefixTree.of(sequences, CPU)
    assert len(tree.ids) < 0.8 * sum(map(len, sequences))
    alone = torch.cat([network.states(torch.from_numpy(s)) for s in sequences])
    weight = torch.randn(alone.shape, generator=torch.Generator().manual_seed(seed), dtype=alone.dtype)
    expected = gradients_of(network, (alone * weight).sum())
    together = network(tree)[np.concatenate(tree.places)]
    found = gradients_of(network, (together * weight).sum())
    torch.testing.assert_close(together, alone, atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("micro_batch_tokens", [1, 50, 130, 10**6])
@pytest.mark.parametrize("seed", range(3))
def test_the_update_of_random_trees_is_that_of_the_conversations(network, seed, micro_batch_tokens):
    """Every sampled token has an old log-probability, an advantage and a weight of its own, also where it is shared."""
    conversations = random_conversations(seed)
    tokens = sum(int(c.mask.sum()) for c in conversations)
    generator = torch.Generator().manual_seed(seed)
    batch = TokenBatch(
        conversations,
        -4 + torch.randn(tokens, generator=generator, dtype=torch.float64),
        torch.randn(tokens, generator=generator, dtype=torch.float64),
        torch.rand(tokens, generator=generator, dtype=torch.float64) / tokens,
    )
    method = Method.model_validate({"advantage": "grpo", "modulation": "none", "entropy_coef": 0.1})
    loss, first = torch.zeros((), dtype=torch.float64), 0
    for c in conversations:
        rows = slice(first, first := first + int(c.mask.sum()))
        logits = network.states(torch.from_numpy(c.ids)) @ network.output_weight.T / 0.9
        target = torch.from_numpy(np.flatnonzero(c.mask))
        log_p = logits[target - 1].log_softmax(-1)
        logprob = log_p[torch.arange(len(target)), torch.from_numpy(c.ids.astype(np.int64))[target]]
        ratio, advantage = (logprob - batch.old_logprob[rows]).exp(), batch.advantage[rows]
        clipped = ratio.clamp(1 - method.clip_low, 1 + method.clip_high)
        surrogate = torch.minimum(ratio * advantage, clipped * advantage)
        entropy = -(log_p.exp() * log_p).sum(-1)
        loss = loss - (batch.weight[rows] * (surrogate + method.entropy_coef * entropy)).sum()
    expected = gradients_of(network, loss)
    network.zero_grad()
    metrics = accumulate_gradients(network, None, batch, method, temperature=0.9, micro_batch_tokens=micro_batch_tokens)
    found = {name: p.grad for name, p in network.named_parameters()}
    assert metrics["loss"] == pytest.approx(loss.item(), rel=1e-10)
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=1e-8)


def test_the_same_conversations_give_the_same_bits(network):
    conversations = random_conversations(7)
    first, second = ([pack.statistics(network)[0] for pack in packs(conversations, 100, CPU)] for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
