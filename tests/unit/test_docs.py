"""The documentation says what is so: settings and their defaults, links, and the README's example."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic.fields import FieldInfo

from empg import config

ROOT = Path(__file__).parents[2]
PAGES = sorted(path for part in (".", "config", "docs") for path in (ROOT / part).glob("*.md"))
# Heading in config/README.md → the models whose settings its table explains.
SECTIONS: dict[str, tuple[type[config.Model], ...]] = {
    "The study": (config.Study,),
    "An environment: `environments.NAME`": (config.EnvironmentStudy,),
    "`interface`": (config.Interface,),
    "`policy`": (config.TinyPolicy, config.PretrainedPolicy),
    "`sampling`": (config.Sampling,),
    "`warmstart`": (config.WarmStart,),
    "`optimiser`, of `warmstart` and of `train`": (config.Optimiser,),
    "`rollouts`": (config.Rollouts,),
    "`train`": (config.Train,),
    "`evaluate`": (config.Evaluate,),
    "A data set: `data.yaml`": (config.AlfworldData,),
    "`sizes` of ALFWorld": (config.Sizes,),
    "WebShop": (config.WebshopData,),
    "`sizes` of WebShop": (config.ShopSizes,),
    "Deep Search": (config.DeepsearchData,),
    "`sizes` of Deep Search": (config.QuestionSizes,),
}
DATA_SETS = ("A data set: `data.yaml`", "WebShop", "Deep Search")
METHODS = {name: config.method_model(name, "empg") for name in ("grpo", "rloo", "gigpo", "dapo")}


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
    return list(value) if isinstance(value, tuple) else value


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
    for advantage, method in METHODS.items():
        for name, field in method.model_fields.items():
            cell = rows[name][2 if advantage == "dapo" else 1]
            value = {"the environment's": None}.get(cell, written(cell.removeprefix("`gigpo` only: ")))
            assert value == default(field), f"{advantage}.{name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_relative_links_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    relative = [t.partition("#")[0] for t in targets if not re.match(r"https?://|#", t)]
    assert [target for target in relative if not (page.parent / target).exists()] == []


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
