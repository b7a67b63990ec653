"""Speed of the ALFWorld engine beside the public one (alfworld 0.4.2): same games, same actions, one thread each.

    python benchmarks/alfworld_engine.py [--games 6] [--steps 50]

Both are timed in CPU seconds of their own process. The public engine lists the admissible actions at every step, ours
only when asked, so ours is timed with the list and without. A reset includes reading the file.
"""

import argparse
import gc
import tempfile
import time
from pathlib import Path

from empg.environments.alfworld.engine.game import Game
from empg.environments.alfworld.generated.writer import write_dataset
from parity.run import PROFILES, play_public, walkthrough

REPEATS = 30


def seconds_of_steps(path: str, events: list, with_admissible: bool) -> float:
    """CPU seconds in which our engine plays the transcript's steps once; its resets are not counted."""
    game, total = Game.load(path), 0.0
    for action, *_ in events:
        if action is None:
            game.reset()
            continue
        start = time.process_time()
        game.step(action)
        if with_admissible:
            game.admissible_actions  # noqa: B018
        total += time.process_time() - start
    return total


def seconds_of_reset(path: str) -> float:
    """CPU seconds of loading and resetting a game."""
    start = time.process_time()
    Game.load(path).reset()
    return time.process_time() - start


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--games", type=int, default=6, help="games of each profile")
    parser.add_argument("--steps", type=int, default=50, help="random actions a game, after its solution")
    options = parser.parse_args()
    print(f"{'profile':10}{'engine':24}{'steps':>8}{'steps / CPU s':>16}{'ratio':>10}{'load + reset, ms':>20}")
    for profile in PROFILES:
        with tempfile.TemporaryDirectory() as folder:
            write_dataset(folder, profile=profile, seed=0, sizes={"valid_seen": options.games})
            paths = sorted(Path(folder).rglob("game.tw-pddl"))
            public = play_public(paths, options.steps, 1, solutions=[walkthrough(path) for path in paths], quiet=True)
            games = [(transcript["path"], transcript["events"]) for transcript in public]
            steps = sum(event[0] is not None for _, events in games for event in events)
            public_rate = steps / sum(transcript["step_seconds"] for transcript in public)
            resets = [seconds for transcript in public for seconds in transcript["load_and_reset_seconds"]]
            rows = [("alfworld 0.4.2", public_rate, sum(resets) / len(resets))]
            seconds_of_reset(paths[0])  # compiles the rules, once per process
            gc.collect()
            resets = [seconds_of_reset(path) for path in paths for _ in range(REPEATS)]
            for name, with_admissible in (("ours", True), ("ours, actions unasked", False)):
                seconds = sum(seconds_of_steps(*game, with_admissible) for game in games for _ in range(REPEATS))
                rows.append((name, REPEATS * steps / seconds, sum(resets) / len(resets)))
        for name, rate, reset in rows:
            print(f"{profile:10}{name:24}{steps:>8}{rate:>16,.0f}{rate / public_rate:>10,.0f}{1e3 * reset:>20,.2f}")


if __name__ == "__main__":
    main()
