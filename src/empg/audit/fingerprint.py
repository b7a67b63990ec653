"""What this processor makes of the same sums: a hash of a short warm start and of one iteration of training.

Processors round differently, so the same settings may give other weights on another one. The fingerprint is the same
where the weights are. It needs no files and takes seconds: its tasks are few and made at once, its settings stand here.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, fields
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from empg import arithmetic
from empg.config import TrainRun, WarmStartRun, parse
from empg.environments import data as data_stage
from empg.environments.datasets import open_dataset
from empg.errors import DataError
from empg.files import atomic_path, write_text
from empg.policy.policy import Policy
from empg.rollouts.collect import group_episodes, make_sampler
from empg.rollouts.episodes import Trajectory
from empg.timing import processor_model
from empg.training.optimiser import Optimiser
from empg.training.update import credit_of, minibatches, token_batch, update
from empg.training.warmstart import fine_tune, make_policy

DIGITS = 8  # of a hash that are shown
REWARDS = (1.0, 0.0)  # given in turn: a policy of twelve updates solves nothing, which would teach it nothing
#: Each environment as the default study has it, with few tasks.
ENVIRONMENTS: dict[str, dict[str, Any]] = {
    "alfworld": {
        "data": {"type": "alfworld", "sizes": {"train": 8, "valid_seen": 1, "valid_unseen": 1, "tune": 1}},
        "max_steps": 6,
    },
    "webshop": {
        "data": {"type": "webshop", "sizes": {"train": 8, "valid": 1, "test": 1, "tune": 1}},
        "policy": {
            "layers": 2,
            "vocab_size": 1200,
            "rope_theta": 1_000_000,
            "max_positions": 2048,
            "induction": True,
            "residual_scale": 30,
        },
        "sampling": {"max_context": 2048},
        "warmstart": {"observation_weight": 0.5},
        "max_steps": 6,
    },
    "deepsearch": {
        "data": {"type": "deepsearch", "sizes": {"train": 8, "id": 1, "ood": 1, "tune": 1}},
        "interface": {"top_k": 1},
        "policy": {"layers": 2, "rope_theta": 1_000_000, "induction": True},
        "warmstart": {"observation_weight": 0.5},
        "max_steps": 5,
    },
}
#: What an emulator computes in minutes: narrow layers, few and short conversations.
SMALL = {
    "policy": {"width": 48, "mlp_width": 128},
    "warmstart": {"batch_tokens": 512},
    "sampling": {"max_response": 16},
    "max_steps": 2,
}
BEGIN, END = "<!-- fingerprints -->\n", "<!-- end of fingerprints -->\n"


@dataclass(frozen=True, slots=True)
class Size:
    """How much is computed: updates of the warm start, and groups and updates of the iteration."""

    updates: int
    groups: int
    train_updates: int
    changes: dict[str, Any]


SIZES = {"full": Size(12, 4, 2, {}), "small": Size(2, 1, 1, SMALL)}


# --------------------------------------------------------------------------------------------------------- measurement
def measure(environment: str, size: Size) -> str:
    """The hash of the weights after the warm start, and of the episodes and weights after the iteration.

    One thread; ``arithmetic: portable`` must be installed beforehand where it is wanted.
    """
    torch.set_num_threads(1)
    start, training = _configs(environment, size)
    with TemporaryDirectory() as name:
        folder = Path(name)
        data_stage.run(start.data, folder)
        policy = make_policy(start, folder)
        losses = [metrics["loss"] for metrics in islice(fine_tune(policy, start, folder), size.updates)]
        warm_start = _hash(*_weights(policy), np.array(losses))
        trajectories = _iterate(policy, training, folder)
    sampled = (part for t in trajectories for s in t.steps for part in (s.response_ids, s.logprobs, s.entropies))
    return f"{warm_start}-{_hash(*sampled, *_weights(policy))}"


def _configs(environment: str, size: Size) -> tuple[WarmStartRun, TrainRun]:
    settings = dict(ENVIRONMENTS[environment])
    for name, changes in size.changes.items():
        settings[name] = settings.get(name, {}) | changes if isinstance(changes, dict) else changes
    own = {
        "environment": environment,
        "data": settings["data"],
        "system": "",
        "interface": settings.get("interface", {}),
        "policy": {"type": "tiny"} | settings.get("policy", {}),
    }
    warmstart = {"tokens": 1_000_000, "warmup": 0.001} | settings.get("warmstart", {})
    training = {
        "max_steps": settings["max_steps"],
        "sampling": settings.get("sampling", {}),
        "train": {"groups": size.groups, "updates": size.train_updates},
        "method_name": "grpo_empg",
        "method": {"advantage": "grpo", "modulation": "empg", "zeta": 0.1},
        "seed": 1,
    }
    where = f"fingerprint of {environment}"
    return parse(WarmStartRun, own | {"warmstart": warmstart}, where), parse(TrainRun, own | training, where)


def _iterate(policy: Policy, config: TrainRun, folder: Path) -> list[Trajectory]:
    """One iteration of training, with rewards that are given in turn. Returns the episodes."""
    dataset = open_dataset(config.data, folder, config.interface)
    sampler = make_sampler(policy, config.sampling, dataset, config.max_steps)
    episodes = group_episodes(dataset.tasks("train")[: config.train.groups], config.train.group_size, 0, "fingerprint")
    trajectories = sampler.play(episodes)
    for number, trajectory in enumerate(trajectories):
        trajectory.reward = REWARDS[number % len(REWARDS)]
    credit = credit_of(config, policy.network, trajectories)
    optimiser = Optimiser(policy.network, config.train.optimiser)
    for part, advantage in minibatches(trajectories, credit.token_advantage, config.train.updates):
        update(
            policy.network,
            None,
            optimiser,
            token_batch(part, advantage, config.method.aggregation, policy.network.device),
            config.method,
            temperature=config.sampling.temperature,
            micro_batch_tokens=config.train.micro_batch_tokens,
        )
    return trajectories


def _weights(policy: Policy) -> list[np.ndarray]:
    return [parameter.detach().cpu().numpy() for _, parameter in sorted(policy.network.named_parameters())]


def _hash(*arrays: np.ndarray) -> str:
    found = hashlib.sha256()
    for array in arrays:
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()[:DIGITS]


# --------------------------------------------------------------------------------------------------------------- table
@dataclass(frozen=True, slots=True)
class Row:
    """The fingerprint of a processor; ``arithmetic`` is ``portable``, or ``native`` with torch's instructions."""

    processor: str
    arithmetic: str
    size: str
    torch: str
    numpy: str
    alfworld: str
    webshop: str
    deepsearch: str

    @property
    def key(self) -> tuple[str, ...]:
        """What the hashes may depend on. Builds of torch for CPU and CUDA count as one."""
        return self.processor, self.arithmetic, self.size, self.torch, self.numpy

    @property
    def hashes(self) -> tuple[str, str, str]:
        return self.alfworld, self.webshop, self.deepsearch


def run(kind: str, size: str, processor: str | None, page: Path | None) -> Iterator[str]:
    """Measure, and yield what to print: first what was measured on, then each hash as it comes.

    ``kind`` is ``native`` or ``portable``, ``size`` one of :data:`SIZES`. ``processor`` replaces the name that the
    operating system tells, as in an emulator. With ``page`` the row goes into its table, and into the
    one beside it (``.csv``).
    """
    if kind == "portable":
        arithmetic.install()
    name = kind if kind == "portable" else f"{kind}, {torch.backends.cpu.get_cpu_capability()}"
    about = (processor or processor_model(), name, size, version("torch").partition("+")[0], version("numpy"))
    yield "{}: {}, {}, torch {}, numpy {}".format(*about)
    hashes = []
    for environment in ENVIRONMENTS:
        hashes.append(measure(environment, SIZES[size]))
        yield f"{environment}: {hashes[-1]}"
    if page is not None:
        extend(page, Row(*about, *hashes))


def extend(page: Path, row: Row) -> None:
    """Add a row to the tables, in place of the one that it supersedes."""
    table = page.with_suffix(".csv")
    rows = {found.key: found for found in [*read(table), row]}
    ordered = sorted(rows.values(), key=lambda r: (r.torch, r.numpy, r.size, r.arithmetic != "portable", r.key))
    with atomic_path(table) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([_columns(), *map(astuple, ordered)])
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise DataError(f"{page}: expected a table between {BEGIN.strip()} and {END.strip()}, found none")
    write_text(page, before + BEGIN + markdown(ordered) + END + after)


def read(table: Path) -> list[Row]:
    """The rows of a CSV file. Raises :class:`DataError` if it has other columns."""
    head, *rows = csv.reader(table.read_text(encoding="utf-8").splitlines())
    if head != _columns():
        raise DataError(f"{table}: expected the columns {', '.join(_columns())}, found {', '.join(head)}")
    return [Row(*row) for row in rows]


def markdown(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table."""
    cells = [_columns(), ["---"] * len(_columns()), *([*astuple(r)[:5], *(f"`{h}`" for h in r.hashes)] for r in rows)]
    return "\n" + "".join(f"| {' | '.join(row)} |\n" for row in cells) + "\n"


def _columns() -> list[str]:
    return [field.name for field in fields(Row)]
