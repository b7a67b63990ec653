"""Breaks a small study in every way that a machine can, and checks that nothing is lost: ``make campaign``.

    python -m tests.campaign [--kills 100] [--only CASE …] [--fresh] [--page docs/campaign.md]

A case that has ended stays in ``build/campaign``; the same command goes on with the others.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from . import disks, kills, machine, page, services
from .case import Case, NotRunError
from .processes import adopt_orphans, cpu_seconds, kill_all, settle, snakemake
from .results import bits
from .stages import STAGES
from .study import make

STATE = Path("build/campaign")
SEED = 19
A_SERIES = 8  # kills at most before a study may end
CASES: dict[str, Callable[[Case], None]] = {
    **{f"full disk: {name}": partial(disks.full_in_a_stage, name=name) for name in STAGES},
    "full disk: the whole project": disks.full_under_snakemake,
    "read-only folder": disks.read_only,
    "file system without locks": disks.without_locks,
    "two runs at once": machine.two_at_once,
    **{name: partial(machine.signals, name=name) for name in machine.SIGNALS},
    "clock jumps": machine.clock_jumps,
    **{f"memory: {name}": partial(machine.memory, name=name) for name in ("warm start", "training", "evaluation")},
    "memory: the whole run": machine.memory_under_snakemake,
    "MLflow's database locked": services.database_locked,
    "MLflow's database corrupt": services.database_corrupt,
    "MLflow's database deleted": services.database_deleted,
    "DVC's cache emptied": services.cache_emptied,
}


def main() -> None:
    """Run what has not been run, print a line of each case, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="SIGKILLs in all (default: %(default)s)")
    parser.add_argument("--only", nargs="+", metavar="CASE", default=[""], help="cases whose name begins so")
    parser.add_argument("--fresh", action="store_true", help="forget the cases that have ended")
    parser.add_argument("--page", type=Path, help="file to write the table to")
    arguments = parser.parse_args()
    adopt_orphans()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that mounts and cgroups are removed
    if arguments.fresh:
        shutil.rmtree(STATE, ignore_errors=True)
    STATE.mkdir(parents=True, exist_ok=True)
    try:
        reference = _reference()
        for name, case in CASES.items():
            if name.startswith(tuple(arguments.only)):
                print(page.row(_once(_file(name), partial(_try, name, case, reference))), flush=True)
        if "SIGKILL".startswith(tuple(arguments.only)):
            _kill(arguments.kills, reference)
    finally:
        kill_all()
    found = page.Campaign.read(STATE, list(CASES))
    print(page.table(found))
    if arguments.page:
        arguments.page.write_text(page.text(found), encoding="utf-8")
    raise SystemExit(1 if found.broken else 0)


def _file(name: str) -> Path:
    return STATE / f"{name.replace(' ', '_').replace(':', '')}.json"


def _once(path: Path, do: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The result in the file, or that of ``do()``, which is then in it. What broke is tried again."""
    if path.exists() and (found := json.loads(path.read_text()))["outcome"] != "broken":
        return found
    found = do()
    path.write_text(json.dumps(found, indent=1))
    return found


def _reference() -> dict[str, Any]:
    """The uninterrupted run, made twice, so that what is compared is known to be the same where nothing happens."""
    path = STATE / "reference.json"
    if path.exists():
        return json.loads(path.read_text())
    shutil.rmtree(STATE / "template", ignore_errors=True)
    make(STATE.resolve() / "template")
    runs = []
    for name in ("again", "reference"):
        project = kills.fresh(STATE / "template", STATE.resolve() / name)
        before = cpu_seconds()
        ended = snakemake(project).wait()
        settle()
        assert ended.code == 0, ended.output[-3000:]
        runs.append((bits(project.root), cpu_seconds() - before))
    (first, _), (expected, _) = runs
    assert first == expected, sorted(name for name in first | expected if first.get(name) != expected.get(name))
    shutil.rmtree(STATE / "again")
    found = {"expected": expected, "cpu_seconds": sum(seconds for _, seconds in runs) / 2}
    path.write_text(json.dumps(found, indent=1))
    return found


def _try(name: str, do: Callable[[Case], None], reference: dict[str, Any]) -> dict[str, Any]:
    """Run one case in a folder of its own."""
    before, outcome = cpu_seconds(), "held"
    with tempfile.TemporaryDirectory(prefix="empg-campaign-", ignore_cleanup_errors=True) as scratch:
        root = STATE.resolve()
        case = Case(Path(scratch), root / "template", root / "reference", reference["expected"], SEED)
        try:
            do(case)
        except NotRunError as reason:
            outcome = "not run"
            case.log.append(str(reason))
        except Exception:
            outcome = "broken"
            case.log.append(traceback.format_exc())
        settle()
    return {
        "case": name,
        "about": (do.func if isinstance(do, partial) else do).__doc__,
        "outcome": outcome,
        "detail": "; ".join(case.log),
        "cpu_seconds": cpu_seconds() - before,
    }


def _kill(most: int, reference: dict[str, Any]) -> None:
    """Series of kills until there are so many."""
    done, seed = 0, SEED
    while done < most:
        path = STATE / f"kills_{seed}.json"
        if not path.exists():
            project = kills.fresh(STATE / "reference", STATE.resolve() / "killed")
            found = kills.Series(project, seed).run(min(A_SERIES, most - done), reference["expected"])
            path.write_text(json.dumps(found, indent=1))
            print(json.dumps(found), flush=True)
        done, seed = done + json.loads(path.read_text())["kills"], seed + 1


if __name__ == "__main__":
    main()
