"""Proposition 1 of arXiv 2509.09265 measured on a trained policy, and what it is about: gradient norm against entropy.

The contexts are those of the last iteration's rollouts; the policy is the one that training ended with.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from torch import Tensor

from empg.core.entropy import expected_score_norm_squared, renyi2_entropy, score_norm_squared, token_statistics
from empg.policy.checkpoint import load_transformer
from empg.policy.transformer import Transformer
from empg.seeding import derive_seed
from empg.study.results import Results, Run

# Contexts and steps of a method, shared among its seeds, so that more seeds cost the report little.
TOKENS = 4_000
DRAWS = 16
STEPS = 120
SMALLEST_BIN = 10


@dataclass(frozen=True, slots=True)
class Conversation:
    """``ids`` ``[tokens]`` of one episode; ``responses`` are the spans that the policy sampled, one a step."""

    ids: Tensor
    responses: list[tuple[int, int]]


def conversations(rollouts: pl.DataFrame, device: torch.device) -> Iterator[Conversation]:
    """The episodes of a rollout table, in its order."""
    for _, rows in rollouts.group_by("trajectory", maintain_order=True):
        ids: list[int] = []
        responses = []
        for prompt, response in rows.select("prompt_ids", "response_ids").iter_rows():
            start = len(ids) + len(prompt)
            ids += prompt + response
            responses.append((start, len(ids)))
        yield Conversation(torch.tensor(ids, device=device), responses)


def measure(results: Results, run: Run) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Score norms and gradient norms of one trained run, with its environment, method and seed in front."""
    network = load_transformer(run.train / "model", device="cuda" if torch.cuda.is_available() else "cpu")
    rollouts = results.last_rollouts(run)
    temperature = results.study.environments[run.environment].sampling.temperature
    seed = derive_seed("proposition", run.environment, run.method, run.seed or 0)
    key = [pl.lit(value).alias(name) for name, value in run.key.items()]
    seeds = len(results.study.seeds)
    scores = score_norms(network, rollouts, temperature=temperature, seed=seed, tokens=TOKENS // seeds)
    gradients = gradient_norms(network, rollouts, temperature=temperature, seed=seed, steps=STEPS // seeds)
    return scores.select(*key, pl.all()), gradients.select(*key, pl.all())


@torch.no_grad()
def score_norms(network: Transformer, rollouts: pl.DataFrame, *, temperature: float, seed: int,
                tokens: int = TOKENS) -> pl.DataFrame:  # fmt: skip
    """‖∇_z log π(a)‖² at ``tokens`` contexts of the rollouts, drawn without replacement, beside its expectation.

    It is the mean over :data:`DRAWS` tokens a, drawn afresh from the network's own distribution since the proposition
    is about a ~ π; the rollouts' own tokens come from the policy before the last update. Columns: renyi2 (nats),
    expected, measured.
    """
    device = network.embedding.device
    random = np.random.default_rng(seed)
    hidden = torch.cat(
        [
            network(c.ids, [len(c.ids)])[torch.cat([torch.arange(s - 1, e - 1, device=device) for s, e in c.responses])]
            for c in _drawn_conversations(rollouts, random, device, tokens)
        ]
    )
    chosen = random.choice(len(hidden), size=min(tokens, len(hidden)), replace=False)
    logits = (hidden[torch.from_numpy(chosen).to(device)] @ network.output_weight.T).double() / temperature
    generator = torch.Generator(device).manual_seed(seed)
    drawn = torch.multinomial(logits.softmax(-1), DRAWS, replacement=True, generator=generator)
    columns = {
        "renyi2": renyi2_entropy(logits),
        "expected": expected_score_norm_squared(logits),
        "measured": torch.stack([score_norm_squared(logits, a) for a in drawn.T]).mean(0),
    }
    return pl.DataFrame({name: value.cpu().numpy() for name, value in columns.items()})


def _drawn_conversations(
    rollouts: pl.DataFrame, random: np.random.Generator, device: torch.device, tokens: int
) -> list[Conversation]:
    """Random episodes that hold at least twice ``tokens`` sampled tokens together, or all."""
    ids = rollouts["trajectory"].unique(maintain_order=True).to_numpy()
    counts = dict(
        rollouts.group_by("trajectory").agg(pl.col("response_ids").list.len().sum()).iter_rows()  # sampled tokens
    )
    total, drawn = 0, []
    for trajectory in random.permutation(ids):
        if total >= 2 * tokens:
            break
        drawn.append(trajectory)
        total += counts[trajectory]
    return list(conversations(rollouts.filter(pl.col("trajectory").is_in(drawn)), device))


def gradient_norms(network: Transformer, rollouts: pl.DataFrame, *, temperature: float, seed: int,
                   steps: int = STEPS) -> pl.DataFrame:  # fmt: skip
    """Gradient of a step's mean log-probability over all parameters, for ``steps`` trained steps in random order.

    The advantage is a factor of the gradient: |A_i|·norm is what the step weighs before modulation and
    |A_final|·norm after. ``next_product`` is the gradient's scalar product with the next row's: since rows are in
    random order, its mean is the squared norm of the mean gradient, without bias. Columns: trajectory, step,
    step_entropy (nats), outcome_advantage, gradient_scale, advantage, norm, before, after, next_product.
    """
    trained = rollouts.filter(pl.col("trained"))
    order = np.random.default_rng(seed).permutation(len(trained))[:steps]
    drawn = trained[order]
    episodes = rollouts.filter(pl.col("trajectory").is_in(drawn["trajectory"].unique().to_list()))
    numbers = episodes["trajectory"].unique(maintain_order=True)
    by_trajectory = dict(zip(numbers, conversations(episodes, network.embedding.device), strict=True))
    norms: list[float] = []
    products: list[float | None] = []
    last = None
    for trajectory, step in drawn.select("trajectory", "step").iter_rows():
        gradient = _gradient(network, by_trajectory[trajectory], step, temperature)
        norms.append(float(torch.linalg.vector_norm(gradient, dtype=torch.float64)))
        if last is not None:
            products.append(float(last @ gradient))
        last = gradient
    numbers_of = ("step_entropy", "outcome_advantage", "gradient_scale", "advantage")
    return drawn.select("trajectory", "step", pl.col(numbers_of).cast(pl.Float64)).with_columns(
        pl.Series("norm", norms, dtype=pl.Float64),
        pl.Series("next_product", [*products, None][: len(norms)], dtype=pl.Float64),
        before=pl.col("outcome_advantage").abs() * pl.Series(norms, dtype=pl.Float64),
        after=pl.col("advantage").abs() * pl.Series(norms, dtype=pl.Float64),
    )


def _gradient(network: Transformer, conversation: Conversation, step: int, temperature: float) -> Tensor:
    """``[parameters]`` of the whole network, end to end."""
    start, end = conversation.responses[step]
    hidden = network(conversation.ids[:end], [end])[start - 1 : end - 1]
    logprob, _ = token_statistics(hidden, network.output_weight, conversation.ids[start:end], temperature=temperature)
    gradients = torch.autograd.grad(logprob.mean(), list(network.parameters()))
    return torch.cat([g.flatten() for g in gradients])


def equal_counts(by: str, bins: int) -> pl.Expr:
    """Bin number of each row: the same number of rows in each."""
    return (pl.col(by).rank("ordinal") - 1) * bins // pl.len()


def equal_widths(by: str, bins: int) -> pl.Expr:
    """Bin number of each row: the same width for each, from the smallest to the largest value."""
    low, high = pl.col(by).min(), pl.col(by).max()
    return ((pl.col(by) - low) / (high - low) * bins).floor().clip(0, bins - 1).fill_nan(0)


def bin_means(frame: pl.DataFrame, by: str, values: list[str], *, bins: pl.Expr, per: list[str]) -> pl.DataFrame:
    """Mean of each value, with ± 1.96 standard errors, in bins of ``by`` that are made for each ``per`` apart.

    Long: per…, ``by`` (the bin's mean), n, quantity, mean, low, high. Bins of fewer than :data:`SMALLEST_BIN` rows,
    whose interval would mean nothing, are left out.
    """
    binned = frame.with_columns(bins.over(per).alias("bin")).unpivot(
        values, index=[*per, "bin", by], variable_name="quantity", value_name="value"
    )
    error = 1.96 * pl.col("value").std() / pl.len().sqrt()
    mean = pl.col("value").mean()
    grouped = binned.group_by(*per, "bin", "quantity", maintain_order=True).agg(
        pl.col(by).mean(),
        pl.len().alias("n"),
        mean.alias("mean"),
        (mean - error).alias("low"),
        (mean + error).alias("high"),
    )
    return grouped.filter(pl.col("n") >= SMALLEST_BIN).sort(*per, "quantity", by).drop("bin")
