"""How much a warm start buys, and how much of it is luck: success after several seeds and budgets.

    python benchmarks/warmstarts.py webshop --seeds 1 2 3 4 5 6
    ATEN_CPU_CAPABILITY=avx2 python benchmarks/warmstarts.py webshop --seeds 1 2 3 4 5 6   # rounds otherwise
    python benchmarks/warmstarts.py alfworld --tokens 1000000 1400000 2200000              # the curve of the budget

Needs `data/ENVIRONMENT` (`dvc repro`) and no results of a study. Trains warm starts with the study's settings, but for
seed and budget. For each it prints success on the `tune` panel, the loss in nats a step, of thoughts and of actions, on
demonstrations without mistakes and detours, and CPU seconds of training; then the median and the worst of each budget.
A high loss of actions beside a low loss of thoughts means that copying was not learnt.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import torch

from empg.config import evaluate_run, warmstart_run
from empg.environments.datasets import open_dataset
from empg.pipeline.job_files import read_study
from empg.policy.packing import packs
from empg.policy.policy import Policy
from empg.rollouts import evaluate
from empg.training.demonstrations import Example, demonstrate, make_example
from empg.training.warmstart import fine_tune, make_policy

HELD_OUT = 77  # seed of the demonstrations that the loss is measured on


def costs(policy: Policy, examples: Sequence[Example]) -> tuple[float, float]:
    """The mean loss of a step in nats: of its thought, and of the rest."""
    end = policy.chat.tokenizer.encode("</think>", add_special_tokens=False)[-1]
    thoughts = actions = steps = 0.0
    for example in examples:
        ids, targets = example.conversation.ids, np.flatnonzero(example.conversation.mask)
        (pack,) = packs([example.conversation], len(ids), policy.network.embedding.device)
        with torch.no_grad():
            logprobs, _ = pack.statistics(policy.network)
        is_action = False
        for previous, target, logprob in zip([-1, *targets], targets, logprobs.tolist(), strict=False):
            if target != previous + 1:  # a new step
                steps, is_action = steps + 1, False
            thoughts, actions = thoughts - logprob * (not is_action), actions - logprob * is_action
            is_action = is_action or ids[target] == end
    return thoughts / steps, actions / steps


class Job(NamedTuple):
    """A warm start to make: of which study and environment, with which seed and how many tokens."""

    study: str
    environment: str
    seed: int
    tokens: int


def train(job: Job) -> float:
    """Train one warm start, print a line about it, return its sampled success."""
    torch.set_num_threads(1)
    study, data = read_study(Path("config"), job.study)
    config, files = warmstart_run(study, data, job.environment), Path("data") / study.data_set(job.environment)
    changes = {"seed": job.seed} | ({"tokens": job.tokens} if job.tokens else {})
    config = config.model_copy(update={"warmstart": config.warmstart.model_copy(update=changes)})
    clean = config.warmstart.model_copy(update={"seed": HELD_OUT, "mistake_rate": 0.0, "detour_rate": 0.0})
    played = evaluate_run(study, data, job.environment, next(iter(study.methods)), study.seeds[0])
    played = played.model_copy(update={"evaluate": played.evaluate.model_copy(update={"splits": ("tune",)})})
    start = time.process_time()
    policy = make_policy(config, files)
    for _ in fine_tune(policy, config, files):
        pass
    seconds = time.process_time() - start
    with TemporaryDirectory() as folder:
        policy.save(Path(folder))
        solved = evaluate.summarise(evaluate.play(played, files, Path(folder), lambda *_: None).episodes)["tune"]
    dataset = open_dataset(config.data, files, config.interface)
    shown = islice(demonstrate(dataset, config.model_copy(update={"warmstart": clean})), 40)
    length = policy.network.architecture.max_positions
    thought, action = costs(policy, [make_example(d, policy.chat, dataset.format_step, length) for d in shown])
    greedy, sampled = (solved[mode] for mode in ("greedy", "sampled"))
    print(
        f"{job.environment}  {config.warmstart.tokens / 1e6:.2f} M tokens  seed {job.seed}  "
        f"greedy {greedy['success']:.3f}  sampled {sampled['success']:.3f}  invalid {sampled['invalid_rate']:.3f}  "
        f"nats a step: thought {thought:.2f}, action {action:.2f}  {seconds:.0f} CPU s",
        flush=True,
    )
    return float(sampled["success"])


def main() -> None:
    """Train and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("environment", help="of the study")
    parser.add_argument("--study", default="quick", help="the study's name (default: %(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1], help="of the warm starts (default: 1)")
    parser.add_argument("--tokens", type=int, nargs="+", default=[0], help="budgets (default: the study's)")
    parser.add_argument("--jobs", type=int, default=2, help="warm starts side by side, one core each")
    arguments = parser.parse_args()
    study, _ = read_study(Path("config"), arguments.study)
    if arguments.environment not in study.environments:
        parser.error(f"expected one of {', '.join(study.environments)}, found {arguments.environment}")
    jobs = [Job(arguments.study, arguments.environment, s, t) for t in arguments.tokens for s in arguments.seeds]
    with ProcessPoolExecutor(arguments.jobs) as pool:
        sampled = list(pool.map(train, jobs))
    for tokens in arguments.tokens:
        found = [value for job, value in zip(jobs, sampled, strict=True) if job.tokens == tokens]
        print(f"{tokens or 'default'} tokens: median sampled success {median(found):.3f}, worst {min(found):.3f}")


if __name__ == "__main__":
    main()
