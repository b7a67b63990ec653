"""Tokens per CPU second of an update with and without shared prefixes: the policy and its gradient, the reference.

Without means: the same conversations, each with another first token, so that no two begin alike. Both are computed
alternately on one thread; the ratio is the median of pairs. Repeated tokens are counted inside micro-batches.

    python benchmarks/update.py [--results results/quick] [--repeats 7]

First the recorded batches of a finished study: the first, the middle and the last iteration of a GRPO run for each
environment. Then made-up conversations of agents, longer and in larger groups, through an untrained policy of the
default size: a quarter of a conversation is the opening, and an episode does what another one of its group did for an
eighth more. A micro-batch has to hold what a group shares, so these have micro-batches of 16,384 tokens.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import polars as pl
import torch

from empg.config import Method
from empg.core.loss import token_weights
from empg.policy.initialisation import initialise
from empg.policy.policy import Policy
from empg.policy.transformer import Architecture, Transformer
from empg.rollouts.table import from_table
from empg.training.packing import Conversation, packs
from empg.training.update import TokenBatch, accumulate_gradients, token_batch

CPU = torch.device("cpu")
METHOD = Method.model_validate({"advantage": "grpo", "kl_coef": 0.01})
RECORDED, SYNTHETIC = 4_096, 16_384  # tokens of a micro-batch
STEP = (28, 12)  # tokens of an observation and a response
TOKENS = 32_000  # of a made-up batch, and at least one group
HEADER = f"{'batch':<36} {'tokens':>7} {'repeated':>8} {'without':>8} {'with':>8} {'ratio':>6}  (tokens per CPU second)"


def apart(batch: TokenBatch) -> TokenBatch:
    """The same conversations, each with another first token: none has a beginning in common with another."""
    conversations = [
        Conversation(np.concatenate([[number], c.ids[1:]]).astype(np.int32), c.mask)
        for number, c in enumerate(batch.conversations)
    ]
    return TokenBatch(conversations, batch.old_logprob, batch.advantage, batch.weight)


def compare(
    name: str, network: Transformer, batch: TokenBatch, reference: Transformer, *, micro_batch: int, repeats: int
) -> None:
    """Measure a batch with and without sharing and print one line."""
    batches = {"without": apart(batch), "with": batch}
    tokens = {
        key: sum(len(pack.tree.ids) for pack in packs(b.conversations, micro_batch, CPU)) for key, b in batches.items()
    }
    seconds: dict[str, list[float]] = {key: [] for key in batches}
    for _ in range(1 + repeats):
        for key, b in batches.items():
            start = time.process_time()
            network.zero_grad()
            accumulate_gradients(network, reference, b, METHOD, temperature=1.0, micro_batch_tokens=micro_batch)
            seconds[key].append(time.process_time() - start)
    measured = {key: np.array(values[1:]) for key, values in seconds.items()}  # the first pair warms up
    rate = {key: tokens["without"] / np.median(values) for key, values in measured.items()}
    print(
        f"{name:<36} {tokens['without']:>7,} {1 - tokens['with'] / tokens['without']:>8.0%} {rate['without']:>8,.0f} "
        f"{rate['with']:>8,.0f} {np.median(measured['without'] / measured['with']):>6.2f}",
        flush=True,
    )


def recorded(results: Path, environment: str, repeats: int) -> None:
    """Batches of three iterations of a GRPO run, as training had them."""
    paths = sorted((results / environment / "grpo" / "seed1").glob("train/rollouts/iteration_*.parquet"))
    if not paths:
        print(f"{environment}: {results} holds no trained run")
        return
    network, reference = (Policy.load(results / environment / "warmstart" / "model", "").network for _ in range(2))
    for path in (paths[0], paths[len(paths) // 2], paths[-1]):
        rows = pl.read_parquet(path)
        advantage = np.repeat(rows["advantage"].to_numpy(), rows["response_ids"].list.len().to_numpy())
        batch = token_batch(from_table(rows, environment), torch.from_numpy(advantage), METHOD.aggregation, CPU)
        name = f"{environment}, {path.stem.replace('_', ' ')}"
        compare(name, network, batch, reference, micro_batch=RECORDED, repeats=repeats)


def made_up(length: int, group_size: int) -> TokenBatch:
    """Groups of conversations of about ``length`` tokens."""
    random = np.random.default_rng(0)
    steps = max(1, length * 3 // 4 // sum(STEP))
    conversations: list[Conversation] = []
    for _ in range(max(1, TOKENS // (length * group_size))):
        group: list[np.ndarray] = []
        opening = random.integers(500, size=length // 4)
        mask = np.concatenate([np.zeros(length // 4, bool), np.tile(np.repeat([False, True], STEP), steps)])
        for _ in range(group_size):
            ids = np.concatenate([opening, random.integers(500, size=steps * sum(STEP))])
            if group:
                shared = len(opening) + int(random.integers(steps // 3 + 1)) * sum(STEP)
                ids[:shared] = group[random.integers(len(group))][:shared]
            group.append(ids)
        conversations += [Conversation(ids.astype(np.int32), mask) for ids in group]
    sampled = sum(int(c.mask.sum()) for c in conversations)
    owner = torch.repeat_interleave(torch.tensor([int(c.mask.sum()) for c in conversations]))
    weight = token_weights(METHOD.aggregation, owner, len(conversations))
    return TokenBatch(conversations, torch.full((sampled,), -6.0), torch.randn(sampled), weight)


def untrained() -> Transformer:
    """A policy of the default size with random weights and 4,096 positions."""
    config = {
        "model_type": "qwen2",
        "vocab_size": 512,
        "hidden_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 256,
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": True,
    }
    network = Transformer(Architecture.from_config(config, "benchmark"))
    initialise(network, torch.Generator().manual_seed(0))
    return network


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("results/quick"))
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(HEADER)
    for environment in ("alfworld", "webshop", "deepsearch"):
        recorded(arguments.results, environment, arguments.repeats)
    network, reference = untrained(), untrained()
    for length, group_size in ((250, 4), (250, 8), (250, 16), (250, 32), (1000, 4), (1000, 16), (1000, 32), (4000, 8)):
        name = f"{length} tokens, groups of {group_size}"
        batch = made_up(length, group_size)
        compare(name, network, batch, reference, micro_batch=SYNTHETIC, repeats=max(1, arguments.repeats // 2))


if __name__ == "__main__":
    main()
