"""What `arithmetic: portable` costs on this processor, beside other ways to round alike on several.

    python -m benchmarks.arithmetic [--results results/quick] [--data data] [--turns 5]

Needs the finished default study. The ways take turns, each in a process of its own, because the variables count when
torch is imported. Each makes the training step on the middle iteration's recorded batch and plays 64 episodes with the
warm start. A ratio is the median of the turns' ratios to `native`, in CPU seconds of one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from empg import arithmetic
from empg.config import train_run

#: The variables of each way.
WAYS: dict[str, dict[str, str]] = {
    "native": {},
    "native, AVX2": {"ATEN_CPU_CAPABILITY": "avx2"},
    "MKL_CBWR=AVX2,STRICT": {"ATEN_CPU_CAPABILITY": "avx2", "MKL_CBWR": "AVX2,STRICT"},
    "MKL_CBWR=COMPATIBLE": {"ATEN_CPU_CAPABILITY": "avx2", "MKL_CBWR": "COMPATIBLE"},
    "portable": arithmetic.VARIABLES,
}
REPEATS = 3


def seconds(call: Callable[[], Any]) -> float:
    """CPU seconds: the fastest of :data:`REPEATS` calls, after one that is not counted."""
    taken = []
    for _ in range(1 + REPEATS):
        start = time.process_time()
        call()
        taken.append(time.process_time() - start)
    return min(taken[1:])


def measure(way: str, results: Path, data: Path) -> dict[str, float]:
    """CPU seconds of a training step and of playing, for each environment."""
    import torch

    from benchmarks.measure import DefaultStudy
    from benchmarks.training import OurStep
    from empg.environments.datasets import open_dataset
    from empg.policy.policy import Policy
    from empg.rollouts.collect import group_episodes, make_sampler

    torch.set_num_threads(1)
    if way == "portable":
        arithmetic.install()
    study, found = DefaultStudy.read(results, data), {}
    for name in study.study.environments:
        config = train_run(study.study, dict(study.data_sets), name, study.study.baseline, study.study.seeds[0])
        step, batch = OurStep(config, study.model(name)), study.batches(name)["middle"]
        found[f"training step, {name}"] = seconds(lambda step=step, batch=batch: step(batch))  # type: ignore[misc]
        dataset = open_dataset(config.data, data / study.study.data_set(name), config.interface)
        policy = Policy.load(study.model(name), config.system)
        sampler = make_sampler(policy, config.sampling, dataset, config.max_steps)
        episodes = group_episodes(dataset.tasks("train")[:16], 4, 0, "arithmetic")
        found[f"episodes, {name}"] = seconds(lambda sampler=sampler, e=episodes: sampler.play(e))  # type: ignore[misc]
    return found


def main() -> None:
    """Measure the ways in turns and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("results/quick"), help="(default: %(default)s)")
    parser.add_argument("--data", type=Path, default=Path("data"), help="(default: %(default)s)")
    parser.add_argument("--turns", type=int, default=5, help="(default: %(default)s)")
    parser.add_argument("--way", choices=WAYS, help="measure one way in this process and print JSON")
    arguments = parser.parse_args()
    if arguments.way:
        print(json.dumps(measure(arguments.way, arguments.results, arguments.data)))
        return
    turns: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for _ in range(arguments.turns):
        for way, variables in WAYS.items():
            command = [sys.executable, "-m", "benchmarks.arithmetic", "--way", way]
            command += ["--results", str(arguments.results), "--data", str(arguments.data)]
            environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"} | variables
            done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
            turns[way].append(json.loads(done.stdout))
    for what in turns["native"][0]:
        of = {way: np.array([turn[what] for turn in found]) for way, found in turns.items()}
        ratios = ", ".join(f"{way} {np.median(taken / of['native']):.2f}" for way, taken in of.items())
        print(f"{what}: {np.median(of['native']):.3f} CPU s; {ratios}", flush=True)


if __name__ == "__main__":
    main()
