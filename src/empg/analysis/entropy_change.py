"""How reinforcement learning changed the entropy of steps, by what it was before: Figure 3 of arXiv 2509.09265.

Steps of the warm start's collection are scored again with each trained policy. So a change is one of the policy alone,
not of the situations that it gets into.
"""

from __future__ import annotations

import math

import polars as pl
import torch

from empg.analysis.results import Results, Run
from empg.analysis.training_course import means_over_seeds
from empg.config import Study
from empg.core.entropy import step_mean
from empg.policy.weights import load_transformer
from empg.rollouts.table import from_table
from empg.schema import STEPS, read_table
from empg.training.packing import packs
from empg.training.update import conversation

EPISODES = 96  # of all seeds of a method together, each an equal part; spread over the collection's tasks
BINS = 20  # of 5 % of the steps each, as in the paper
PACK_TOKENS = 4096


def rescored_steps(results: Results, run: Run) -> pl.DataFrame:
    """Step entropies of the warm start's own steps before and after one training run.

    Methods are given the same steps, seeds others, so that an interval over seeds is about other steps too. One row a
    step of the seed's part of :data:`EPISODES` episodes of the collection: environment, method, seed, trajectory, step,
    ``before`` (as recorded when sampled) and ``after`` (nats), and ``log_ratio``, the mean over the step's tokens of
    log π_warm − log π_trained (nats).
    """
    collection = read_table(results.root / run.environment / "rollouts" / "rollouts.parquet", STEPS)
    numbers = collection["trajectory"].unique().sort()
    count = math.ceil(EPISODES / len(results.study.seeds))
    apart = max(1, len(numbers) // count)  # a group's episodes are neighbours, so this takes a share of each task
    drawn = numbers.gather_every(apart, results.study.seeds.index(run.seed) % apart).head(count)
    steps = collection.filter(pl.col("trajectory").is_in(drawn.implode()))
    network = load_transformer(run.train / "model", device="cuda" if torch.cuda.is_available() else "cpu")
    temperature = results.study.environments[run.environment].sampling.temperature
    trajectories = from_table(steps, run.environment)
    with torch.no_grad():
        parts = [
            pack.statistics(network, temperature)
            for pack in packs([conversation(t) for t in trajectories], PACK_TOKENS, network.embedding.device)
        ]
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

    As :func:`~empg.analysis.training_course.means_over_seeds` makes it, ``percentile`` naming the range by its upper
    end, with the range's mean entropy ``before`` and number of ``steps`` of all seeds.
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
    """``forward_kl`` of each run: mean over steps of ``log_ratio``, an estimate of KL(warm start ‖ trained) in nats.

    Unlike the KL of the training metrics it is there for every method.
    """
    run = ["environment", "method", "seed"]
    return rescored.group_by(run, maintain_order=True).agg(pl.col("log_ratio").mean().alias("forward_kl"))
