"""The course of a warm start: its success and its loss at several points of the training.

    python benchmarks/warmstart_course.py webshop --seeds 1 2 3

Needs `data/ENVIRONMENT` (`dvc repro`) and no results of a study. Trains one warm start for each seed with the study's
settings. After every part of the budget it prints greedy and sampled success on the `tune` panel, and the loss in nats
a step, of thoughts and of actions, on demonstrations without mistakes and detours. A high loss of actions beside a low
loss of thoughts means that copying was not learnt.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from empg.config import evaluate_run, warmstart_run
from empg.environments.datasets import open_dataset
from empg.pipeline.job_files import read_study
from empg.policy.policy import Policy
from empg.rollouts import evaluate
from empg.training.packing import packs
from empg.training.warmstart import Example, demonstrate, fine_tune, make_example, make_policy

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


def course(job: tuple[str, str, int, int]) -> None:
    """Train one warm start and print its course."""
    name, environment, seed, parts = job
    torch.set_num_threads(1)
    study, data = read_study(Path("config"), name)
    config, files = warmstart_run(study, data, environment), Path("data") / study.data_set(environment)
    config = config.model_copy(update={"warmstart": config.warmstart.model_copy(update={"seed": seed})})
    clean = config.warmstart.model_copy(update={"seed": HELD_OUT, "mistake_rate": 0.0, "detour_rate": 0.0})
    played = evaluate_run(study, data, environment, next(iter(study.methods)), study.seeds[0])
    played = played.model_copy(update={"evaluate": played.evaluate.model_copy(update={"splits": ("tune",)})})
    dataset, policy = open_dataset(config.data, files), make_policy(config, files)
    shown = islice(demonstrate(dataset, config.model_copy(update={"warmstart": clean})), 40)
    length = policy.network.architecture.max_positions
    examples = [make_example(d, policy.chat, dataset.format_step, length) for d in shown]
    part = 1
    for metrics in fine_tune(policy, config, files):
        if metrics["tokens"] < part * config.warmstart.tokens / parts:
            continue
        part += 1
        with TemporaryDirectory() as folder:
            policy.save(Path(folder))
            solved = evaluate.summarise(evaluate.play(played, files, Path(folder), lambda *_: None).episodes)["tune"]
        thought, action = costs(policy, examples)
        print(
            f"{environment} seed {seed} {metrics['tokens'] / 1e6:5.2f} M tokens  loss {metrics['loss']:.3f}  "
            f"greedy {solved['greedy']['success']:.3f}  sampled {solved['sampled']['success']:.3f}  "
            f"nats a step: thought {thought:.2f}, action {action:.2f}",
            flush=True,
        )


def main() -> None:
    """Train and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("environment", help="of the study")
    parser.add_argument("--study", default="quick", help="the study's name (default: %(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1], help="of the warm starts (default: 1)")
    parser.add_argument("--parts", type=int, default=3, help="of the budget, each with a line (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=2, help="warm starts side by side, one core each")
    arguments = parser.parse_args()
    study, _ = read_study(Path("config"), arguments.study)
    if arguments.environment not in study.environments:
        parser.error(f"expected one of {', '.join(study.environments)}, found {arguments.environment}")
    jobs = [(arguments.study, arguments.environment, seed, arguments.parts) for seed in arguments.seeds]
    with ProcessPoolExecutor(arguments.jobs) as pool:
        list(pool.map(course, jobs))


if __name__ == "__main__":
    main()
