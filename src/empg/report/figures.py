"""The figures of the report and the tables that they show. Titles and captions are in :mod:`empg.report.captions`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import polars as pl

from empg.analysis.results import WARM_START
from empg.analysis.sensitivity import SETTINGS, maps
from empg.analysis.statistics import FEWEST_SEEDS
from empg.config import Study
from empg.report import charts
from empg.report.captions import CAPTIONS, Caption
from empg.report.charts import Panel
from empg.rollouts.episodes import StopReason

Tables = dict[str, pl.DataFrame]
GREEN, BLUE, ORANGE = charts.COLOURS[2], charts.COLOURS[0], charts.COLOURS[1]
# An ending has the same colour in all figures, and so has a part of the cost. OTHER_ENDINGS are for endings that only
# one environment has.
ENDINGS = {
    StopReason.SUCCESS: GREEN,
    StopReason.FAILURE: charts.COLOURS[3],
    StopReason.STEP_LIMIT: charts.COLOURS[4],
    StopReason.REFUSED: charts.COLOURS[6],
    StopReason.CONTEXT_LIMIT: ORANGE,
}
OTHER_ENDINGS = (charts.COLOURS[5], charts.COLOURS[7], BLUE)
PARTS = {"collect": BLUE, "update": ORANGE, "write": charts.COLOURS[3], "rest": charts.COLOURS[7], "evaluate": GREEN}
RATIOS = {"ratio": "as trained with", "ratio_at_size": "at the same size of weight"}
METRICS = {"kl": "KL to the warm start", "grad_norm": "gradient norm", "step_entropy_mean": "step entropy (nats)"}


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure of one or more panels. ``tables`` names the tables that it shows."""

    name: str
    tables: tuple[str, ...]
    panels: list[Panel]
    columns: int = 2

    @property
    def caption(self) -> Caption:
        return CAPTIONS[self.name]

    def whole(self) -> Panel:
        """All panels as one chart."""
        return charts.side_by_side(self.panels, self.columns)


def figures(study: Study, tables: Tables) -> list[Figure]:
    """Every figure with panels, in the order of the page."""
    methods = list(study.methods)
    made = [
        Figure("difference", ("results",), list(_differences(study, tables))),
        Figure("success", ("panels",), list(_success(tables, methods))),
        Figure("learning_curves", ("learning_curves", "training"), list(_curves(tables, methods))),
        Figure("stability", ("training_course", "training"), list(_stability(tables, methods)), columns=3),
        Figure(
            "step_entropy",
            ("step_entropy",),
            list(_histograms(tables["step_entropy"], methods, "step entropy (nats)")),
        ),
        Figure("entropy_change", ("entropy_change", "rescored_steps"), list(_entropy_change(tables, methods))),
        Figure(
            "gradient_scale",
            ("gradient_scale",),
            list(_histograms(tables["gradient_scale"], methods, "gradient scale g")),
        ),
        Figure("equal_reward", ("equal_reward", "training"), list(_equal_reward(tables, methods))),
        Figure("proposition1", ("proposition1", "score_norms"), list(_proposition1(tables, methods))),
        Figure("gradient_norm", ("gradient_norm", "gradient_norms"), list(_norms(study, tables))),
        Figure("gradient_variance", ("gradient_moments",), list(_variance(tables))),
        Figure("sensitivity", ("sensitivity",), list(_sensitivity(study, tables))),
        Figure("endings", ("stop_reasons",), list(_endings(tables))),
        Figure("cost", ("cost_by_part", "cost"), list(_cost(tables))),
    ]
    by_name = {figure.name: figure for figure in made}
    return [by_name[name] for name in CAPTIONS if by_name[name].panels]


def _per(table: pl.DataFrame, *names: str) -> Iterator[tuple[list[str], pl.DataFrame]]:
    """The parts of a table with equal values in these columns, in the table's order."""
    for key, part in table.group_by(names, maintain_order=True):
        yield [str(value) for value in key], part


def _differences(study: Study, tables: Tables) -> Iterator[Panel]:
    compared = tables["results"].drop_nulls("against")
    bases = compared["against"].unique()
    title = f"minus {bases.item()}" if len(bases) == 1 else "minus what each is compared with"
    named = compared.with_columns(panel=pl.format("{}, {}", "split", "mode"))
    for (environment,), part in _per(named, "environment"):
        yield charts.differences(part, list(study.methods), f"{environment}: {title}")


def _success(tables: Tables, methods: list[str]) -> Iterator[Panel]:
    run = pl.when(pl.col("seed").is_null()).then("method").otherwise(pl.format("{} {}", "method", "seed"))
    for (environment, split, mode), part in _per(tables["panels"], "environment", "split", "mode"):
        yield charts.success(part.with_columns(run=run), methods, f"{environment}: {split}, {mode}")


def _curves(tables: Tables, methods: list[str]) -> Iterator[Panel]:
    for (environment,), part in _per(tables["learning_curves"], "environment"):
        runs = tables["training"].filter(environment=environment).select("iteration", "method", "seed", "success")
        yield charts.learning_curve(part, methods, f"{environment}: all seeds")
        interval = part.filter(pl.col("seeds") >= FEWEST_SEEDS)
        yield charts.seed_curves(runs, interval, methods, f"{environment}: every run")


def _stability(tables: Tables, methods: list[str]) -> Iterator[Panel]:
    for (environment,), part in _per(tables["training_course"], "environment"):
        for metric, title in METRICS.items():
            if len(rows := part.filter(metric=metric)):
                yield charts.spread(rows, methods, f"{environment}: {title}", title)


def _histograms(table: pl.DataFrame, methods: list[str], x_title: str) -> Iterator[Panel]:
    for (environment, phase), part in _per(table, "environment", "phase"):
        yield charts.histogram(part, methods, f"{environment}: {phase}", x_title)


def _entropy_change(tables: Tables, methods: list[str]) -> Iterator[Panel]:
    for (environment,), part in _per(tables["entropy_change"], "environment"):
        yield charts.percentiles(part, methods, environment)


def _equal_reward(tables: Tables, methods: list[str]) -> Iterator[Panel]:
    for (environment,), part in _per(tables["equal_reward"], "environment"):
        yield charts.spread(part, methods, environment, "share of |advantage|", percent=True)


def _proposition1(tables: Tables, methods: list[str]) -> Iterator[Panel]:
    for (environment,), part in _per(tables["proposition1"].filter(quantity="measured"), "environment"):
        yield charts.proposition(part, methods, environment)


def modulated(study: Study) -> list[str]:
    """The methods that modulate advantages; the baseline where none does."""
    return [name for name, method in study.methods.items() if method.modulation != "none"] or [study.baseline]


def _norms(study: Study, tables: Tables) -> Iterator[Panel]:
    labels = {"before": "before modulation", "after": "after modulation", "norm": "without advantage"}
    shown = tables["gradient_norm"].filter(pl.col("method").is_in(modulated(study)))
    renamed = shown.with_columns(pl.col("quantity").replace(labels)).sort(
        "environment", "method", pl.col("quantity").cast(pl.Enum(list(labels.values()))), "step_entropy"
    )
    for (environment, method), part in _per(renamed, "environment", "method"):
        yield charts.gradient_norm(part, f"{environment}: {method}")


def _variance(tables: Tables) -> Iterator[Panel]:
    scaled = tables["gradient_moments"].filter(pl.col("weight") != "outcome")
    for (environment,), part in _per(scaled, "environment"):
        for name, title in RATIOS.items():
            if len(rows := part.drop_nulls(name)):
                yield charts.ratios(rows, name, f"{environment}: {title}")


def _sensitivity(study: Study, tables: Tables) -> Iterator[Panel]:
    sampled = tables["sensitivity"].filter(mode="sampled")
    for (environment, family), rows in _per(sampled, "environment", "family"):
        last = rows["split"].unique(maintain_order=True)[-1]
        shown = rows.filter(split=last)
        place = {"environment": environment, "split": last, "mode": "sampled", "method": study.baseline}
        base = float(tables["results"].filter(**place)["success"].item())
        for x, y, part in maps(shown):
            title = f"{environment}: {family} ({study.baseline}: {100 * base:.1f} %)"
            yield charts.heat_map(part, x, y, SETTINGS, title)


def ending_colours(found: list[str]) -> dict[str, str]:
    """A colour for each ending in the order of the bars: the common endings, and the others in ``found``."""
    others = [name for name in found if name not in ENDINGS]
    own = {name: OTHER_ENDINGS[i % len(OTHER_ENDINGS)] for i, name in enumerate(others)}
    last = (StopReason.REFUSED, StopReason.CONTEXT_LIMIT)
    first = {name: colour for name, colour in ENDINGS.items() if name not in last}
    colours = first | own | {name: ENDINGS[name] for name in last}
    return {name.replace("_", " "): colour for name, colour in colours.items()}


def _endings(tables: Tables) -> Iterator[Panel]:
    rows = (
        tables["stop_reasons"].filter(mode="sampled").with_columns(pl.col("method").replace(WARM_START, "warm start"))
    )
    colours = ending_colours(rows["stop_reason"].unique().sort().to_list())
    named = rows.with_columns(pl.col("stop_reason").str.replace_all("_", " "))
    for (environment, split), part in _per(named, "environment", "split"):
        x = charts.share("share", "share of episodes")
        yield charts.stacked(part, "stop_reason", colours, x, f"{environment}: {split}")


def _cost(tables: Tables) -> Iterator[Panel]:
    for (environment,), part in _per(tables["cost_by_part"], "environment"):
        mean = part.group_by("method", "part", maintain_order=True).agg(pl.col("cpu_seconds").mean())
        x = charts.amount("cpu_seconds", "CPU seconds of a run")
        yield charts.stacked(mean, "part", PARTS, x, environment)
