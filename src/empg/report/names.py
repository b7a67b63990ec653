"""Methods under the names that people use, such as "GRPO + EMPG"."""

from __future__ import annotations

from typing import Any

import polars as pl

from empg.analysis.sensitivity import SETTINGS
from empg.config import Study
from empg.config.methods import UNMODULATED, Method
from empg.config.registrations import ADVANTAGES, MODULATIONS

COLUMNS = ("method", "against", "family")  # of a table that name a method


def titles(study: Study) -> dict[str, str]:
    """What each method of the study is called. Settings that tell methods of one title apart stand in parentheses."""
    by_title: dict[str, list[str]] = {}
    for name, method in study.methods.items():
        by_title.setdefault(title(method), []).append(name)
    found = {}
    for shared, names in by_title.items():
        settings = [study.methods[name].model_dump() for name in names]
        labels = [shared + _differences(own, settings[0]) for own in settings]
        for name, label in zip(names, labels, strict=True):
            found[name] = label if labels.count(label) == 1 else f"{shared} [{name}]"
    return {name: found[name] for name in study.methods}


def title(method: Method) -> str:
    """What people call a method: its outcome advantage, and its modulation if it has one."""
    advantage = ADVANTAGES[method.advantage].title or _capitals(method.advantage)
    if method.modulation == UNMODULATED:
        return advantage
    return f"{advantage} + {MODULATIONS[method.modulation].title or _capitals(method.modulation)}"


def _capitals(name: str) -> str:
    return name.replace("_", " ").upper()


def _differences(settings: dict[str, Any], first: dict[str, Any]) -> str:
    """The settings that differ from those of the first method: `` (ζ 0.01, token level)``."""
    parts = [
        f"{SETTINGS.get(name, name.replace('_', ' '))} {value}"
        for name, value in settings.items()
        if value != first[name]
    ]
    return f" ({', '.join(parts)})" if parts else ""


def with_titles(study: Study, tables: dict[str, pl.DataFrame]) -> tuple[Study, dict[str, pl.DataFrame]]:
    """The study and its tables with titles in place of the methods' names. Links and files keep the names."""
    names = titles(study)
    methods = {names[name]: method for name, method in study.methods.items()}
    called = study.model_copy(update={"methods": methods, "baseline": names[study.baseline]})
    return called, {
        key: table.with_columns(
            pl.col(column).cast(pl.String).replace(names) for column in COLUMNS if column in table.columns
        )
        for key, table in tables.items()
    }
