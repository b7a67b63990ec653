"""Speed of the environments through gymnasium, one thread, in CPU seconds of this process.

    python benchmarks/gymnasium_steps.py [--episodes 100] [--repeats 3]

The expert's actions are recorded first and then played again. A step includes gymnasium's own wrappers and info, with
ALFWorld's admissible actions and without. Needs gymnasium.
"""

import argparse
import gc
import time
from typing import Any

import gymnasium

import empg.integrations.gymnasium  # noqa: F401 - registers the environments
from empg.environments.alfworld import expert as alfworld
from empg.environments.deepsearch import expert as deepsearch
from empg.environments.webshop import expert as webshop

CASES: list[tuple[str, Any, dict[str, Any]]] = [
    ("ALFWorld", alfworld, {"settings": {"profile": "small"}}),
    ("ALFWorld", alfworld, {"settings": {"profile": "small"}, "admissible_actions": False}),
    ("ALFWorld", alfworld, {"settings": {"profile": "official"}}),
    ("ALFWorld", alfworld, {"settings": {"profile": "official"}, "admissible_actions": False}),
    ("WebShop", webshop, {}),
    ("DeepSearch", deepsearch, {}),
]


def record(env: gymnasium.Env, expert: Any, task: int) -> list[str]:
    """The expert's actions in a task."""
    observation, _ = env.reset(options={"task": task})
    player, actions, ended = expert.Expert(), [], False
    while not ended:
        actions.append(player.act(observation)[1])
        observation, _, terminated, truncated, _ = env.step(actions[-1])
        ended = terminated or truncated
    return actions


def play(env: gymnasium.Env, task: int, actions: list[str]) -> tuple[float, float]:
    """CPU seconds of the reset and of the steps."""
    start = time.process_time()
    env.reset(options={"task": task})
    reset = time.process_time()
    for action in actions:
        env.step(action)
    return reset - start, time.process_time() - reset


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    print(f"{'environment':44}{'steps':>8}{'steps / CPU s':>16}{'reset, ms':>12}")
    for name, expert, arguments in CASES:
        env = gymnasium.make(f"empg/{name}-v0", **arguments)
        games = {task: record(env, expert, task) for task in range(options.episodes)}
        gc.collect()
        times = [play(env, *game) for _ in range(options.repeats) for game in games.items()]
        resets, seconds = (sum(column) for column in zip(*times, strict=True))
        steps = options.repeats * sum(map(len, games.values()))
        about = [name, *arguments.get("settings", {}).values()]
        about += ["actions unasked"] if "admissible_actions" in arguments else []
        print(f"{', '.join(about):44}{steps:>8}{steps / seconds:>16,.0f}{1e3 * resets / len(times):>12.2f}")


if __name__ == "__main__":
    main()
