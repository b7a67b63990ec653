"""Tokens per CPU second of a pretrained model, as the code was for tiny policies and as it is: updates and decoding.

Both ways run alternately in one process on one thread; a ratio is the median of pairs. Before: attention by
``scaled_dot_product_attention``, 64 tokens at a time in the head, trained embeddings; where `transformers` runs the
model, a cache whose rows are gathered for every token. Decoding by our own network is the same in both.

    empg fetch-model smollm2 --out models/smollm2
    python benchmarks/pretrained.py [--model models/smollm2] [--repeats 3]

An update is forward and backward of two made-up conversations of 600 tokens with 240 targets each. Decoding is of 32
rows at context 500, with the draw of a token.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 — its customary name

from empg.core import entropy
from empg.policy import decoding, prefix_tree
from empg.policy.foreign import load_foreign
from empg.policy.foreign_cache import ForeignCache
from empg.policy.network import ConversationCache, Network
from empg.policy.packing import Conversation, packs
from empg.policy.weights import load_transformer

CPU = torch.device("cpu")
LENGTH, ROWS, CONTEXT = 600, 32, 500


def fused(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """Attention as float32 has it."""
    return F.scaled_dot_product_attention(q[None], k[None], v[None], mask, enable_gqa=True)[0]


def gathered(cache: ForeignCache, token_ids: Tensor, start: Tensor) -> Tensor:
    """A step that takes the rows out of the cache and puts them back."""
    return cache._append(token_ids[:, None], start[:, None], torch.arange(len(start)))[:, 0]


@contextmanager
def before() -> Iterator[None]:
    """The code as it was."""
    with (
        mock.patch.object(prefix_tree, "attend_by_products", fused),
        mock.patch.object(entropy, "default_chunk", return_value=64),
        mock.patch.object(ForeignCache, "decode", gathered),
    ):
        yield


def update(network: Network, conversations: list[Conversation], trained: bool) -> float:
    """CPU seconds of a forward and a backward pass."""
    embedding = network.output_weight
    embedding.requires_grad_(trained)
    network.zero_grad()
    start = time.process_time()
    for pack in packs(conversations, LENGTH * len(conversations), CPU):
        pack.statistics(network)[0].sum().backward()
    return time.process_time() - start


@torch.no_grad()
def decode(network: Network, cache: ConversationCache) -> float:
    """CPU seconds of five tokens a row."""
    ids, start = torch.arange(ROWS), torch.full((ROWS,), CONTEXT)
    begin = time.process_time()
    for _ in range(5):
        logprobs = network.logits(cache.decode(ids, start)).log_softmax(-1)
        probabilities = logprobs.exp()
        ids = (probabilities.cumsum(-1) < 0.5).sum(-1)
        (probabilities * logprobs).sum(-1)
        start = start + 1
    return time.process_time() - begin


def compare(name: str, tokens: int, old: Callable[[], float], new: Callable[[], float], repeats: int) -> None:
    """Run both alternately and print a line."""
    seconds = []
    for _ in range(1 + repeats):
        with before():
            first = old()
        seconds.append((first, new()))
    pairs = np.array(seconds[1:])  # the first pair warms up
    rates = tokens / np.median(pairs, axis=0)
    print(f"{name:<36} {rates[0]:8.0f} {rates[1]:8.0f} {np.median(pairs[:, 0] / pairs[:, 1]):6.2f}", flush=True)


def error(network: Network, exact: Network, conversations: list[Conversation]) -> float:
    """The mean distance of log-probabilities from those in float32."""
    with torch.no_grad():
        (pack,) = packs(conversations[:1], LENGTH, CPU)
        return float((pack.statistics(network)[0] - pack.statistics(exact)[0]).abs().mean())


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("models/smollm2"))
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    random = np.random.default_rng(0)
    mask = np.tile(np.repeat([False, True], [45, 30]), LENGTH // 75)
    conversations = [Conversation(random.integers(5, 49_000, LENGTH).astype(np.int32), mask) for _ in range(2)]
    networks = {d: load_transformer(arguments.model, dtype=d) for d in (torch.bfloat16, torch.float32)}
    print(f"{'':<36} {'before':>8} {'after':>8} {'ratio':>6}  (tokens per CPU second)")
    for dtype, network in networks.items():
        name = str(dtype).removeprefix("torch.")
        for label, trained in (("", True), (", embeddings frozen", False)):
            compare(
                f"update, {name}{label}",
                LENGTH * 2,
                lambda n=network: update(n, conversations, True),
                lambda n=network, t=trained: update(n, conversations, t),
                arguments.repeats,
            )
        cache = decoding.Cache(network, ROWS, CONTEXT + 64)
        for part in (*cache.keys, *cache.values):
            part.normal_()
        played = [lambda n=network, c=cache: decode(n, c)] * 2
        compare(f"decode and draw, {name}", ROWS * 5, *played, arguments.repeats)
        foreign = load_foreign(arguments.model, "cpu", dtype)
        filled = foreign.open_cache(ROWS, CONTEXT)
        filled.prefill(torch.randint(5, 49_000, (ROWS * CONTEXT,)), [CONTEXT] * ROWS, [0] * ROWS, [*range(ROWS)])
        played = [lambda n=foreign, c=filled: decode(n, c)] * 2
        compare(f"decode by transformers, {name}", ROWS * 5, *played, arguments.repeats)
    exact, rough = networks[torch.float32], networks[torch.bfloat16]
    with before():
        print(f"mean distance of log-probabilities from float32, before: {error(rough, exact, conversations):.4f} nats")
    print(f"mean distance of log-probabilities from float32, after:  {error(rough, exact, conversations):.4f} nats")


if __name__ == "__main__":
    main()
