"""What training did to a policy, as tables: entropy by percentile, stability, variance of gradients, cost by part."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import polars as pl
import torch

from empg.core.entropy import step_mean
from empg.files import read_json
from empg.policy.checkpoint import load_transformer
from empg.policy.transformer import Transformer
from empg.schema import STEPS, read_table
from empg.seeding import derive_seed
from empg.study.proposition import bin_means
from empg.study.results import Results, Run
from empg.training.packing import Conversation, packs

# Steps of the warm start's rollouts, in whole episodes, that a method's policies read again; shared among its seeds.
ENTROPY_STEPS = 1_200
PACK_TOKENS = 4096
PERCENT = 5  # width of a bin
STABILITY = ("kl", "grad_norm", "step_entropy_mean")
WEIGHTS = ("outcome advantage", "outcome advantage × g", "final advantage")


def entropy_changes(results: Results, run: Run) -> pl.DataFrame:
    """Step entropy before (the warm start's, as sampled) and after (this run's policy at the same tokens), in nats.

    The steps are the same for every run of an environment. Columns: environment, method, seed, trajectory, step,
    before, after, change.
    """
    collected = read_table(results.root / run.environment / "rollouts" / "rollouts.parquet", STEPS)
    seed = derive_seed("entropy_change", run.environment)
    steps = _drawn(collected, seed, ENTROPY_STEPS // len(results.study.seeds))
    network = load_transformer(run.train / "model", device="cuda" if torch.cuda.is_available() else "cpu")
    temperature = results.study.environments[run.environment].sampling.temperature
    key = [pl.lit(value).alias(name) for name, value in run.key.items()]
    before = pl.col("entropies").list.eval(pl.element().cast(pl.Float64)).list.mean()
    return steps.select(
        *key,
        "trajectory",
        "step",
        before.alias("before"),
        pl.Series("after", step_entropies(network, steps, temperature)),
    ).with_columns(change=pl.col("after") - pl.col("before"))


def _drawn(collected: pl.DataFrame, seed: int, steps: int) -> pl.DataFrame:
    """Random whole episodes that hold at least ``steps`` steps together, or all."""
    lengths = collected.group_by("trajectory", maintain_order=True).len()
    order = np.random.default_rng(seed).permutation(len(lengths))
    shuffled = lengths[order]
    taken = shuffled.filter(pl.col("len").cum_sum() - pl.col("len") < steps)["trajectory"]
    return collected.filter(pl.col("trajectory").is_in(taken.implode()))


@torch.no_grad()
def step_entropies(network: Transformer, steps: pl.DataFrame, temperature: float) -> list[float]:
    """The step entropy (nats) that ``network`` has at each step of a rollout table, at the table's own tokens."""
    episodes = [_conversation(rows) for _, rows in steps.group_by("trajectory", maintain_order=True)]
    device = network.embedding.device
    parts = [pack.statistics(network, temperature)[1].cpu() for pack in packs(episodes, PACK_TOKENS, device)]
    lengths = torch.from_numpy(steps["response_ids"].list.len().to_numpy().astype("int64"))
    values: list[float] = step_mean(torch.cat(parts).double(), torch.repeat_interleave(lengths), len(steps)).tolist()
    return values


def _conversation(rows: pl.DataFrame) -> Conversation:
    ids: list[int] = []
    mask: list[bool] = []
    for prompt, response in rows.select("prompt_ids", "response_ids").iter_rows():
        ids += prompt + response
        mask += [False] * len(prompt) + [True] * len(response)
    return Conversation(np.array(ids, dtype=np.int32), np.array(mask))


def by_percentile(changes: pl.DataFrame) -> pl.DataFrame:
    """Means of before, after and change in bins of :data:`PERCENT` % of the steps by the entropy before, per method.

    ``percentile`` is the middle of a bin; columns as of :func:`~empg.study.proposition.bin_means`.
    """
    per = ["environment", "method"]
    bins = (pl.col("before").rank("ordinal") - 1) * (100 // PERCENT) // pl.len()
    binned = changes.with_columns(percentile=((bins.cast(pl.Float64) + 0.5) * PERCENT).over(per))
    return bin_means(binned, "percentile", ["before", "after", "change"], bins=pl.col("percentile"), per=per)


def stability(training: pl.DataFrame) -> pl.DataFrame:
    """KL, gradient norm and step entropy for each iteration and method: mean, lowest and highest of the seeds.

    Long: environment, method, iteration, metric, mean, lowest, highest, seeds. A metric that a method does not compute
    has no rows.
    """
    key = ["environment", "method", "iteration"]
    long = training.unpivot(STABILITY, index=key, variable_name="metric", value_name="value").drop_nulls("value")
    value = pl.col("value").cast(pl.Float64)
    summary = (value.mean().alias("mean"), value.min().alias("lowest"), value.max().alias("highest"))
    return long.group_by(*key, "metric", maintain_order=True).agg(*summary, pl.len().alias("seeds"))


def gradient_variance(gradient_norms: pl.DataFrame) -> pl.DataFrame:
    """Variance over steps of each run's policy gradient, weighted by each of :data:`WEIGHTS`.

    With s the gradient of a step's mean log-probability and w its weight, the variance is E‖w·s‖² − ‖E w·s‖², the trace
    of the covariance. ‖E w·s‖² is estimated without bias from products of different steps, ``next_product`` of
    :func:`~empg.study.proposition.gradient_norms`. Columns: environment, method, seed, weight, steps, mean_square,
    square_mean, variance, relative (to the outcome advantage's variance; null where that is not positive).
    """
    a, g, final = pl.col("outcome_advantage"), pl.col("gradient_scale"), pl.col("advantage")
    key = ["environment", "method", "seed"]
    frames = []
    for name, weight in zip(WEIGHTS, (a, a * g, final), strict=True):
        pair = weight * weight.shift(-1) * pl.col("next_product")
        summed = gradient_norms.group_by(key, maintain_order=True).agg(
            pl.len().alias("steps"),
            (weight * pl.col("norm")).pow(2).mean().alias("mean_square"),
            pair.mean().alias("square_mean"),
        )
        frames.append(summed.with_columns(weight=pl.lit(name), variance=pl.col("mean_square") - pl.col("square_mean")))
    base = frames[0].select(*key, pl.when(pl.col("variance") > 0).then("variance").alias("base"))
    table = pl.concat(frames).join(base, on=key, how="left", maintain_order="left")
    return table.select(
        *key, "weight", "steps", "mean_square", "square_mean", "variance", relative=pl.col("variance") / pl.col("base")
    )


def cost_by_part(results: Results) -> pl.DataFrame:
    """CPU seconds of each trained run by part: collect, update, write, rest, evaluate. One row a run and part."""
    return pl.DataFrame([row for run in results.trained() for row in _cost(run)])


def _cost(run: Run) -> Iterator[dict[str, object]]:
    train, evaluate = (read_json(folder / "timing.json") for folder in (run.train, run.evaluate))
    parts = {part: sum(i[part] for i in train["iterations"]) for part in ("collect", "update", "write")}
    parts["rest"] = max(0.0, train["cpu_seconds"] - sum(parts.values()))
    parts["evaluate"] = evaluate["cpu_seconds"]
    yield from ({**run.key, "part": part, "cpu_seconds": float(seconds)} for part, seconds in parts.items())
