"""What the process of a training stage and the processes that TRL trains in tell each other, by files.

They lie in the folder ``checkpoint`` of the stage's output, which goes when the stage has ended: ``job.json``, the
trainer's own checkpoints, a line for each iteration that has ended in ``iterations.jsonl``, and the error of a process.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from empg import errors
from empg.config import TrainRun, parse
from empg.errors import EmpgError
from empg.files import read_json, write_json, write_text

JOB, ITERATIONS, COMPLETE = "job.json", "iterations.jsonl", "complete"


@dataclass(frozen=True, slots=True)
class Job:
    """A training run by TRL. ``stage`` is the id of the process of the stage; ``resume`` a checkpoint, "" for none."""

    settings: dict[str, Any]
    data: str
    model: str
    rollouts: str
    out: str
    digest: str
    stage: int
    resume: str = ""

    @property
    def folder(self) -> Path:
        return Path(self.out) / "checkpoint"

    @property
    def config(self) -> TrainRun:
        return parse(TrainRun, self.settings, str(self.folder / JOB))

    @classmethod
    def read(cls, path: Path) -> Job:
        return cls(**read_json(path))

    @classmethod
    def prepare(cls, config: TrainRun, digest: str, stage: int, **paths: Path) -> Job:
        """Write the job. It resumes from the newest whole checkpoint of a job with the same ``digest``."""
        fields = {name: str(path) for name, path in paths.items()}
        job = cls(config.model_dump(mode="json"), digest=digest, stage=stage, **fields)
        earlier = job.folder / JOB
        if not earlier.exists() or read_json(earlier).get("digest") != digest:
            shutil.rmtree(job.folder, ignore_errors=True)
            shutil.rmtree(Path(job.out) / "rollouts", ignore_errors=True)
        job.drop_unfinished()
        steps = {int(path.name.partition("-")[2]): path for path in job.folder.glob("checkpoint-*")}
        newest = max(steps, default=0)
        for path in job.folder.glob("error-*.json"):
            path.unlink()
        write_text(
            job.folder / ITERATIONS,
            "".join(json.dumps(line) + "\n" for line in job.iterations()[: newest // config.train.updates]),
        )
        job = cls(**asdict(job) | {"resume": str(steps[newest]) if steps else ""})
        write_json(job.folder / JOB, asdict(job))
        return job

    def drop_unfinished(self) -> None:
        """Delete checkpoints that a process had not written to the end."""
        for path in self.folder.glob("checkpoint-*"):
            if not (path / COMPLETE).exists():
                shutil.rmtree(path, ignore_errors=True)

    def iterations(self) -> list[dict[str, Any]]:
        """The ``metrics`` and ``seconds`` of the iterations that have ended, without a line that is being written."""
        path = self.folder / ITERATIONS
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]

    def ended(self, metrics: dict[str, Any], seconds: dict[str, float]) -> None:
        """Add the line of an iteration."""
        with (self.folder / ITERATIONS).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"metrics": metrics, "seconds": seconds}) + "\n")

    def fail(self, process: int, error: EmpgError) -> None:
        """Leave the error of a process for the stage."""
        write_json(self.folder / f"error-{process}.json", {"type": type(error).__name__, "message": str(error)})

    def error(self) -> EmpgError | None:
        """The first error that a process left."""
        for path in sorted(self.folder.glob("error-*.json")):
            left = read_json(path)
            kind: type[EmpgError] = getattr(errors, left["type"], EmpgError)
            return kind(left["message"])
        return None
