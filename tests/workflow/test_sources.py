"""The source files that are inputs of a stage's rule are those that Python loads when the stage runs."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from empg.config import ENVIRONMENTS, STAGES
from empg.sources import NOT_SOURCES, PACKAGE, sources

pytestmark = pytest.mark.xdist_group("sources")

METHODS = PACKAGE / "config" / "methods.py"
# Prints the files that each of the modules in its second argument loads. Imports inside functions run too: each
# statement is executed in the namespace of its module. The libraries take seconds to import, and all these modules fork
# from a process that has them.
PROBE = """
import ast, importlib, json, os, sys
from pathlib import Path
import altair, polars, pydantic, scipy.stats
from transformers import Cache
from trl import GRPOTrainer
package, stages, *left_out = sys.argv[1:]
statements = {}
for path in Path(package).rglob("*.py"):
    nodes = [n for n in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(n, (ast.Import, ast.ImportFrom))]
    statements[str(path)] = [text for text in map(ast.unparse, nodes) if "empg" in text]
assert not [name for name in sys.modules if name.startswith("empg")]
for stage in stages.split():
    if os.fork():
        assert os.wait()[1] == 0, stage
        continue
    importlib.import_module(stage)
    done = set()
    while pending := [m for n, m in list(sys.modules.items()) if n.startswith("empg.") and n not in done]:
        for module in pending:
            done.add(module.__name__)
            if module.__name__ not in left_out:
                for statement in statements[module.__file__]:
                    exec(statement, dict(vars(module)))
    print(json.dumps([m.__file__ for n, m in sys.modules.items() if n.startswith("empg")]), flush=True)
    os._exit(0)  # at once, since to take the libraries apart is what costs most
"""


@pytest.fixture(scope="module")
def loaded() -> dict[str, list[str]]:
    """Stage → the files of this package that Python loads for it."""
    modules = " ".join(stage.module for stage in STAGES.values())
    command = [sys.executable, "-c", PROBE, str(PACKAGE), modules, *NOT_SOURCES]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return dict(zip(STAGES, map(json.loads, lines), strict=True))


@pytest.mark.parametrize("stage", STAGES)
def test_closure_is_the_real_import_graph(stage, loaded):
    omitted = {PACKAGE / name for name in ("__init__.py", "errors.py", "registry.py")}
    omitted |= {*(PACKAGE / "config").glob("*.py")}
    expected = {path for path in map(Path, loaded[stage]) if path.stat().st_size} - omitted
    found = {path for path in sources(STAGES[stage].module) if path.suffix == ".py"}
    assert found - {METHODS} == expected


def test_where_methods_name_their_functions_is_a_source_of_what_calls_them():
    assert [METHODS in sources(STAGES[stage].module) for stage in ("warmstart", "rollouts", "train")] == [
        False,
        False,
        True,
    ]


def test_an_environments_closure_holds_no_other_environment():
    for stage in STAGES.keys() - {"report", "track"}:
        for environment in ENVIRONMENTS:
            everything, own = set(sources(STAGES[stage].module)), set(sources(STAGES[stage].module, environment))
            added = {path.relative_to(PACKAGE).parts[:2] for path in own - everything}
            assert everything <= own
            assert ("environments", environment) in added
            assert not added & {("environments", other) for other in ENVIRONMENTS if other != environment}


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_an_environment_imports_no_other_one(environment):
    others = [f"empg.environments.{other}" for other in ENVIRONMENTS if other != environment]
    for path in (PACKAGE / "environments" / environment).rglob("*.py"):
        assert not [other for other in others if other in path.read_text()], path


def test_closures_leave_out_what_cannot_change_a_result():
    for stage in STAGES.keys() - {"track"}:
        names = {path.relative_to(PACKAGE).as_posix() for path in sources(STAGES[stage].module)}
        assert not names & {"cli.py", "errors.py", "__init__.py", "tracking/rebuild.py"}, stage
        assert not [name for name in names - {"config/methods.py"} if name.startswith("config")], stage


def test_assets_and_templates_count():
    assert any(path.name == "alfred.pddl" for path in sources(STAGES["warmstart"].module, "alfworld"))
    assert any(path.suffix == ".j2" for path in sources(STAGES["report"].module))


def test_stages_do_not_depend_on_later_ones():
    trained = {path.relative_to(PACKAGE).parts[0] for path in sources(STAGES["warmstart"].module)}
    assert not trained & {"analysis", "audit", "pipeline", "report", "tracking"}
    assert "rollouts" not in trained


def test_the_sources_are_this_checkouts_whichever_is_installed(fresh, tmp_path):
    """The logger plugin imports the installed package, here another checkout's, before the Snakefile is read."""
    other = Path(shutil.copytree(fresh.root / "src", tmp_path / "other"))
    (other / "empg/training/rl.py").write_text("# of another checkout\n")
    command = [sys.executable, "-m", "snakemake", "-n", "--quiet"]
    environment = os.environ | {"PYTHONPATH": str(other)}
    subprocess.run(command, cwd=fresh.root, env=environment, capture_output=True, check=True)
    hashes = json.loads((fresh.root / "results/sources/rooms/train.json").read_text())
    own = hashlib.sha256((fresh.root / "src/empg/training/rl.py").read_bytes()).hexdigest()
    assert hashes["empg/training/rl.py"] == own
