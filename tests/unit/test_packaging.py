"""The package as others install it: what each part imports is what its extra brings, and the wheel holds all of it."""

from __future__ import annotations

import contextlib
import io
import json
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import grimp
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PAGE = (ROOT / "docs/package.md").read_text(encoding="utf-8")
OURS = {"empg", "empg_verifiers", "snakemake_logger_plugin_empg"}
# What is imported under another name than it is installed, or comes with a package that an extra names.
DISTRIBUTION = {"yaml": "pyyaml", "vl-convert": "vl-convert-python", "pydantic-core": "pydantic"}
BROUGHT = {
    "trl": {"datasets", "transformers", "accelerate"},
    "pipeline": {"datasets", "accelerate"},
    "gymnasium": {"numpy"},
    "verifiers": {"openai"},
    "verl": {"numpy"},
}
COMMANDS = {"dvc"}  # run as programs


def extra(*names: str) -> set[str]:
    """The packages that extras name, those of the extras that they name too included."""
    found: set[str] = set()
    for name in names:
        for entry in map(Requirement, PROJECT["optional-dependencies"][name]):
            found |= extra(*entry.extras) if entry.name == "empg" else {canonicalize_name(entry.name)}
    return found


BASE = {canonicalize_name(Requirement(entry).name) for entry in PROJECT["dependencies"]}


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    present = sorted(name for name in OURS if (ROOT / "src" / name).is_dir())
    return grimp.build_graph(*present, include_external_packages=True, cache_dir=None)


def imports(graph: grimp.ImportGraph, modules: set[str]) -> set[str]:
    """The packages from outside that these modules import themselves, also inside functions."""
    names = {name for module in modules for name in graph.find_modules_directly_imported_by(module)}
    names = {canonicalize_name(name) for name in names if name.partition(".")[0] not in OURS | sys.stdlib_module_names}
    return {DISTRIBUTION.get(name, name) for name in names}


def modules(graph: grimp.ImportGraph) -> dict[str, set[str]]:
    """Every module of ours by the extra that it needs; ``base`` for none."""
    parts: dict[str, set[str]] = {"base": {"empg", "empg.integrations", "empg.integrations.steps"}, "pipeline": set()}
    environments = {name for name in graph.modules if name.startswith("empg.environments")}
    reached = {other for name in environments for other in graph.find_upstream_modules(name)} | environments
    parts["envs"] = {name for name in reached if name.startswith("empg.")}
    for name in graph.modules:
        if name.partition(".")[0] not in OURS:
            continue
        if name.startswith("empg.core"):
            parts["base"].add(name)
        elif name.startswith(("empg.integrations.", "empg_verifiers")):
            peer = name.rpartition(".")[2].removeprefix("empg_").partition("_")[0]
            parts.setdefault(peer if peer in PROJECT["optional-dependencies"] else "envs", set()).add(name)
        elif name not in parts["envs"]:
            parts["pipeline"].add(name)
    for part in set(parts) - {"base"}:
        parts[part] -= parts["base"]
    return parts


def test_every_module_imports_what_its_extra_brings(graph):
    for part, names in modules(graph).items():
        assert names, part
        brought = BASE if part == "base" else BASE | extra(part) | BROUGHT.get(part, set())
        brought = brought - {"torch"} if part in ("envs", "gymnasium", "verifiers") else brought
        assert imports(graph, names) <= brought, part


def test_every_requirement_of_the_environments_and_the_pipeline_is_used(graph):
    used = imports(graph, {name for name in graph.modules if name.partition(".")[0] in OURS})
    assert extra("pipeline") - used <= COMMANDS


def test_requirements_have_a_lower_bound_and_torch_no_other():
    groups = {name: PROJECT["optional-dependencies"][name] for name in ("envs", "pipeline", "trl", "verl")}
    entries = [Requirement(entry) for group in groups.values() for entry in group if not entry.startswith("empg")]
    assert all(any(s.operator == ">=" for s in entry.specifier) for entry in entries)
    assert [str(entry) for entry in PROJECT["dependencies"]] == ["torch>=2.5"]


def test_the_page_of_the_package_stands_alone():
    """A package index shows it without the rest of the repository."""
    targets = re.findall(r"\]\(([^)\s]+)\)", PAGE)
    assert targets
    assert all(target.startswith("https://") for target in targets)
    named = re.findall(r'^pip install ("pydantic.*)$', PAGE, flags=re.MULTILINE)
    assert [entry.strip('"') for entry in named[0].split()] == PROJECT["optional-dependencies"]["envs"]
    rows = re.findall(r'`pip install "empg\[(\w+)\]"`', PAGE)
    assert set(rows) == set(PROJECT["optional-dependencies"]) - {"docs", "dev"}


def test_the_examples_of_the_page_print_what_it_shows():
    examples = re.findall(r"^```python\n(.*?)^```\n\n```text\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
    assert len(examples) == 2
    for code, shown in examples:
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(code, {})
        assert printed.getvalue() == shown


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, unpacked as an installer would."""
    built, folder = tmp_path_factory.mktemp("built"), tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(built)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (file,) = built.glob("*.whl")
    with zipfile.ZipFile(file) as archive:
        archive.extractall(folder)
    return folder


def test_the_wheel_is_typed_and_described(wheel: Path):
    assert (wheel / "empg/py.typed").exists()
    (metadata,) = wheel.glob("empg-*.dist-info/METADATA")
    text = metadata.read_text(encoding="utf-8")
    assert "\nRequires-Dist: torch>=2.5\n" in text
    assert "\nDescription-Content-Type: text/markdown\n" in text
    assert PAGE.strip() in text
    assert list(wheel.glob("empg-*.dist-info/licenses/LICENSE"))
    # Everything but bytecode that lies in the source is in the wheel: templates, word lists, grammars.
    source = {path.relative_to(ROOT / "src") for path in (ROOT / "src/empg").rglob("*") if path.is_file()}
    source = {path for path in source if path.suffix != ".pyc"}
    assert source == {path.relative_to(wheel) for path in (wheel / "empg").rglob("*") if path.is_file()}


GUARD = """
import sys
sys.path.insert(0, {wheel!r})
class Guard:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in {allowed!r} and top not in sys.stdlib_module_names and not top.startswith("_sysconfigdata"):
            raise ModuleNotFoundError(f"{{name}} is not installed", name=name)
"""


def guarded(wheel: Path, allowed: set[str], code: str) -> list[str]:
    """Runs code with the wheel, where only these top-level packages can be imported; the lines that it prints."""
    program = GUARD.format(wheel=str(wheel), allowed=sorted(allowed | {"empg"})) + code
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_the_base_needs_torch_alone(wheel: Path):
    code = """
import torch  # brings what it needs itself
before = set(sys.modules)
sys.meta_path.insert(0, Guard())
from empg import modulate
from empg.integrations.steps import modulate_tokens
A = torch.tensor([1.0, -1.0])
print(modulate(A, torch.tensor([0.2, 1.2, 0.8]), torch.tensor([0, 0, 1])).advantage.sum().item())
mask = torch.ones(2, 3, dtype=torch.bool)
print(modulate_tokens(mask, torch.rand(2, 3), torch.tensor([1.0, -1.0])).metrics["steps"])
import empg, json
print(empg.__file__)
print(json.dumps(sorted({name.partition(".")[0] for name in set(sys.modules) - before} - sys.stdlib_module_names)))
"""
    total, steps, file, new = guarded(wheel, {"torch"}, code)
    assert abs(float(total)) < 1e-6
    assert float(steps) == 2
    assert Path(file).is_relative_to(wheel)
    assert set(json.loads(new)) <= {"empg", "torch"}


def brought_by(names: set[str]) -> set[str]:
    """The top-level packages of these distributions and of all that they require."""
    pending, seen = [*names], set()
    while pending:
        name = pending.pop()
        if name in seen:
            continue
        seen.add(name)
        entries = [Requirement(entry) for entry in requires(name) or []]
        pending += [canonicalize_name(e.name) for e in entries if not e.marker or e.marker.evaluate({"extra": ""})]
    tops = packages_distributions()
    return {top for top, owners in tops.items() if any(canonicalize_name(owner) in seen for owner in owners)}


PLAY = """
sys.meta_path.insert(0, Guard())
from pathlib import Path
from random import Random
from empg.config import ENVIRONMENTS
from empg.environments import data
from empg.environments.datasets import open_dataset
for name, settings in {settings!r}.items():
    config, folder = ENVIRONMENTS[name].data.model_validate(settings), Path({folder!r}) / name
    data.run(config, folder)
    dataset = open_dataset(config, folder)
    environment = dataset.arena(3).make()
    first = environment.reset(dataset.tasks("train")[0])
    result = environment.step("look")
    print(name, len(first) > 0, len(result.observation) > 0, "torch" in sys.modules)
"""


def test_the_environments_need_their_extra_alone(wheel: Path, tmp_path: Path):
    """Nor torch: the recipe of docs/package.md installs this much."""
    small = {"alfworld": ("valid_seen", "valid_unseen"), "webshop": ("valid", "test"), "deepsearch": ("id", "ood")}
    settings = {name: {"sizes": dict.fromkeys(("train", "tune", *panels), 2)} for name, panels in small.items()}
    allowed = brought_by(extra("envs"))
    assert "torch" not in allowed
    lines = guarded(wheel, allowed, PLAY.format(settings=settings, folder=str(tmp_path)))
    assert lines == [f"{name} True True False" for name in small]
