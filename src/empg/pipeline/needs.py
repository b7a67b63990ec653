"""How much memory each job of a study needs, estimated from its settings before anything runs.

The constants were fitted to the peaks of the default study and to warm starts of other sizes
(docs/running-on-gpus.md has the table). An estimate lies above the peak and below twice the peak.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from empg.config import DataSet, Decisiveness, EnvironmentStudy, PretrainedPolicy, Study, TinyPolicy, cut
from empg.config.slices import WARM_START, EvaluateRun
from empg.errors import ConfigError
from empg.policy import memory

MB = 10**6
MARGIN = 1.15
PROCESS = 380 * MB  # Python with torch and polars, the data set and the tokenizer
TRACKING = 230 * MB  # MLflow, in the jobs that log live curves
UPDATE = 40 * MB  # the parts of an update that its size does not change
EPISODE_TOKEN = 90  # bytes of a token of an episode's context, until the episodes are written
BRANCH_TOKEN = 35  # the same of a branch, which shares its beginning with others
REPORT, REPORTED_EPISODE = 450 * MB, 15_000  # bytes of an evaluated episode in the report
FIXED = {
    "data": 112 * MB,
    "mlflow_database": 350 * MB,
    "track": 900 * MB,
    "testbed": 2000 * MB,
    "decisiveness_report": 600 * MB,
}
TASKS = 500  # of a split whose data set does not say how many it has
ALONE = ("report", "track")  # they wait for all other jobs


class Need(NamedTuple):
    """A job, the cores that it takes and the bytes that it needs; None where no estimate can be made."""

    job: str
    threads: int
    size: int | None


@dataclass(frozen=True, slots=True)
class Needs:
    """Estimates for a study. ``data`` holds the data sets by name."""

    study: Study
    data: Mapping[str, DataSet]

    def of(self, rule: str, environment: str | None = None) -> int | None:
        """Bytes that a job of this rule needs, in this environment where the rule is of one.

        None: there is no estimate for this rule, or the policy is a model that is not on this machine yet.
        """
        if environment is None or rule not in (parts := self._parts(environment)):
            return self._report() if rule == "report" else FIXED.get(rule)
        settings = self.study.environments[environment]
        sizes = _sizes(settings.policy)
        if sizes is None:
            return None
        processes = settings.processes if rule in ("warmstart", "rollouts", "train") else 1
        return round(MARGIN * processes * (PROCESS + parts[rule](_Environment(settings, sizes))))

    def _parts(self, environment: str) -> dict[str, Callable[[_Environment], float]]:
        """What each rule of an environment needs beside :data:`PROCESS`."""
        return {
            "warmstart": self._warmstart,
            "rollouts": self._rollouts,
            "train": self._train,
            "evaluate": lambda e: self._evaluate(environment, e, self.study.baseline),
            "evaluate_warmstart": lambda e: self._evaluate(environment, e, WARM_START),
            "decisiveness": self._decisiveness,
            "decisiveness_halfway": self._decisiveness,
            "decisiveness_warmstart": self._decisiveness,
        }

    def megabytes(self, rule: str, environment: str | None = None, *, unknown: int) -> int:
        """What to request of a cluster for such a job, ``unknown`` where no estimate can be made."""
        size = self.of(rule, environment)
        return unknown if size is None else -(-size // MB)

    def _report(self) -> int:
        runs = 1 + len(self.study.methods) * len(self.study.seeds)
        episodes = sum(runs * self._episodes(name, self.study.baseline) for name in self.study.environments)
        return round(MARGIN * (REPORT + REPORTED_EPISODE * episodes))

    def _warmstart(self, e: _Environment) -> float:
        settings, longest = e.settings.warmstart, e.sizes.context(e.settings)
        tokens = min(settings.micro_batch_tokens, settings.batch_tokens + longest)
        return TRACKING + (e.sizes.update(max(tokens, longest), e.settings, 1) if settings.tokens else 0)

    def _rollouts(self, e: _Environment) -> float:
        return e.sampling(e.settings.rollouts.tasks * e.settings.train.group_size)

    def _train(self, e: _Environment) -> float:
        train = e.settings.train
        tokens = max(train.micro_batch_tokens, e.sizes.context(e.settings))
        update = e.sizes.update(tokens, e.settings, 2)
        return TRACKING + update + e.sampling(train.groups * train.group_size)

    def _evaluate(self, environment: str, e: _Environment, method: str) -> float:
        return e.sampling(self._episodes(environment, method))

    def _decisiveness(self, e: _Environment) -> float:
        measured = self.study.decisiveness or Decisiveness()
        branches = e.sampling(measured.steps * measured.responses * measured.continuations, BRANCH_TOKEN)
        if measured.gradients is None:
            return branches
        parts = math.ceil(measured.gradients.episodes / (e.settings.train.groups * e.settings.train.group_size))
        kept = parts + measured.gradients.batches * (1 + len(self.study.methods))
        return branches + 4 * kept * e.sizes.parameters

    def _episodes(self, environment: str, method: str) -> int:
        """Episodes of an evaluation that are in memory together."""
        settings = cut(EvaluateRun, self.study, dict(self.data), environment, method=method).evaluate
        sizes = getattr(self.data[self.study.data_set(environment)], "sizes", None)
        return (1 + settings.episodes) * sum(int(getattr(sizes, split, TASKS)) for split in settings.splits)


@dataclass(frozen=True, slots=True)
class _Environment:
    """The settings of an environment and the sizes of its policy."""

    settings: EnvironmentStudy
    sizes: _Sizes

    def sampling(self, episodes: int, token: int = EPISODE_TOKEN) -> float:
        """Bytes of playing so many episodes: the cache of those in play, and what is kept of all."""
        context = min(self.settings.sampling.max_context, self.sizes.context(self.settings))
        rows = min(self.settings.sampling.rows, episodes)
        return self.sizes.cache(rows, context, self.settings) + token * episodes * context


class _Sizes:
    """What an update and a cache take, in bytes, with a tiny policy."""

    def __init__(self, policy: TinyPolicy) -> None:
        self.policy = policy
        self.kv = policy.width // policy.heads * policy.kv_heads
        layer = policy.width * (2 * policy.width + 2 * self.kv + 3 * policy.mlp_width)
        self.parameters = policy.vocab_size * policy.width + policy.layers * layer

    def context(self, settings: EnvironmentStudy) -> int:
        """The most tokens of a conversation."""
        return self.policy.max_positions

    def update(self, tokens: int, settings: EnvironmentStudy, copies: int) -> float:
        """Activations in float32, gradients, the optimiser's state and ``copies`` of the weights."""
        p = self.policy
        activations = p.layers * (6 * p.width + 3 * (p.width + 2 * self.kv) + 6 * p.mlp_width)
        return UPDATE + 4 * (tokens * activations + (5 + copies) * self.parameters)

    def cache(self, rows: int, context: int, settings: EnvironmentStudy) -> float:
        """Keys and values of all rows at the end of their context, and the logits of one step."""
        return 4 * rows * (2 * context * self.policy.layers * self.kv + 4 * self.policy.vocab_size)


class _PretrainedSizes(_Sizes):
    """The same with a pretrained policy whose folder is on this machine: :mod:`empg.policy.memory`."""

    def __init__(self, policy: PretrainedPolicy) -> None:
        self.pretrained, self.sizes = policy, memory.Sizes.of(Path(policy.model))
        self.parameters = self.sizes.parameters

    def context(self, settings: EnvironmentStudy) -> int:
        return settings.sampling.max_context

    def update(self, tokens: int, settings: EnvironmentStudy, copies: int) -> float:
        context = settings.sampling.max_context
        if settings.engine == "trl":
            parts = memory.trl_update_bytes(self.sizes, self.pretrained, tokens, context, reference=copies > 1)
        else:
            parts = memory.update_bytes(self.sizes, self.pretrained, tokens, context, copies)
        return sum(parts.values())

    def cache(self, rows: int, context: int, settings: EnvironmentStudy) -> float:
        return sum(memory.sampling_bytes(self.sizes, self.pretrained, rows, context).values())


def _sizes(policy: TinyPolicy | PretrainedPolicy) -> _Sizes | None:
    if isinstance(policy, TinyPolicy):
        return _Sizes(policy)
    return _PretrainedSizes(policy) if Path(policy.model, "config.json").is_file() else None


# ------------------------------------------------------------------------------------------------------- side by side
def side_by_side(needs: Iterable[Need], cores: int) -> list[Need]:
    """The jobs that need most together on so many cores. A job of :data:`ALONE` has no other beside it."""
    known = sorted((need for need in needs if need.size), key=lambda need: -(need.size or 0))
    together: list[Need] = []
    for need in known:
        if need.job.partition(" ")[0] not in ALONE and cores >= min(need.threads, cores) > 0:
            together.append(need)
            cores -= need.threads
    alone = [[need] for need in known if need.job.partition(" ")[0] in ALONE]
    return max([together, *alone], key=_total)


def check(needs: Iterable[Need], cores: int, limit: int | None = None) -> str:
    """One sentence about what the jobs need at most and what this machine has.

    Raises :class:`ConfigError` with the numbers if a job does not fit into this machine's memory, or if those that may
    run side by side do not. ``limit`` bounds the latter in bytes: the resource ``mem_mb``, which Snakemake keeps to.
    """
    needs, (there, what) = list(needs), memory.machine()
    together = side_by_side(needs, cores)
    total = _total(together)
    largest = max(needs, key=lambda need: need.size or 0, default=Need("none", 1, None))
    most = largest.size or 0
    if most > there:
        raise ConfigError(
            f"memory: expected every job to fit into the {_gb(there)} of {what}, found {largest.job}, which needs "
            f"about {_gb(most)}; lower sampling.rows, max_context, micro_batch_tokens or the policy's sizes"
        )
    if limit is not None and limit < total:
        total, beside = max(limit, most), "jobs side by side that wait for mem_mb"
    else:
        beside = f"{len(together)} jobs side by side"
    if total > there:
        jobs = ", ".join(f"{need.job} {_gb(need.size or 0)}" for need in together)
        raise ConfigError(
            f"memory: expected jobs side by side to fit into the {_gb(there)} of {what}, found about {_gb(total)} for "
            f"{beside} ({jobs}); use fewer --cores, or --resources mem_mb={there // MB}, with which jobs wait"
        )
    unknown = sum(need.size is None for need in needs)
    rest = f"; jobs that are not estimated: {unknown}" if unknown else ""
    named = f", the largest job {_gb(most)} ({largest.job})" if most else ""
    return f"Memory: at most about {_gb(total)} for {beside}{named}, of {_gb(there)}{rest}"


def _total(needs: Iterable[Need]) -> int:
    return sum(need.size or 0 for need in needs)


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
