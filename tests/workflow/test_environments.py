"""The software environments that rules name agree with the lock file."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", ["cpu", "cuda"])
def test_versions_are_those_of_the_lock(name):
    pip = yaml.safe_load((ROOT / f"envs/{name}.yaml").read_text())["dependencies"][-1]["pip"]
    pinned = dict(line.split("==") for line in pip if "==" in line)
    lock = (ROOT / "requirements.lock").read_text()
    locked = set(re.findall(r"^([a-z0-9-]+)==([^ ;]+)", lock, flags=re.MULTILINE))
    project = (ROOT / "pyproject.toml").read_text()
    assert f'"torch=={pinned.pop("torch")}"' in project
    assert set(pinned.items()) <= locked
    wanted = set(re.findall(r'^    "([a-z0-9-]+)[>=]', project.partition("[project.optional")[0], flags=re.MULTILINE))
    assert wanted - {"torch", "snakemake"} == set(pinned)
