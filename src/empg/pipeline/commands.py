"""The command that makes a folder of results, as you would type it in the project's root."""

from __future__ import annotations

from pathlib import Path

from empg.config import Study, parse
from empg.files import read_json


def data_set(study: Path, environment: str) -> str:
    """The name of the environment's data set; several environments of a study may share one."""
    path = study / "config" / "study.json"
    return parse(Study, read_json(path), str(path)).data_set(environment)


def command(study: Path, folder: str, data: str) -> str:
    """The command that makes ``study/folder`` from the data set ``data``.

    ``folder`` is ``report``, ``ENVIRONMENT/warmstart``, ``ENVIRONMENT/METHOD/seedN/train``, …
    """
    if folder == "report":
        return f"empg report --config {study}/config/study.json --results {study} --out {study}/report"
    environment, *_, last = folder.split("/")
    stage, own = last.removeprefix("warmstart_"), f"{study}/{environment}"
    warm_start = f"{own}/warmstart/model"
    trained = warm_start if last == "warmstart_evaluate" else f"{study}/{folder.removesuffix('evaluate')}train/model"
    needs = {
        "warmstart": "",
        "rollouts": f" --model {warm_start}",
        "train": f" --model {warm_start} --rollouts {own}/rollouts",
        "evaluate": f" --model {trained}",
    }
    config, out = f"{study}/config/{folder}.json", f"{study}/{folder}"
    return f"empg {stage} --config {config} --data data/{data}{needs[stage]} --out {out}"
