"""Plays the same games with the same actions in the public ALFWorld engine and in ours, and compares every answer.

    python benchmarks/parity/run.py [--jobs 2] [--games 60] [--steps 100] [--keep TRANSCRIPTS.jsonl] [FOLDER ...]

FOLDERs are searched for ``game.tw-pddl``. Without any, ``--games`` games of each generator profile are written to a
temporary folder, and the examples in the test data (EMPG_TEST_DATA, or ../shared/data) are added where they are
present. Each game is played with its solution (the file's walkthrough, or the public planner's) and with ``--steps``
random actions, admissible, inadmissible and malformed. At every step the observation, the admissible actions, won,
reward and done must be equal. Exit status 1 if anything differs.

The public engine runs in an environment of its own, ``.venv-parity``, which the first run installs.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import venv
from collections import Counter
from pathlib import Path

from empg.environments.alfworld.engine.game import Game
from empg.environments.alfworld.generated.writer import write_dataset

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = ROOT / ".venv-parity"
# torch first and apart, as in empg's own environment: alfworld needs some torch, and any build of this version serves.
REQUIREMENTS = ("torch==2.13.0", "alfworld==0.4.2")
PROFILES = ("small", "official")


def install() -> Path:
    """Make the parity environment if it is not complete; return its Python."""
    python, stamp = ENVIRONMENT / "bin" / "python", ENVIRONMENT / ".installed"
    if not stamp.exists():
        print(f"installing {' and '.join(REQUIREMENTS)} into {ENVIRONMENT}", flush=True)
        venv.create(ENVIRONMENT, with_pip=True, clear=True)
        for requirement in REQUIREMENTS:
            command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", requirement]
            subprocess.run(command, check=True)
        stamp.touch()
    return python


def play_public(
    paths: list[Path], steps: int, jobs: int, *, solutions: list[list[str] | None], seed: int = 0, quiet: bool = False
) -> list[dict]:
    """Transcripts of the public engine, in the order of ``paths``, from ``jobs`` processes of one thread each."""
    python = install()
    work = [
        {"path": str(path), "seed": seed + i, "steps": steps, "solution": solution}
        for i, (path, solution) in enumerate(zip(paths, solutions, strict=True))
    ]
    with tempfile.TemporaryDirectory() as folder:
        processes, outputs = [], []
        for part in range(jobs):
            jobs_file, out, log = (Path(folder) / f"{part}.{suffix}" for suffix in ("json", "jsonl", "log"))
            jobs_file.write_text(json.dumps(work[part::jobs]))
            outputs.append(out)
            with log.open("w") as stream:
                command = [python, "-W", "ignore", Path(__file__).with_name("public.py"), jobs_file, out]
                environment = os.environ | {"OMP_NUM_THREADS": "1"}
                processes.append((subprocess.Popen(command, stdout=stream, stderr=stream, env=environment), log))
        told = 0
        while any(process.poll() is None for process, _ in processes):
            time.sleep(1)
            done = sum(out.read_bytes().count(b"\n") for out in outputs if out.exists())
            if done > told and not quiet:
                print(f"public engine: {done} of {len(work)} games", flush=True)
            told = done
        for process, log in processes:
            if process.returncode:
                sys.exit(f"the public engine stopped with status {process.returncode}:\n{log.read_text()[-3000:]}")
        lines = {t["path"]: t for out in outputs for t in map(json.loads, out.read_text().splitlines())}
    return [lines[str(path)] for path in paths]


def differences(game: Game, events: list) -> list[str]:
    """Replay a transcript in our engine; one line for every answer that differs."""
    found = []
    for number, (action, observation, admissible, won, reward, done) in enumerate(events):
        if action is None:
            ours = (game.reset(), game.admissible_actions, game.won, 0.0, False)
        else:
            allowed = game.admissible_actions
            result = game.step(action)
            ours = (result.observation, game.admissible_actions, game.won, result.reward, result.done)
            if result.invalid != (action.strip() not in allowed):
                found.append(f"event {number} {action!r}: invalid is {result.invalid}")
        for name, mine, theirs in zip(
            ("observation", "admissible", "won", "reward", "done"),
            ours,
            (observation, admissible, won, reward, done),
            strict=True,
        ):
            if mine != theirs:
                found.append(f"event {number} {action!r}: {name}: public {theirs!r}, ours {mine!r}")
    return found


def walkthrough(path: Path) -> list[str] | None:
    """The solution in a game file."""
    return json.loads(path.read_text())["walkthrough"] or None


def default_folders(folder: Path, games: int) -> list[Path]:
    """Generated games of both profiles, spread over the splits, and the examples of the test data."""
    third = games // 18 * 6  # the six task types take turns in each split
    for profile in PROFILES:
        write_dataset(
            folder / profile,
            profile=profile,
            seed=0,
            sizes={"train": games - 2 * third, "valid_seen": third, "valid_unseen": third},
        )
    if not examples().is_dir():
        print(f"no examples at {examples()}: playing generated games alone")
    return [folder, examples()]


def examples() -> Path:
    """Where the test data has its example games."""
    return Path(os.environ.get("EMPG_TEST_DATA", ROOT.parent / "shared" / "data")) / "alfworld" / "synth_example"


def summarise(paths: list[Path], transcripts: list[dict], failures: dict[Path, list[str]]) -> None:
    """Print counts by task type."""
    rows: dict[str, Counter] = {}
    for path, transcript in zip(paths, transcripts, strict=True):
        events = transcript["events"]
        kind = json.loads(path.with_name("traj_data.json").read_text())["task_type"]
        solved = next(i for i, event in enumerate(events[1:], 1) if event[0] is None or event[3])
        for name in (kind, "all"):
            row = rows.setdefault(name, Counter())
            row["games"] += 1
            row["steps"] += sum(event[0] is not None for event in events)
            row["refused"] += sum(event[1] == "Nothing happens." for event in events)
            row["solved"] += bool(events[solved][3])
            row["differ"] += len(failures.get(path, ()))
    columns = ("games", "steps", "refused", "solved", "differ")
    print(f"{'task type':34}" + "".join(f"{column:>10}" for column in columns))
    for name, row in sorted(rows.items(), key=lambda item: item[0] == "all"):
        print(f"{name:34}" + "".join(f"{row[column]:>10}" for column in columns))


def main() -> int:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="processes of the public engine")
    parser.add_argument(
        "--games", type=int, default=60, help="generated games of each profile, where no FOLDER is given"
    )
    parser.add_argument("--steps", type=int, default=100, help="random actions a game")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="write the public engine's transcripts to this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folders = options.folders or default_folders(Path(temporary), options.games)
        paths = sorted(path for folder in folders for path in folder.rglob("game.tw-pddl"))
        if not paths:
            sys.exit(f"expected game.tw-pddl files under {', '.join(map(str, folders))}, found none")
        solutions = [walkthrough(path) for path in paths]
        transcripts = play_public(paths, options.steps, options.jobs, solutions=solutions, seed=options.seed)
        failures = {}
        for path, transcript in zip(paths, transcripts, strict=True):
            if found := differences(Game.load(path), transcript["events"]):
                failures[path] = found
                print(f"{path}\n  " + "\n  ".join(line[:400] for line in found[:5]))
        summarise(paths, transcripts, failures)
        if options.keep:
            options.keep.write_text("".join(json.dumps(transcript) + "\n" for transcript in transcripts))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
