"""Which figures the report shows, each with its caption: how it was made and what it may be read as."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import polars as pl

from empg.config import Study
from empg.study import figures
from empg.study.figures import Panel


@dataclass(frozen=True, slots=True)
class Plate:
    """A figure of one or more panels. ``tables`` are the names of the tables that it shows."""

    name: str
    title: str
    caption: str
    tables: tuple[str, ...]
    panels: list[Panel]

    def whole(self) -> Panel:
        """All panels as one chart."""
        return figures.side_by_side(self.panels)


def plates(study: Study, tables: dict[str, pl.DataFrame]) -> list[Plate]:
    """Every figure, in the order of the page."""
    methods = list(study.methods)
    return [
        learning_curves(study, tables, methods),
        success(tables, methods),
        step_entropy(tables, methods),
        gradient_scale(tables, methods),
        equal_reward(tables, methods),
        proposition1(tables, methods),
        gradient_norm(study, tables),
    ]


def _environments(table: pl.DataFrame) -> Iterator[tuple[str, pl.DataFrame]]:
    for (name,), part in table.group_by("environment", maintain_order=True):
        yield str(name), part


def learning_curves(study: Study, tables: dict[str, pl.DataFrame], methods: list[str]) -> Plate:
    panels: list[Panel] = []
    for name, part in _environments(tables["learning_curves"]):
        runs = tables["training"].filter(environment=name)
        panels += [
            figures.learning_curve(part, methods, f"{name}: mean over seeds"),
            figures.seed_curves(runs, methods, f"{name}: every run"),
        ]
    return Plate(
        "learning_curves",
        "Learning curves",
        "Success of each iteration's own training episodes. These tasks are drawn anew for every iteration, those "
        "always or never solved less often, so a curve is not the success on a panel. Left, the mean over seeds; its "
        "band is Wilson's 95 % interval for the episodes of one iteration, all seeds together: the noise of "
        f"measuring, not the spread of seeds. Right, each of the {len(study.seeds)} runs of a method.",
        ("learning_curves", "training"),
        panels,
    )


def success(tables: dict[str, pl.DataFrame], methods: list[str]) -> Plate:
    panels: list[Panel] = []
    key = ["environment", "split", "mode"]
    for (environment, split, mode), part in tables["panels"].group_by(key, maintain_order=True):
        run = pl.when(pl.col("seed").is_null()).then("method").otherwise(pl.format("{} {}", "method", "seed"))
        panels.append(figures.success(part.with_columns(run=run), methods, f"{environment}: {split}, {mode}"))
    return Plate(
        "success",
        "Success of each policy",
        "Every task of the panel played once by every policy (the number behind a name is the seed), the warm start "
        "beside. Bars are Wilson's 95 % intervals for that policy's episodes.",
        ("panels",),
        panels,
    )


def step_entropy(tables: dict[str, pl.DataFrame], methods: list[str]) -> Plate:
    return Plate(
        "step_entropy",
        "Step entropy",
        "Share of training steps by their step entropy (mean over a step's tokens of the sampling distribution's "
        "entropy), in the first and the last quarter of the iterations, all seeds together. The outermost 0.1 % lie "
        "in the outer bins.",
        ("step_entropy",),
        _histograms(tables["step_entropy"], methods, "step entropy (nats)"),
    )


def gradient_scale(tables: dict[str, pl.DataFrame], methods: list[str]) -> Plate:
    return Plate(
        "gradient_scale",
        "Gradient scale",
        "Share of training steps by EMPG's factor g, which multiplies the outcome advantage and is 1 on average in "
        "every iteration; above 1 for confident steps. Only methods that scale; phases and bins as for the step "
        "entropy.",
        ("gradient_scale",),
        _histograms(tables["gradient_scale"], methods, "gradient scale g"),
    )


def _histograms(table: pl.DataFrame, methods: list[str], x_title: str) -> list[Panel]:
    if table.is_empty():
        return [figures.nothing("No method of this study scales gradients.")]
    return [
        figures.histogram(part, methods, f"{environment}: {phase}", x_title)
        for (environment, phase), part in table.group_by("environment", "phase", maintain_order=True)
    ]


def equal_reward(tables: dict[str, pl.DataFrame], methods: list[str]) -> Plate:
    return Plate(
        "equal_reward",
        "Weight of groups that cannot rank",
        "Share of the summed |advantage| that comes from groups whose rewards are all equal, mean over seeds. Their "
        "outcome advantage is 0, so without a bonus the share is 0; with EMPG's clarity bonus such groups are still "
        "trained on.",
        ("equal_reward", "training"),
        [
            figures.lines(part, methods, name, "share of |advantage|")
            for name, part in _environments(tables["equal_reward"])
        ],
    )


def proposition1(tables: dict[str, pl.DataFrame], methods: list[str]) -> Plate:
    measured = tables["proposition1"].filter(quantity="measured")
    return Plate(
        "proposition1",
        "Proposition 1, measured",
        "Squared norm of ∇ log π(a) with respect to the logits, for tokens a drawn from the trained policy at contexts "
        "of its last rollouts, 16 tokens a context, in bins of equal width by Rényi-2 entropy (mean and 95 % interval, "
        "all seeds; bins of fewer than 10 contexts left out); dashed, the proposition's expectation 1 − exp(−H₂). The "
        "bin at the left end holds most contexts: trained policies are sure of most tokens.",
        ("proposition1", "score_norms"),
        [figures.proposition(part, methods, name) for name, part in _environments(measured)],
    )


def gradient_norm(study: Study, tables: dict[str, pl.DataFrame]) -> Plate:
    table = tables["gradient_norm"]
    modulated = [name for name, method in study.methods.items() if method.modulation != "none"] or [study.baseline]
    labels = {"before": "before modulation", "after": "after modulation", "norm": "without advantage"}
    renamed = table.filter(pl.col("method").is_in(modulated)).with_columns(pl.col("quantity").replace(labels))
    renamed = renamed.sort(
        "environment", "method", pl.col("quantity").cast(pl.Enum(list(labels.values()))), "step_entropy"
    )
    return Plate(
        "gradient_norm",
        "Gradient norm against step entropy",
        "Norm over all parameters of the gradient of a step's mean log-probability under the trained policy, for "
        "steps drawn from the last iteration, alone, times the step's outcome advantage (before modulation) and "
        "times its final one (after). Bins of equal count by step entropy; mean and 95 % interval, all seeds.",
        ("gradient_norm", "gradient_norms"),
        [
            figures.gradient_norm(part, f"{environment}: {method}")
            for (environment, method), part in renamed.group_by("environment", "method", maintain_order=True)
        ],
    )
