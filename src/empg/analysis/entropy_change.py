"""How training changes step entropy, by the entropy before it: Figure 3 of arXiv 2509.09265.

Each trained policy scores the same steps again, those that the warm start collected. So only the policy makes a change,
not the situations that it reaches.
"""

from __future__ import annotations

import math

import polars as pl
import torch

from empg.analysis.results import Results, Run
from empg.analysis.training_summaries import means_over_seeds
from empg.config import Study
from empg.core.entropy import step_mean
from empg.environments.prompts import turns_apart
from empg.policy.packing import packs
from empg.policy.policy import Policy
from empg.rollouts.table import from_table
from empg.schema import STEPS, read_table
from empg.training.update import conversations

EPISODES = 96  # per method, shared equally among its seeds and spread over the collection's tasks
BINS = 20  # each holds 5 % of the steps, as in the paper
PACK_TOKENS = 4096


def rescored_steps(results: Results, run: Run) -> pl.DataFrame:
    """Entropies of the warm start's steps before and after one training run, one row per step.

    The steps are the seed's share of :data:`EPISODES` episodes of the collection. All methods score the same steps and
    each seed scores others, so an interval over seeds covers other steps too. Columns: environment, method, seed,
    trajectory, step, ``before`` (nats, recorded when sampled), ``after`` (nats) and ``log_ratio`` (nats), which is
    log π_warm − log π_trained averaged over the step's tokens.
    """
    collection = read_table(results.root / run.environment / "rollouts" / "rollouts.parquet", STEPS)
    numbers = collection["trajectory"].unique().sort()
    count = math.ceil(EPISODES / len(results.study.seeds))
    apart = max(1, len(numbers) // count)  # a group's episodes are neighbours, so every task gives a share
    drawn = numbers.gather_every(apart, results.study.seeds.index(run.seed) % apart).head(count)
    steps = collection.filter(pl.col("trajectory").is_in(drawn.implode()))
    network = Policy.load(run.train / "model", "").network
    settings = results.study.environments[run.environment]
    temperature = settings.sampling.temperature
    trajectories = from_table(steps, run.environment)
    whole = conversations(trajectories, apart=turns_apart(settings.interface))
    with torch.no_grad():
        parts = [pack.statistics(network, temperature) for pack in packs(whole, PACK_TOKENS, network.device)]
    logprob, entropy = (torch.cat(part).double().cpu() for part in zip(*parts, strict=True))
    number = torch.repeat_interleave(torch.tensor(steps["response_ids"].list.len().to_list()))
    means = [step_mean(values, number, len(steps)).numpy() for values in (entropy, logprob)]
    return steps.select(
        pl.lit(run.environment).alias("environment"),
        pl.lit(run.method).alias("method"),
        pl.lit(run.seed, dtype=pl.Int64).alias("seed"),
        "trajectory",
        "step",
        pl.col("entropies").list.mean().cast(pl.Float64).alias("before"),
        pl.Series("after", means[0]),
        (pl.col("logprobs").list.mean().cast(pl.Float64) - pl.Series(means[1])).alias("log_ratio"),
    )


def entropy_change(rescored: pl.DataFrame, study: Study) -> pl.DataFrame:
    """Mean change of step entropy (nats) in each of :data:`BINS` percentile ranges of the entropy before.

    Columns are those of :func:`~empg.analysis.training_summaries.means_over_seeds`, where ``percentile`` is the upper
    end of a range, and two more: the range's mean entropy ``before`` (nats) and its number of ``steps`` over all seeds.
    """
    run = ["environment", "method", "seed"]
    rank = (pl.col("before").rank("ordinal") - 1) * BINS // pl.len()
    binned = rescored.with_columns(((rank + 1) * (100 // BINS)).cast(pl.Int64).over(run).alias("percentile"))
    by_seed = binned.group_by(*run, "percentile").agg(
        pl.col("before").mean(),
        (pl.col("after") - pl.col("before")).mean().alias("value"),
        pl.len().cast(pl.Int64).alias("steps"),
    )
    by_seed = by_seed.sort("environment", "percentile", "method", "seed")
    key = ["environment", "percentile", "method"]
    ranges = by_seed.group_by(key).agg(pl.col("before").mean(), pl.col("steps").sum())
    return means_over_seeds(by_seed, "percentile", study).join(ranges, on=key, how="left", maintain_order="left")


def forward_kl(rescored: pl.DataFrame) -> pl.DataFrame:
    """``forward_kl`` (nats) of each run: the mean ``log_ratio`` over steps, which estimates KL(warm start ‖ trained).

    Every method has it, unlike the KL of the training metrics.
    """
    run = ["environment", "method", "seed"]
    return rescored.group_by(run, maintain_order=True).agg(pl.col("log_ratio").mean().alias("forward_kl"))
