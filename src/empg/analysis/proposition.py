"""Proposition 1 of arXiv 2509.09265 measured on trained policies, and the gradient's norm against step entropy.

The proposition is about the logits; the norm says what it comes to for all parameters. Both are of single steps and say
nothing of an estimate of the policy gradient, which :mod:`empg.analysis.gradient_quality` measures. The contexts come
from the last iteration's rollouts; the policy is the one at the end of training.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from torch import Tensor

from empg.analysis.results import Results, Run
from empg.core.entropy import expected_score_norm_squared, renyi2_entropy, score_norm_squared
from empg.environments.prompts import turns_apart
from empg.policy.network import Network
from empg.policy.policy import Policy
from empg.seeding import derive_seed

# Per method and shared equally among its seeds, so that more seeds do not make the report slower.
TOKENS = 4_000
STEPS = 120
DRAWS = 16
SMALLEST_BIN = 10


@dataclass(frozen=True, slots=True)
class EpisodeTokens:
    """``ids`` ``[tokens]`` of a conversation; ``responses`` are the sampled spans [start, end), one per step."""

    ids: Tensor
    responses: list[tuple[int, int]]


def conversations(rollouts: pl.DataFrame, device: torch.device, *, apart: bool = False) -> Iterator[EpisodeTokens]:
    """The episodes of a rollout table, in its order; with ``apart`` each step, which is a conversation of its own."""
    for _, rows in rollouts.group_by("trajectory", maintain_order=True):
        ids: list[int] = []
        responses = []
        for prompt, response in rows.select("prompt_ids", "response_ids").iter_rows():
            start = len(ids) + len(prompt)
            ids += prompt + response
            responses.append((start, len(ids)))
            if apart:
                yield EpisodeTokens(torch.tensor(ids, device=device), responses)
                ids, responses = [], []
        if not apart:
            yield EpisodeTokens(torch.tensor(ids, device=device), responses)


def measure(results: Results, run: Run) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Tables of one trained run: score norms and gradient norms. Each row names the run."""
    network = Policy.load(run.train / "model", "").network
    rollouts, settings = results.last_rollouts(run), results.study.environments[run.environment]
    temperature, apart = settings.sampling.temperature, turns_apart(settings.interface)
    seed = derive_seed("proposition", run.environment, run.method, run.seed or 0)
    key = [pl.lit(value).alias(name) for name, value in run.key.items()]
    tokens, steps = (math.ceil(count / len(results.study.seeds)) for count in (TOKENS, STEPS))
    scores = score_norms(network, rollouts, count=tokens, temperature=temperature, seed=seed, apart=apart)
    norms = gradient_norms(network, rollouts, count=steps, temperature=temperature, seed=seed, apart=apart)
    return scores.select(*key, pl.all()), norms.select(*key, pl.all())


@torch.no_grad()
def score_norms(
    network: Network, rollouts: pl.DataFrame, *, count: int, temperature: float, seed: int, apart: bool = False
) -> pl.DataFrame:
    """Squared score norm ‖∇_z log π(a)‖² at ``count`` contexts of the rollouts, measured and as Proposition 1 expects.

    Contexts are drawn without replacement. ``measured`` is the mean over :data:`DRAWS` tokens a drawn from the network,
    because the proposition assumes a ~ π and the rollouts' tokens come from the policy before the last update.
    Columns: renyi2 (nats), expected, measured.
    """
    device = network.device
    random = np.random.default_rng(seed)
    hidden = torch.cat(
        [
            network.states(c.ids)[torch.cat([torch.arange(s - 1, e - 1, device=device) for s, e in c.responses])]
            for c in _drawn_conversations(rollouts, 2 * count, random, device, apart)
        ]
    )
    chosen = random.choice(len(hidden), size=min(count, len(hidden)), replace=False)
    logits = network.logits(hidden[torch.from_numpy(chosen).to(device)]).double() / temperature
    generator = torch.Generator(device).manual_seed(seed)
    drawn = torch.multinomial(logits.softmax(-1), DRAWS, replacement=True, generator=generator)
    columns = {
        "renyi2": renyi2_entropy(logits),
        "expected": expected_score_norm_squared(logits),
        "measured": torch.stack([score_norm_squared(logits, a) for a in drawn.T]).mean(0),
    }
    return pl.DataFrame({name: value.cpu().numpy() for name, value in columns.items()})


def _drawn_conversations(
    rollouts: pl.DataFrame, tokens: int, random: np.random.Generator, device: torch.device, apart: bool
) -> list[EpisodeTokens]:
    """Random episodes with at least ``tokens`` sampled tokens in total, or all episodes where there are fewer."""
    ids = rollouts["trajectory"].unique(maintain_order=True).to_numpy()
    counts = dict(
        rollouts.group_by("trajectory").agg(pl.col("response_ids").list.len().sum()).iter_rows()  # sampled tokens
    )
    total, drawn = 0, []
    for trajectory in random.permutation(ids):
        if total >= tokens:
            break
        drawn.append(trajectory)
        total += counts[trajectory]
    return list(conversations(rollouts.filter(pl.col("trajectory").is_in(drawn)), device, apart=apart))


def gradient_norms(
    network: Network, rollouts: pl.DataFrame, *, count: int, temperature: float, seed: int, apart: bool = False
) -> pl.DataFrame:
    """The gradient of the mean log-probability of a step for ``count`` random trained steps, over all parameters.

    The advantage multiplies the gradient, so a step weighs |A_i|·norm before modulation and |A_final|·norm after. One
    row per step: step_entropy (nats), outcome_advantage, gradient_scale, advantage, norm, before, after.
    """
    trained = rollouts.filter(pl.col("trained")).with_row_index("row")
    random = np.random.default_rng(seed)
    rows = np.sort(random.choice(len(trained), size=min(count, len(trained)), replace=False))
    drawn = trained.filter(pl.col("row").is_in(rows))
    episodes = rollouts.filter(pl.col("trajectory").is_in(drawn["trajectory"].unique().to_list()))
    episodes = episodes.sort("trajectory", "step")
    spans = [(c.ids, span) for c in conversations(episodes, network.device, apart=apart) for span in c.responses]
    by_step = dict(zip(episodes.select("trajectory", "step").iter_rows(), spans, strict=True))
    norms = []
    for key in drawn.select("trajectory", "step").iter_rows():
        gradient = _gradient(network, *by_step[key], temperature)
        norms.append(float(torch.linalg.vector_norm(torch.stack([g.double().norm() for g in gradient]))))
    kept = drawn.select("step_entropy", "outcome_advantage", "gradient_scale", "advantage").cast(pl.Float64)
    return kept.with_columns(pl.Series("norm", norms, dtype=pl.Float64)).with_columns(
        before=pl.col("outcome_advantage").abs() * pl.col("norm"), after=pl.col("advantage").abs() * pl.col("norm")
    )


def _gradient(network: Network, ids: Tensor, span: tuple[int, int], temperature: float) -> list[Tensor]:
    start, end = span
    hidden = network.states(ids[:end])[start - 1 : end - 1]
    logprob, _ = network.statistics(hidden, ids[start:end], temperature)
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    found = torch.autograd.grad(logprob.mean(), trained, allow_unused=True)  # an experts' layer may use few of them
    return [gradient for gradient in found if gradient is not None]


def equal_counts(by: str, bins: int) -> pl.Expr:
    """Bin number of each row, for bins with equal numbers of rows."""
    return (pl.col(by).rank("ordinal") - 1) * bins // pl.len()


def equal_widths(by: str, bins: int) -> pl.Expr:
    """Bin number of each row, for bins of equal width between the smallest and the largest value."""
    low, high = pl.col(by).min(), pl.col(by).max()
    return ((pl.col(by) - low) / (high - low) * bins).floor().clip(0, bins - 1).fill_nan(0)


def bin_means(frame: pl.DataFrame, by: str, values: list[str], *, bins: pl.Expr, per: list[str]) -> pl.DataFrame:
    """Mean of each value with ± 1.96 standard errors in bins of ``by``. Each group of ``per`` has bins of its own.

    Long format: per…, ``by`` (the bin's mean), n, quantity, mean, low, high. Bins of fewer than :data:`SMALLEST_BIN`
    rows are left out, because their intervals mean nothing.
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
