"""What a training run leaves on disk as it goes: credited rollouts, checkpoints, seconds. It computes no number."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from empg.files import atomic_directory
from empg.policy.policy import Policy
from empg.provenance import Record
from empg.rollouts.table import to_table
from empg.schema import CREDIT, CREDITED_STEPS
from empg.training import checkpoint
from empg.training.batches import Collected
from empg.training.credit import Credit
from empg.training.optimiser import Optimiser

HALFWAY = "halfway"  # the folder of the policy of half-way


@dataclass(frozen=True, slots=True)
class Writer:
    """Writes into the folder of a run."""

    record: Record

    @property
    def checkpoints(self) -> Path:
        return self.record.out / "checkpoint"

    def resume(self, policy: Policy, optimiser: Optimiser) -> checkpoint.Progress:
        """Restore the last checkpoint in place. Start over where none has the same configuration and inputs."""
        found = checkpoint.load_latest(self.checkpoints, policy.network, optimiser, self.record.digest)
        if found is not None:
            return found
        shutil.rmtree(self.checkpoints, ignore_errors=True)
        for name in ("rollouts", HALFWAY):
            shutil.rmtree(self.record.out / name, ignore_errors=True)
        return checkpoint.Progress(self.record.digest, 0, 0, [])

    def checkpoint(self, policy: Policy, optimiser: Optimiser, progress: checkpoint.Progress) -> None:
        """Save everything that the next iterations depend on, and what it cost to come here."""
        self.record.clock.write()
        checkpoint.save(self.checkpoints, policy.network, optimiser, progress)

    def halfway(self, policy: Policy) -> None:
        """Keep the policy as it is now, for a measurement."""
        with atomic_directory(self.record.out / HALFWAY) as folder:
            policy.save(folder)

    def rollouts(self, iteration: int, version: int, collected: Collected, credited: Credit) -> None:
        """The steps of an iteration with their credit: :func:`credited_table`."""
        table = credited_table(iteration, version, collected, credited)
        self.record.write_table(table, CREDITED_STEPS, rollouts_file(iteration))


def rollouts_file(iteration: int) -> str:
    """Where the steps of an iteration are, in the folder of a run."""
    return f"rollouts/iteration_{iteration:04d}.parquet"


def credited_table(iteration: int, version: int, collected: Collected, credited: Credit) -> pl.DataFrame:
    """The steps of an iteration with their credit, which dropped trajectories have none of.

    ``version`` is the number of updates that the policy which sampled them had seen.
    """
    kept, dropped = collected
    table = to_table(kept, iteration=iteration, policy_version=version).hstack(credited.columns())
    if dropped:
        rest = to_table(dropped, iteration=iteration, policy_version=version)
        nothing = pl.DataFrame({name: pl.Series([None] * len(rest), dtype=t) for name, t in CREDIT.items()})
        table = table.vstack(rest.hstack(nothing.with_columns(trained=pl.lit(False))))
    return table
