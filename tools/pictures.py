"""The pictures of the README and the site: the pipeline, drawn here, and the first screen of a study's report.

``make pictures`` makes both. The screenshot needs Chromium (``apt-get install chromium``) and a study that has run.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from PIL import Image

from empg import modulate

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
SCREEN = (1200, 800)  # CSS pixels
PIXELS = 1.5  # of the file per CSS pixel
COLOURS = 128  # of the screenshot: flat areas and text need no more

WIDTH, HEIGHT = 1120, 640
# The picture carries the colours of both themes, light and dark.
STYLE = """
svg { --page: #ffffff; --ink: #1f2430; --soft: #5d6575; --line: #c3c9d5; --card: #f5f6f9; --edge: #d9dde6;
      --a: #3f6fd8; --b: #c9731a; --c: #2f9468; --empg: #8a4fd0; }
@media (prefers-color-scheme: dark) {
  svg { --page: #14171f; --ink: #e8ebf2; --soft: #a0a8b8; --line: #4a5264; --card: #1e232e; --edge: #343b4a;
        --a: #7fa4ff; --b: #f0a756; --c: #63c99a; --empg: #c39bff; } }
text { font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
       fill: var(--ink); }
.page { fill: var(--page); stroke: var(--edge); } .card { fill: var(--card); stroke: var(--edge); }
.h { font-size: 15px; font-weight: 650; } .s { font-size: 12px; fill: var(--soft); } .n { font-size: 13px; }
.l { font-size: 15px; font-weight: 650; } .mid { text-anchor: middle; } .end { text-anchor: end; }
.line { stroke: var(--line); stroke-width: 2; fill: none; marker-end: url(#tip); } .tip { fill: var(--line); }
.a { --lane: var(--a); } .b { --lane: var(--b); } .c { --lane: var(--c); } .e { --lane: var(--empg); }
.node { fill: var(--page); stroke: var(--lane); stroke-width: 1.6; } .bar { fill: var(--lane); }
.tint { fill: var(--lane); fill-opacity: .14; stroke: var(--lane); stroke-width: 1.2; }
.lane { fill: var(--lane); fill-opacity: .07; } .name { fill: var(--lane); } .base { stroke: var(--line); }
"""
# Environment, colour, its data.
LANES = (("ALFWorld", "a", "rooms"), ("WebShop", "b", "a shop"), ("Deep Search", "c", "documents"))
METHODS = ("GRPO", "GRPO + EMPG", "DAPO", "DAPO + EMPG")
# Stage, centre, what it does in two lines.
STAGES = (
    ("Data", 206, ("tasks, made", "or official")),
    ("Warm start", 330, ("imitate", "an expert")),
    ("Rollouts", 454, ("first batch,", "difficulty")),
    ("Train", 632, ("every method, every seed:", "nothing else differs")),
    ("Evaluate", 826, ("fixed panels,", "same luck")),
    ("Report", 1006, ("every number", "traceable")),
)
LANE_TOP, LANE_HEIGHT, LANE_GAP = 122, 82, 10
# An episode of six steps: mean token entropy of each, in nats; the scales below are what EMPG makes of it.
ENTROPY = (0.25, 1.15, 0.45, 0.9, 0.1, 0.3)
ACTIONS = ("look", "go to", "open", "take", "go to", "put")


def text(x: float, y: float, words: str, kind: str) -> str:
    return f'<text x="{x:g}" y="{y:g}" class="{kind}">{words}</text>'


def box(x: float, y: float, width: float, height: float, *, kind: str, radius: float = 8) -> str:
    return f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{radius:g}" class="{kind}"/>'


def arrow(*points: tuple[float, float]) -> str:
    return f'<path d="M{" L".join(f"{x:g},{y:g}" for x, y in points)}" class="line"/>'


def node(x: float, y: float, words: str, colour: str, width: float = 88) -> str:
    """A rounded box around its centre, with one line of text."""
    return box(x - width / 2, y - 17, width, 34, kind=f"node {colour}") + text(x, y + 4.5, words, "n mid")


def lane(row: int) -> list[str]:
    """One environment's jobs, from its data to its evaluations."""
    name, colour, data = LANES[row]
    top = LANE_TOP + row * (LANE_HEIGHT + LANE_GAP)
    middle = top + LANE_HEIGHT / 2
    at = {stage: x for stage, x, _ in STAGES}
    parts = [
        box(20, top, 870, LANE_HEIGHT, kind=f"lane {colour}", radius=10),
        text(36, middle + 5, name, f"l name {colour}"),
    ]
    nodes = (("Data", data), ("Warm start", "policy"), ("Rollouts", "episodes"), ("Evaluate", "success"))
    parts += [node(at[stage], middle, words, colour) for stage, words in nodes]
    for i, method in enumerate(METHODS):
        x, y = at["Train"] + (-56 if i % 2 == 0 else 56), middle + (-18 if i < 2 else 18)
        kind = f"tint {'e' if 'EMPG' in method else colour}"
        parts += [box(x - 52, y - 14, 104, 28, kind=kind, radius=14), text(x, y + 4.5, method, "n mid")]
    ends = ((250, 284), (374, 408), (498, 520), (746, 780), (870, 908))
    return parts + [arrow((start, middle), (end, middle)) for start, end in ends]


def outputs() -> list[str]:
    """The outputs of a study, which all environments share."""
    top, height = LANE_TOP, 3 * LANE_HEIGHT + 2 * LANE_GAP
    rows = (
        ("report.html", "verdict, intervals,", "figures, episodes"),
        ("MLflow", "curves, models,", "traces of episodes"),
        ("results/", "Parquet, weights,", "hashes for the audit"),
    )
    parts = [box(912, top, 188, height, kind="card", radius=10)]
    for i, (name, *lines) in enumerate(rows):
        y = top + 34 + i * 88
        parts += [text(932, y, name, "l"), *(text(932, y + 20 + 17 * j, line, "s") for j, line in enumerate(lines))]
    return parts


def iteration() -> list[str]:
    """Below the grid: one iteration of training, and what EMPG does to the steps of an episode."""
    top = 426
    parts = [box(20, top, 1080, 194, kind="card", radius=10), arrow((632, 398), (632, top - 2))]
    parts += [text(36, top + 30, "One iteration of training", "h")]
    steps = (
        ("collect", "groups of episodes", ""),
        ("outcome advantage", "who did better in the group", ""),
        ("modulate", "EMPG, by step entropy", "e"),
        ("update", "clipped policy gradient", ""),
    )
    for i, (name, words, colour) in enumerate(steps):
        x, y = 36 + (i % 2) * 226, top + 50 + (i // 2) * 74
        x = 36 + (1 - i % 2) * 226 if i > 1 else x
        parts += [box(x, y, 196, 52, kind=f"tint {colour or 'a'}"), text(x + 98, y + 22, name, "l mid")]
        parts += [text(x + 98, y + 40, words, "s mid")]
    left, right, upper, lower = 134, 360, top + 76, top + 150
    parts += [arrow((233, upper), (259, upper)), arrow((right, top + 103), (right, top + 121))]
    parts += [arrow((261, lower), (235, lower)), arrow((left, top + 123), (left, top + 105))]
    return parts + bars(520, top)


def bars(left: float, top: float) -> list[str]:
    """The entropy of an episode's steps, and the gradient scale that EMPG computes from it."""
    scales = modulate(torch.ones(1), torch.tensor(ENTROPY), torch.zeros(len(ENTROPY), dtype=torch.int64)).gradient_scale
    rows = (
        ("step entropy H", "how unsure the policy was", "a", ENTROPY),
        ("gradient scale g", "confident steps count more, unsure less", "e", scales.tolist()),
    )
    parts = []
    for i, (name, words, colour, values) in enumerate(rows):
        x0, base = left + i * 292, top + 152
        parts += [text(x0, top + 30, name, f"l name {colour}"), text(x0, top + 48, words, "s")]
        parts += [f'<line x1="{x0}" x2="{x0 + 252}" y1="{base}" y2="{base}" class="base"/>']
        for j, (value, action) in enumerate(zip(values, ACTIONS, strict=True)):
            x, height = x0 + 6 + 42 * j, round(68 * value / max(values), 1)
            parts += [
                box(x, base - height, 30, height, kind=f"bar {colour}", radius=3),
                text(x + 15, base + 17, action, "s mid"),
            ]
            parts += [text(x + 15, base - height - 5, f"{value:.2f}", "s mid")]
    return parts


def pipeline() -> str:
    """The pipeline as an SVG: stages across, environments down, one iteration of training below."""
    parts = [box(0.5, 0.5, WIDTH - 1, HEIGHT - 1, kind="page", radius=14)]
    for number, (name, x, lines) in enumerate(STAGES, start=1):
        parts += [text(x, 44, f"{number} · {name}", "h mid")]
        parts += [text(x, 66 + 17 * i, line, "s mid") for i, line in enumerate(lines)]
    for row in range(len(LANES)):
        parts += lane(row)
    parts += outputs() + iteration()
    tip = '<marker id="tip" markerWidth="7" markerHeight="7" refX="5" refY="3" orient="auto">'
    title = "Pipeline: data, warm start, rollouts, training, evaluation and report, for each environment"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}">',
            f"<title>{title}</title><style>{STYLE}</style>",
            f'<defs>{tip}<path d="M0,0 L6,3 L0,6 z" class="tip"/></marker></defs>',
            *parts,
            "</svg>\n",
        ]
    )


def screenshot(page: Path, out: Path) -> None:
    """The first screen of a page as a PNG of few colours. Raises SystemExit where page or browser is missing."""
    if not page.exists():
        raise SystemExit(f"pictures: expected a report, found no {page}; run the study, or name another: STUDY=NAME")
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise SystemExit(f"pictures: expected a browser ({', '.join(BROWSERS)}), found none; apt-get install chromium")
    with tempfile.TemporaryDirectory() as folder:
        shot = Path(folder, "shot.png")
        command = [
            browser,
            "--headless",
            *(["--no-sandbox"] if os.geteuid() == 0 else []),  # Chromium's sandbox refuses root
            "--disable-gpu",
            "--hide-scrollbars",
            f"--user-data-dir={folder}/profile",
            f"--window-size={SCREEN[0]},{SCREEN[1]}",
            f"--force-device-scale-factor={PIXELS}",
            f"--screenshot={shot}",
            page.resolve().as_uri(),
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        if not shot.exists():
            raise SystemExit(f"pictures: {browser} made no screenshot (exit code {done.returncode}):\n{done.stderr}")
        with Image.open(shot) as image:
            image.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(out, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--report", type=Path, required=True, help="a study's report.html")
    parser.add_argument("--out", type=Path, default=Path("docs/pictures"), help="the folder of the pictures")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "pipeline.svg").write_text(pipeline(), encoding="utf-8")
    screenshot(arguments.report, arguments.out / "report.png")
    for name in ("pipeline.svg", "report.png"):
        size = (arguments.out / name).stat().st_size
        print(f"{arguments.out / name}: {size / 1000:.0f} kB", file=sys.stderr)


if __name__ == "__main__":
    main()
