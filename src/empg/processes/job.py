"""What the process of a stage and the processes that do its work tell each other, by files.

They lie in the folder ``checkpoint`` of the stage's output, which goes when the stage has ended: ``job.json``, the
checkpoints of a training run, a line for each part of the work that has ended in ``parts.jsonl``, and the error of a
process.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from empg import errors
from empg.config import RolloutsRun, TrainRun, WarmStartRun, parse
from empg.errors import EmpgError
from empg.files import read_json, write_json, write_text

JOB, PARTS, COMPLETE = "job.json", "parts.jsonl", "complete"
Run = WarmStartRun | RolloutsRun | TrainRun
STAGES: dict[str, Any] = {"warmstart": WarmStartRun, "rollouts": RolloutsRun, "train": TrainRun}


@dataclass(frozen=True, slots=True)
class Job:
    """A run of a stage. ``process`` is the id of the process of the stage; ``resume`` a checkpoint, "" for none."""

    stage: str
    settings: dict[str, Any]
    data: str
    out: str
    digest: str
    process: int
    model: str
    rollouts: str = ""
    resume: str = ""

    @property
    def folder(self) -> Path:
        return Path(self.out) / "checkpoint"

    @property
    def config(self) -> Run:
        config: Run = parse(STAGES[self.stage], self.settings, str(self.folder / JOB))
        return config

    @classmethod
    def read(cls, path: Path) -> Job:
        return cls(**read_json(path))

    @classmethod
    def prepare(cls, config: Run, digest: str, process: int, **paths: Path) -> Job:
        """Write the job. A training run resumes from the newest whole checkpoint of a job with the same ``digest``."""
        (stage,) = (name for name, model in STAGES.items() if isinstance(config, model))
        fields = {name: str(path) for name, path in paths.items()}
        job = cls(stage, config.model_dump(mode="json"), digest=digest, process=process, **fields)
        earlier = job.folder / JOB
        if not earlier.exists() or read_json(earlier).get("digest") != digest:
            shutil.rmtree(job.folder, ignore_errors=True)
            shutil.rmtree(Path(job.out) / "rollouts", ignore_errors=True)
        job.drop_unfinished()
        steps = {int(path.name.partition("-")[2]): path for path in job.folder.glob("checkpoint-*")}
        newest = max(steps, default=0)
        for path in job.folder.glob("error-*.json"):
            path.unlink()
        done = newest // config.train.updates if isinstance(config, TrainRun) else 0
        write_text(job.folder / PARTS, "".join(json.dumps(line) + "\n" for line in job.parts()[:done]))
        job = cls(**asdict(job) | {"resume": str(steps[newest]) if steps else ""})
        write_json(job.folder / JOB, asdict(job))
        return job

    def drop_unfinished(self) -> None:
        """Delete checkpoints that a process had not written to the end."""
        for path in self.folder.glob("checkpoint-*"):
            if not (path / COMPLETE).exists():
                shutil.rmtree(path, ignore_errors=True)

    def parts(self) -> list[dict[str, Any]]:
        """The ``metrics`` and ``seconds`` of the parts that have ended, without a line that is being written."""
        path = self.folder / PARTS
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]

    def ended(self, metrics: dict[str, Any], seconds: dict[str, float] | None = None) -> None:
        """Add the line of a part, such as an iteration. Processes may do so at the same time."""
        line = json.dumps({"metrics": metrics, "seconds": seconds or {}}) + "\n"
        with (self.folder / PARTS).open("ab", buffering=0) as file:
            file.write(line.encode())

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
