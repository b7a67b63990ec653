"""Measures speed and memory beside public packages and writes docs/benchmarks.md: ``make bench``.

    python -m benchmarks [--results results/quick] [--data data] [--only PART …]

Needs the finished default study. With ``--only`` it prints some parts and writes no page.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch

from benchmarks import engines, memory, page, rollouts, sizes, training
from benchmarks.measure import DefaultStudy, Line

Part = Callable[[DefaultStudy], Iterable[Line]]
#: The parts of the first table, in its order.
PARTS: dict[str, Part] = {
    "trl": training.against_trl,
    "sharing": training.against_no_sharing,
    "rollouts": lambda study: (rollouts.against_generate(study, profile) for profile in ("official", "small")),
    "memory": lambda _: [memory.against_naive()],
    "shares": lambda study: (line for name in study.study.environments for line in rollouts.shares(study, name)),
    "engines": lambda study: [
        *(line for profile in engines.PROFILES for line in engines.alfworld(profile)),
        engines.webshop(study),
    ],
}


def main() -> None:
    """Measure, print as it goes, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("results/quick"), help="(default: %(default)s)")
    parser.add_argument("--data", type=Path, default=Path("data"), help="(default: %(default)s)")
    parser.add_argument("--only", nargs="+", choices=[*PARTS, "index", "sizes"], help="parts to measure and print")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    study = DefaultStudy.read(arguments.results, arguments.data)
    wanted = arguments.only or [*PARTS, "index", "sizes"]
    lines: list[Line] = []
    for name, part in PARTS.items():
        if name in wanted:
            for line in part(study):
                print(page.row(line), flush=True)
                lines.append(line)
    sentence = engines.index() if "index" in wanted else ""
    print(sentence, flush=True)
    if "sizes" in wanted:
        measured = sizes.measure()
        if not arguments.only:
            page.write(lines, sentence, measured, time.process_time() / 60)
            print(f"wrote {page.PAGE} and {page.FIGURE}")


if __name__ == "__main__":
    main()
