"""The command that makes a folder of results, as you would type it in the project's root."""

from __future__ import annotations

from pathlib import Path

from empg.config import Study, parse
from empg.files import read_json

# What makes each report, and the folder under the study's that it reads.
REPORTS = {
    "report": ("report", ""),
    "decisiveness/report": ("decisiveness-report", ""),
    "testbed/report": ("testbed-report", "/testbed"),
}


def data_set(study: Path, folder: str) -> str:
    """The name of the data set behind ``study/folder``; "" for reports and testbeds, which have none."""
    if folder in REPORTS or _is_testbed(folder):
        return ""
    path = study / "config" / "study.json"
    return parse(Study, read_json(path), str(path)).data_set(folder.split("/", maxsplit=1)[0])


def model(folder: str) -> str:
    """The folder of the model that the stage in ``folder`` reads; both under the study's."""
    place, _, last = folder.rpartition("/")
    trained = {"evaluate": "model", "decisiveness": "model", "decisiveness_halfway": "halfway"}
    if last in trained:
        return f"{place}/train/{trained[last]}"
    return f"{folder.split('/', maxsplit=1)[0]}/warmstart/model"


def command(study: Path, folder: str, data: str) -> str:
    """The command that makes ``study/folder`` from the data set ``data``.

    ``folder`` is ``report``, ``ENVIRONMENT/warmstart``, ``ENVIRONMENT/METHOD/seedN/train``, …
    """
    config, out = f"{study}/config/{folder}.json", f"{study}/{folder}"
    if folder in REPORTS:
        stage, read = REPORTS[folder]
        return f"empg {stage} --config {study}/config/study.json --results {study}{read} --out {out}"
    if _is_testbed(folder):
        return f"empg testbed --config {config} --out {out}"
    environment, *_, last = folder.split("/")
    stage = last.removeprefix("warmstart_").removesuffix("_halfway")
    needs = "" if stage == "warmstart" else f" --model {study}/{model(folder)}"
    needs += f" --rollouts {study}/{environment}/rollouts" if stage == "train" else ""
    return f"empg {stage} --config {config} --data data/{data}{needs} --out {out}"


def _is_testbed(folder: str) -> bool:
    return folder.startswith("testbed/")
