"""What an update costs by the size of the policy, the length of conversations and the size of groups.

Policies are untrained and the conversations made up: a quarter of one is the opening, which its group shares, and an
episode does what another one of its group did for an eighth more. The share of the limit is the speed of the products
that the update has to compute, as a share of that of a large matrix product measured beside it. Products that are
computed a second time to save memory, and shared tokens after the first, do not count.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch

from benchmarks.training import CPU
from empg.config import Method
from empg.core.loss import token_weights
from empg.policy.initialisation import initialise
from empg.policy.packing import Conversation, Pack, packs
from empg.policy.transformer import FEW, Architecture, Transformer
from empg.policy.weights import tiny_config
from empg.training.update import TokenBatch, accumulate_gradients

METHOD = Method.model_validate({"advantage": "grpo", "kl_coef": 0.01})
STEP = (28, 12)  # tokens of an observation and a response
VOCABULARY = 1000
TOKENS = 4_000  # of a batch, and at least one group
MICRO_BATCH = 16_384  # holds what a group shares
LENGTHS, GROUPS = (200, 500, 1000, 2000, 4000), (4, 8, 16, 32)
LENGTH, GROUP = 500, 4  # while the other varies
GEMM = 2048
REPEATS = 3
LONG = 10.0  # CPU seconds of an update that is measured once


@dataclass(frozen=True, slots=True)
class Size:
    """Width, layers, heads, heads of keys and values, width of the MLP."""

    width: int
    layers: int
    heads: int
    kv_heads: int
    mlp_width: int

    def network(self) -> Transformer:
        """An untrained policy of this size."""
        sizes = {
            "width": self.width,
            "layers": self.layers,
            "heads": self.heads,
            "kv_heads": self.kv_heads,
            "mlp_width": self.mlp_width,
        }
        config = tiny_config("qwen2", VOCABULARY, 2, 0, **sizes, max_positions=max(LENGTHS), rope_theta=10_000.0)
        network = Transformer(Architecture.from_config(config, "benchmark"))
        initialise(network, torch.Generator().manual_seed(0))
        return network


SIZES = (
    Size(96, 3, 2, 1, 256),
    Size(160, 3, 4, 2, 432),
    Size(256, 4, 4, 2, 704),
    Size(384, 6, 6, 2, 1024),
    Size(640, 6, 10, 2, 2048),
)


def made_up(length: int, group_size: int) -> TokenBatch:
    """Groups of conversations of about ``length`` tokens."""
    random = np.random.default_rng(0)
    steps = max(1, length * 3 // 4 // sum(STEP))
    mask = np.concatenate([np.zeros(length // 4, bool), np.tile(np.repeat([False, True], STEP), steps)])
    conversations: list[Conversation] = []
    for _ in range(max(1, TOKENS // (length * group_size))):
        group: list[np.ndarray] = []
        opening = random.integers(VOCABULARY, size=length // 4)
        for _ in range(group_size):
            ids = np.concatenate([opening, random.integers(VOCABULARY, size=steps * sum(STEP))])
            if group:
                shared = len(opening) + int(random.integers(steps // 3 + 1)) * sum(STEP)
                ids[:shared] = group[random.integers(len(group))][:shared]
            group.append(ids)
        conversations += [Conversation(ids.astype(np.int32), mask) for ids in group]
    sampled = sum(int(c.mask.sum()) for c in conversations)
    owner = torch.repeat_interleave(torch.tensor([int(c.mask.sum()) for c in conversations]))
    weight = token_weights(METHOD.aggregation, owner, len(conversations))
    return TokenBatch(conversations, torch.full((sampled,), -6.0), torch.randn(sampled), weight)


def products(a: Architecture, pack: Pack) -> float:
    """Floating-point operations of the products of one forward pass; in the last layer, of what is asked for."""
    tokens, asked = len(pack.tree.ids), len(pack.asked)
    pruned = asked if asked < FEW * tokens else tokens
    q, kv = a.heads * a.head_width, 2 * a.kv_heads * a.head_width
    keys = pack.tree.positions + 1
    total = 0.0
    for layer in range(a.layers):
        last = layer == a.layers - 1
        queries = pruned if last else tokens
        met = keys[pack.asked] if last and pruned < tokens else keys
        total += 2 * a.width * (tokens * kv + queries * (2 * q + 3 * a.mlp_width)) + 4 * q * float(met.sum())
    return total + 2 * a.width * a.vocab_size * len(pack.state)


def gemm() -> float:
    """Floating-point operations per CPU second of a large product."""
    a, b = torch.randn(GEMM, GEMM), torch.randn(GEMM, GEMM)
    start = time.process_time()
    a @ b
    return 2 * GEMM**3 / (time.process_time() - start)


def measure() -> pl.DataFrame:
    """A row for each case: parameters, length, group, tokens per CPU second, share of the limit."""
    cases = [(length, GROUP) for length in LENGTHS] + [(LENGTH, group) for group in GROUPS if group != GROUP]
    rows = []
    for size in SIZES:
        network, reference = size.network(), size.network()
        parameters = sum(p.numel() for p in network.parameters())
        for length, group in cases:
            batch = made_up(length, group)
            # The gradient takes two products for each one of the forward pass, the reference one.
            work = sum(4 * products(network.architecture, p) for p in packs(batch.conversations, MICRO_BATCH, CPU))
            turns = [_turn(network, reference, batch)]
            while turns[-1][1] < LONG and len(turns) < 1 + REPEATS:
                turns.append(_turn(network, reference, batch))
            limits, seconds = np.array(turns[1:] or turns).T  # the first one warms up
            rate = sum(len(c.ids) for c in batch.conversations) / np.median(seconds)
            share = np.median(work / seconds / limits)
            rows.append((parameters / 1e6, length, group, rate, share, np.median(limits) / 1e9))
            print(
                "{:.2f} M parameters, {} tokens, groups of {}: {:,.0f} tokens / CPU s, {:.0%}".format(*rows[-1]),
                flush=True,
            )
    return pl.DataFrame(rows, schema=["parameters", "length", "group", "rate", "share", "limit"], orient="row")


def _turn(network: Transformer, reference: Transformer, batch: TokenBatch) -> tuple[float, float]:
    """The limit, operations per CPU second, and the CPU seconds of an update's gradient."""
    limit = gemm()
    network.zero_grad()
    start = time.process_time()
    accumulate_gradients(network, reference, batch, METHOD, temperature=1.0, micro_batch_tokens=MICRO_BATCH)
    return limit, time.process_time() - start
