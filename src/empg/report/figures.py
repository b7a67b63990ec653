"""The figures of the report and the tables that they show. Titles and captions are in :mod:`empg.report.captions`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import polars as pl

from empg.analysis.results import WARM_START
from empg.analysis.sensitivity import SETTINGS, maps
from empg.analysis.statistics import FEWEST_SEEDS
from empg.config import Study
from empg.report import charts, style
from empg.report.captions import CAPTIONS, Caption
from empg.report.overview import axis_limit, comparisons
from empg.report.style import Panel
from empg.rollouts.episodes import StopReason

Tables = dict[str, pl.DataFrame]
# An ending has the same colour in all figures. OTHER_ENDINGS are for endings that only one environment has.
ENDINGS = {
    StopReason.SUCCESS: style.SOFT[0],
    StopReason.FAILURE: style.SOFT[1],
    StopReason.STEP_LIMIT: style.SOFT[2],
    StopReason.REFUSED: style.SOFT[3],
    StopReason.CONTEXT_LIMIT: style.SOFT[4],
}
OTHER_ENDINGS = style.SOFT[5:]
PARTS = dict(zip(("collect", "update", "write", "rest", "evaluate"), style.SHADES, strict=True))
METRICS = {"kl": "KL to the warm start", "grad_norm": "gradient norm", "step_entropy_mean": "step entropy (nats)"}
NORMS = {"norm": "without advantage", "before": "before modulation", "after": "after modulation"}


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure of one or more panels, in rows of ``columns``.

    ``tables`` names the tables that it shows, ``legend`` its labels and colours. With ``own_colours`` a colour's
    meaning is that of its panel.
    """

    name: str
    tables: tuple[str, ...]
    panels: list[Panel]
    legend: dict[str, str] = field(default_factory=dict)
    columns: int = 3
    own_colours: bool = False

    @property
    def caption(self) -> Caption:
        return CAPTIONS[self.name]

    def whole(self) -> Panel:
        """All panels as one chart."""
        return style.side_by_side(self.panels, self.columns, own_colours=self.own_colours)


def figures(study: Study, tables: Tables) -> list[Figure]:
    """Every figure with panels, in the order of the page. ``study`` and ``tables`` name methods as people do."""
    methods = list(study.methods)
    place = {name: i for i, name in enumerate(study.environments)}
    tables = {
        name: table.sort(pl.col("environment").replace_strict(place, default=len(place)), maintain_order=True)
        for name, table in tables.items()
        if "environment" in table.columns
    }
    colours = {name: style.COLOURS[i % len(style.COLOURS)] for i, name in enumerate(methods)}
    modulate = {name: colours[name] for name in modulated(study)}
    norms = {NORMS["norm"]: style.MUTED, NORMS["before"]: style.INK} | {
        f"{NORMS['after']}: {name}": colour for name, colour in modulate.items()
    }
    made = [
        Figure("difference", ("pools" if study.pools else "results", "paired_runs"), list(_differences(study, tables))),
        Figure("success", ("panels",), list(_success(tables, methods))),
        Figure("learning_curves", ("progress", "learning_curves"), list(_curves(tables, methods)), colours),
        Figure("stability", ("training_course", "training"), list(_stability(tables, methods)), colours),
        Figure(
            "step_entropy",
            ("step_entropy",),
            list(_histograms(tables["step_entropy"], methods, "step entropy (nats)")),
            colours,
        ),
        Figure("entropy_change", ("entropy_change", "rescored_steps"), list(_entropy_change(tables, methods)), colours),
        Figure(
            "gradient_scale",
            ("gradient_scale",),
            list(_histograms(tables["gradient_scale"], methods, "gradient scale g")),
            modulate,
        ),
        Figure("equal_reward", ("equal_reward", "training"), list(_equal_reward(tables, methods)), colours),
        Figure("proposition1", ("proposition1", "score_norms"), list(_proposition1(tables, methods)), colours),
        Figure(
            "gradient_norm",
            ("gradient_norm", "gradient_norms"),
            list(_norms(study, tables, colours)),
            norms,
            own_colours=True,
        ),
        Figure("sensitivity", ("sensitivity",), list(_sensitivity(study, tables)), own_colours=True),
        Figure("endings", ("stop_reasons",), list(_endings(tables)), _sampled_endings(tables)[1]),
        Figure("cost", ("cost_by_part", "cost"), list(_cost(tables)), PARTS),
    ]
    columns = len(place) if 1 < len(place) <= 4 else 3
    by_name = {figure.name: replace(figure, columns=min(columns, len(figure.panels) or 1)) for figure in made}
    return [by_name[name] for name in CAPTIONS if by_name[name].panels]


def _per(table: pl.DataFrame, *names: str) -> Iterator[tuple[list[str], pl.DataFrame]]:
    """The parts of a table with equal values in these columns, in the table's order."""
    for key, part in table.group_by(names, maintain_order=True):
        yield [str(value) for value in key], part


def _differences(study: Study, tables: Tables) -> Iterator[Panel]:
    shown = comparisons(study, tables)
    if len(shown):
        bases = shown["against"].unique()
        title = f"minus {bases.item()}" if len(bases) == 1 else "minus what each is compared with"
        named = shown.with_columns(panel=pl.format("{} {}", "environment", "split"))
        yield charts.differences(named, list(study.methods), f"Success {title}", axis_limit(shown))


def _success(tables: Tables, methods: list[str]) -> Iterator[Panel]:
    warm = pl.col("seed").is_null()
    shown = tables["panels"].with_columns(
        run=pl.when(warm).then(pl.lit("warm start")).otherwise(pl.format("{}, seed {}", "method", "seed")),
        words=pl.format(
            "{} % ({} to {})", *((100 * pl.col(c)).round(1) for c in ("success", "success_low", "success_high"))
        ),
    )
    for (environment, split, mode), part in _per(shown, "environment", "split", "mode"):
        yield charts.success(part, methods, f"{environment}: {split}, {mode}")


def _curves(tables: Tables, methods: list[str]) -> Iterator[Panel]:
    runs = tables["progress"].with_columns(
        recent=pl.col("recent_success"), series=pl.format("{}, seed {}", "method", "seed")
    )
    for (environment,), part in _per(tables["learning_curves"], "environment"):
        own = runs.filter(environment=environment)
        band = part.filter(pl.col("seeds") >= FEWEST_SEEDS)
        yield charts.learning_curves(own, band, methods, environment, _last(own))


def _last(frame: pl.DataFrame) -> int:
    return int(frame["iteration"].max())  # type: ignore[arg-type]


def _stability(tables: Tables, methods: list[str]) -> Iterator[Panel]:
    course = tables["training_course"]
    domains = {metric: charts.reach(course.filter(metric=metric)["highest"]) for metric in METRICS}
    for metric, title in METRICS.items():
        for (environment,), rows in _per(course.filter(metric=metric), "environment"):
            yield charts.spread(rows, methods, f"{environment}: {title}", title, domains[metric])


def _histograms(table: pl.DataFrame, methods: list[str], x_title: str) -> Iterator[Panel]:
    x, y = charts.span(table["left"], table["right"]), charts.reach(table["share"])
    for (phase, environment), part in _per(table.sort("phase", maintain_order=True), "phase", "environment"):
        yield charts.histogram(part, methods, f"{environment}: {phase}", x_title, x=x, y=y)


def _entropy_change(tables: Tables, methods: list[str]) -> Iterator[Panel]:
    y = charts.span(*(tables["entropy_change"][name] for name in ("value", "lowest_seed", "highest_seed")))
    for (environment,), part in _per(tables["entropy_change"], "environment"):
        yield charts.percentiles(part, methods, environment, y)


def _equal_reward(tables: Tables, methods: list[str]) -> Iterator[Panel]:
    y = charts.reach(tables["equal_reward"]["highest"], least=0.1)
    for (environment,), part in _per(tables["equal_reward"], "environment"):
        yield charts.spread(part, methods, environment, "share of |advantage|", y, percent=True)


def _proposition1(tables: Tables, methods: list[str]) -> Iterator[Panel]:
    measured = tables["proposition1"].filter(quantity="measured")
    shown = measured.with_columns(words=pl.format("{}: {}", "method", pl.col("mean").round(3)))
    x_end, y_end = (charts.reach(shown[name], least=0.1)[1] for name in ("renyi2", "high"))
    for (environment,), part in _per(shown, "environment"):
        yield charts.proposition(part, methods, environment, x_end, y_end)


def modulated(study: Study) -> list[str]:
    """The methods that modulate advantages; the baseline where none does."""
    return [name for name, method in study.methods.items() if method.modulation != "none"] or [study.baseline]


def _norms(study: Study, tables: Tables, colours: dict[str, str]) -> Iterator[Panel]:
    shown = tables["gradient_norm"].filter(pl.col("method").is_in(modulated(study)))
    renamed = shown.with_columns(pl.col("quantity").replace(NORMS)).sort(
        "environment", "method", pl.col("quantity").cast(pl.Enum(list(NORMS.values()))), "step_entropy"
    )
    worded = renamed.with_columns(words=pl.format("{}: {}", "quantity", pl.col("mean").round(3)))
    x, y = charts.reach(worded["step_entropy"], least=0.01), charts.reach(worded["high"], least=0.01)
    for (environment, method), part in _per(worded, "environment", "method"):
        yield charts.gradient_norm(part, f"{environment}: {method}", colours[method], x, y)


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


def _sampled_endings(tables: Tables) -> tuple[pl.DataFrame, dict[str, str]]:
    rows = tables["stop_reasons"].filter(mode="sampled")
    found = rows["stop_reason"].unique().sort().to_list()
    seen = {name.replace("_", " ") for name in found}
    colours = {name: colour for name, colour in ending_colours(found).items() if name in seen}
    named = rows.with_columns(
        pl.col("method").replace(WARM_START, "warm start"), pl.col("stop_reason").str.replace_all("_", " ")
    )
    words = pl.format("{}: {} %", "stop_reason", (100 * pl.col("share")).round(1))
    return named.with_columns(words=words), colours


def _endings(tables: Tables) -> Iterator[Panel]:
    rows, colours = _sampled_endings(tables)
    first = pl.int_range(pl.len()).min().over("environment", "split")
    rows = rows.with_columns(row=first.rank("dense").over("environment"))  # a row of panels has one of each environment
    ordered = rows.sort("row", maintain_order=True)
    for (_, environment, split), part in _per(ordered, "row", "environment", "split"):
        x = charts.share("share", "share of episodes")
        yield charts.stacked(part, "stop_reason", colours, x, f"{environment}: {split}")


def _cost(tables: Tables) -> Iterator[Panel]:
    run = ["environment", "method", "seed"]
    known = tables["cost_by_part"].filter(pl.col("cpu_seconds").is_not_null().all().over(run))
    mean = known.group_by("environment", "method", "part", maintain_order=True).agg(pl.col("cpu_seconds").mean())
    worded = mean.with_columns(words=pl.format("{}: {} CPU seconds", "part", pl.col("cpu_seconds").round(1)))
    whole = charts.reach(worded.group_by("environment", "method").agg(pl.col("cpu_seconds").sum())["cpu_seconds"])
    for (environment,), part in _per(worded, "environment"):
        x = charts.amount("cpu_seconds", "CPU seconds of a run", whole)
        yield charts.stacked(part, "part", PARTS, x, environment)
