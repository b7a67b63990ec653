"""The environment's share of the time that Deep Search's rollouts take, with the default study's warm start.

    python benchmarks/deepsearch_rollouts.py

Needs a finished `make run`. Plays 64 training episodes (16 tasks, four each) five times on one thread and compares the
CPU seconds inside the environments, resets, reading of actions and searches included, with those of the whole.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from empg.config import load_data, load_environments, load_study, rollouts_run
from empg.environments.datasets import open_dataset
from empg.policy.policy import Policy
from empg.rollouts.collect import group_episodes, make_sampler

REPEATS = 5


class Clock:
    """CPU seconds inside the functions that it wraps."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, timed."""

        def timed(*arguments: Any, **named: Any) -> Any:
            start = time.process_time()
            try:
                return function(*arguments, **named)
            finally:
                self.seconds += time.process_time() - start

        return timed


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    data = load_data(Path("config/data.yaml"))
    study = load_study(Path("config/config.yaml"), data, load_environments(Path("config/environments.yaml")))
    config = rollouts_run(study, data, "deepsearch")
    dataset = open_dataset(config.data, Path("data/deepsearch"))
    policy = Policy.load(Path("results/quick/deepsearch/warmstart/model"), config.system)
    sampler = make_sampler(policy, config.sampling, dataset, config.max_steps, config.interface)
    tasks = dataset.tasks("train")
    sampler.play(group_episodes(tasks[:16], 4, 0, 0))  # opens the index, warms the caches

    clock, arena = Clock(), sampler.arena

    def make() -> Any:
        environment = arena.make()
        environment.reset = clock.wrap(environment.reset)  # type: ignore[method-assign]
        return environment

    sampler.arena = replace(
        arena, make=make, parse_action=clock.wrap(arena.parse_action), step_all=clock.wrap(arena.step_all)
    )
    whole, steps = time.process_time(), 0
    for repeat in range(1, REPEATS + 1):
        played = sampler.play(group_episodes(tasks[16 * repeat : 16 * repeat + 16], 4, 0, repeat))
        steps += sum(len(trajectory.steps) for trajectory in played)
    whole = time.process_time() - whole
    share = clock.seconds / whole
    print(
        f"{REPEATS} × 64 episodes, {steps} steps: {whole:.2f} CPU s, {clock.seconds:.3f} of them in the environments "
        f"({share:.1%})"
    )


if __name__ == "__main__":
    main()
