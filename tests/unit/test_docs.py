"""The documentation is true: settings and their defaults, links, and the README's example."""

from __future__ import annotations

import ast
import contextlib
import io
import pkgutil
import re
import textwrap
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic.fields import FieldInfo

from empg import config
from empg.config import testbed
from empg.environments.alfworld import registration as alfworld
from empg.environments.deepsearch import registration as deepsearch
from empg.environments.webshop import registration as webshop

ROOT = Path(__file__).parents[2]
FOLDERS = (".", "config", "docs", "docs/results", "docs/results/*")
PAGES = sorted(path for folder in FOLDERS for path in ROOT.glob(f"{folder}/*.md"))
# Heading in config/README.md → the models whose settings its table explains.
SECTIONS: dict[str, tuple[type[config.Model], ...]] = {
    "The study": (config.Study,),
    "`primary`": (config.Primary,),
    "An environment: `environments.NAME`": (config.EnvironmentStudy,),
    "`interface`": (alfworld.AlfworldInterface, webshop.WebshopInterface, deepsearch.DeepsearchInterface),
    "`policy`": (config.TinyPolicy, config.PretrainedPolicy),
    "`sampling`": (config.Sampling,),
    "`warmstart`": (config.WarmStart,),
    "`optimiser`, of `warmstart` and of `train`": (config.Optimiser,),
    "`rollouts`": (config.Rollouts,),
    "`decisiveness`": (config.Decisiveness,),
    "`gradients`": (config.Gradients,),
    "The testbed: `testbed`": (testbed.Testbed,),
    "`world`": (testbed.World,),
    "`learning`": (testbed.Learning,),
    "`train`": (config.Train,),
    "`evaluate`": (config.Evaluate,),
    "A data set: `data.yaml`": (alfworld.AlfworldData,),
    "`sizes` of ALFWorld": (alfworld.AlfworldSizes,),
    "WebShop": (webshop.WebshopData,),
    "`sizes` of WebShop": (webshop.WebshopSizes,),
    "Deep Search": (deepsearch.DeepsearchData,),
    "`sizes` of Deep Search": (deepsearch.DeepsearchSizes,),
}
DATA_SETS = ("A data set: `data.yaml`", "WebShop", "Deep Search")
# The name that a cell of the methods' table may give a default of its own → the model that has it.
METHODS = {name: config.method_model(name, "empg") for name in ("grpo", "rloo", "gigpo", "dapo", "rtmc")}
METHODS |= {name: config.method_model("grpo", name) for name in ("gepo", "calibrated", "decisive")}


def tables() -> dict[str, list[list[str]]]:
    """Heading → the rows of its tables in config/README.md, without their heads."""
    found: dict[str, list[list[str]]] = {}
    for section in re.split(r"^#+ ", (ROOT / "config/README.md").read_text(encoding="utf-8"), flags=re.MULTILINE):
        heading, _, body = section.partition("\n")
        rows = re.findall(r"^\| (`.*) \|$", body, flags=re.MULTILINE)
        found[heading] = [[cell.strip() for cell in row.split("|")] for row in rows]
    return found


def written(cell: str) -> Any:
    """The value that a cell of a table stands for."""
    text = cell.strip("`")
    with contextlib.suppress(ValueError):
        return float(text)
    return {"empty": "", "left out": None, "—": "required"}.get(text, yaml.safe_load(text))


def default(field: FieldInfo) -> Any:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    return [list(v) if isinstance(v, tuple) else v for v in value] if isinstance(value, tuple) else value


@pytest.mark.parametrize("heading", SECTIONS)
def test_every_setting_and_its_default_is_explained(heading):
    expected = {f"`{n}`": f for model in SECTIONS[heading] for n, f in model.model_fields.items()}
    expected = {name: field for name, field in expected.items() if name != "`type`" or heading in DATA_SETS}
    rows = {row[0]: row for row in tables()[heading]}
    assert list(rows) == list(expected)
    for name, field in expected.items():
        if isinstance(default(field), config.Model):
            assert rows[name][1] in ("below", "above")
        else:
            assert written(rows[name][1]) == default(field), name
        assert rows[name][2], f"{name}: no word about it"


def test_every_setting_of_a_method_and_its_defaults_are_explained():
    rows = {row[0].strip("`"): row for row in tables()["A method: `methods.NAME`"]}
    assert set(rows) == {name for method in METHODS.values() for name in method.model_fields}
    for owner, method in METHODS.items():
        for name, field in method.model_fields.items():
            cell = rows[name][2 if owner == "dapo" else 1]
            cell = dict(re.findall(r"`(\w+)`: ([^,]+)", cell)).get(owner, cell)
            value = {"the environment's": None}.get(cell, written(cell))
            assert value == default(field), f"{owner}.{name}"


def anchors(page: Path) -> set[str]:
    """The fragments that a page's headings can be linked by, as GitHub makes them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_to_a_heading_find_it(page):
    links = re.findall(r"\]\(((?!https?:)[^)\s#]*)#([^)\s]+)\)", page.read_text(encoding="utf-8"))
    targets = [(page.parent / path if path else page, anchor) for path, anchor in links]
    lost = [(path.name, a) for path, a in targets if path.suffix == ".md" and a not in anchors(path)]
    assert lost == []


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_relative_links_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    relative = [t.partition("#")[0] for t in targets if not re.match(r"https?://|#", t)]
    assert [target for target in relative if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_names_and_paths_of_the_source_exist(page):
    """Imports in a page's Python, dotted names such as `empg.core.loss`, and paths such as `benchmarks/tune.py`."""
    text = page.read_text(encoding="utf-8")
    for block in re.findall(r"^ *```python\n(.*?)^ *```", text, flags=re.MULTILINE | re.DOTALL):
        for node in ast.walk(ast.parse(textwrap.dedent(block))):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("empg"):
                exec(ast.unparse(node), {})
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["entry-points"]
    for name in set(re.findall(r"`(empg(?:\.\w+)+)[`(]", text)) - groups.keys():
        pkgutil.resolve_name(name)
    paths = re.findall(
        r"`(?:python )?((?:src|tests|benchmarks|config|envs|profiles|workflow|docs)/[\w./-]*\w)[` ]", text
    )
    assert [path for path in paths if "NAME" not in path and not (ROOT / path).exists()] == []


def test_the_readmes_example_prints_what_it_says():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.search(r"```python\n(.*?)```\n+```text\n(.*?)```", readme, flags=re.DOTALL)
    assert found, "README.md: expected a Python example followed by what it prints"
    code, output = found.groups()
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code, {})
    assert printed.getvalue() == output


def test_the_readme_names_real_targets_and_commands():
    from empg.cli import parser

    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets, commands = (
        set(re.findall(rf"(?:`|^){program} ([a-z][a-z-]*)", text, re.MULTILINE)) for program in ("make", "empg")
    )
    assert {"run", "test"} <= targets
    assert {name for name in targets if not re.search(rf"^{name}:", makefile, re.MULTILINE)} == set()
    usage = parser().format_help()
    assert {name for name in commands if not re.search(rf"^    {name}\b", usage, re.MULTILINE)} == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_number_is_still_to_be_filled_in(page):
    assert not re.findall(r"\{\{[A-Z_]+\}\}|\b[A-Z]+_TABLE\b", page.read_text(encoding="utf-8"))
