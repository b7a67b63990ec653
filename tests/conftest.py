"""Fixtures that several kinds of test share."""

from __future__ import annotations

import html
import importlib.util
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import polars as pl
import pytest

GRID = {
    "study": "made_up",
    "description": "A small results folder that no training made.",
    "seeds": [1, 2],
    "baseline": "grpo",
    "methods": {
        "grpo": {"advantage": "grpo"},
        "grpo_empg": {"advantage": "grpo", "modulation": "empg"},
    },
    "environments": {"alfworld": {}},
}
SUCCESS = {"warmstart": 0.3, "grpo": 0.5, "grpo_empg": 0.6}  # what the made-up policies solve, about
TASKS = 40
ITERATIONS = 4
ROOT = Path(__file__).parents[1]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests that share a fixture of their file run in one process of pytest-xdist, which makes it once."""
    for item in items if config.pluginmanager.hasplugin("xdist") else ():
        assert isinstance(item, pytest.Function)
        definitions = [found[-1] for found in item._fixtureinfo.name2fixturedefs.values()]
        if any(d.scope == "module" for d in definitions) and item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.module.__name__))


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """A long text is named by its length, since pytest-xdist sends a test's name from process to process."""
    return f"{argname} of {len(val)}" if isinstance(val, str | bytes) and len(val) > 1000 else None


def module_of(file: str) -> ModuleType:
    """The module in a file of the project that belongs to no installed package, such as ``tools/pictures.py``."""
    spec = importlib.util.spec_from_file_location(Path(file).stem, ROOT / file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, spec.name, module)  # dataclasses look their module up
        spec.loader.exec_module(module)
    return module


@pytest.fixture
def browser(tmp_path: Path) -> Callable[[Path, int], tuple[str, list[str]]]:
    """Opens a page in a real browser, ``width`` pixels wide: its title after scripts ran, and the console's lines."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no chromium on this machine")

    profile = tmp_path / "profile"

    def opened(page: Path, width: int) -> tuple[str, list[str]]:
        command = [
            program,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-background-networking",
            "--allow-file-access-from-files",
            "--enable-logging=stderr",
            f"--user-data-dir={profile}",
            f"--window-size={max(width, 500)},900",
            "--dump-dom",
            page.as_uri(),
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        title = re.search(r"<title>(.*?)</title>", done.stdout, re.DOTALL)
        assert title, done.stdout[-500:]
        return html.unescape(title[1]), [line for line in done.stderr.splitlines() if "CONSOLE" in line]

    return opened


@pytest.fixture(scope="session")
def study_results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``results/made_up`` as the pipeline leaves it before the report, of made-up episodes and an untrained policy.

    Copy it before writing into it. The study's configuration is ``config/study.json`` inside.
    """
    from empg.config import Study, parse
    from empg.files import write_json

    root = tmp_path_factory.mktemp("made") / "results" / "made_up"
    study = parse(Study, GRID, "GRID")
    write_json(root / "config" / "study.json", GRID)
    policy = _policy()
    policy.save(_folder(root / "alfworld" / "warmstart" / "model"))
    _warm_start(study, root)
    _evaluation(study, root / "alfworld" / "warmstart_evaluate", "warmstart", 0, policy)
    _collection(root / "alfworld" / "rollouts" / "rollouts.parquet", policy)
    for method in study.methods:
        for seed in study.seeds:
            folder = root / "alfworld" / method / f"seed{seed}"
            policy.save(_folder(folder / "train" / "model"))
            _training(study, folder / "train", method, seed, policy)
            _evaluation(study, folder / "evaluate", method, seed, policy)
    return root


@pytest.fixture(scope="session")
def study_report(study_results: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``results/made_up`` with its report in ``report``. Do not change what is in it."""
    from empg.report.page import run

    root = tmp_path_factory.mktemp("report") / "made_up"
    shutil.copytree(study_results, root)
    run(root / "config" / "study.json", root, root / "report")
    return root


def _folder(path: Path) -> Path:
    path.mkdir(parents=True)
    return path


def _policy():
    from empg.config import TinyPolicy
    from empg.policy.chat import Chat
    from empg.policy.tokenizer import train_tokenizer
    from empg.training.warmstart import tiny_policy

    tokenizer = train_tokenizer(["<think>go on</think><action>go to shelf 1</action> you see a mug 1."] * 3, 300)
    sizes = TinyPolicy(width=16, heads=2, kv_heads=1, layers=1, mlp_width=32)
    return tiny_policy(sizes, Chat(tokenizer, "", "made up"), seed=0)


def _manifest(folder: Path, stage: str, config, summary: dict[str, float]) -> None:
    from empg.files import write_json
    from empg.provenance import tree

    outputs = tree(folder)
    write_json(
        folder / "timing.json",
        {
            "stage": stage,
            "wall_seconds": 2.0,
            "cpu_seconds": 1.5,
            "processes": 1,
            "processor": "made up, AVX2",
            "threads": 1,
            "iterations": [{"collect": 0.1, "update": 0.1, "write": 0.05}] * (ITERATIONS if stage == "train" else 0),
        },
    )
    write_json(
        folder / "manifest.json",
        {
            "stage": stage,
            "config": config.model_dump(mode="json"),
            "summary": summary,
            "inputs": {"data": "d" * 64},
            "sources": "s" * 64,
            "outputs": outputs,
            "versions": {"empg": "0"},
        },
    )


def _warm_start(study, root: Path) -> None:
    from empg.config import warmstart_run
    from empg.environments.alfworld.registration import AlfworldData

    folder = root / "alfworld" / "warmstart"
    pl.DataFrame({"step": [0, 1], "tokens": [10.0, 20.0], "loss": [3.0, 2.0]}).write_parquet(folder / "metrics.parquet")
    _manifest(folder, "warmstart", warmstart_run(study, {"alfworld": AlfworldData()}, "alfworld"), {"loss": 2.0})


def _collection(path: Path, policy) -> None:
    from empg.rollouts.table import to_table
    from empg.schema import STEPS, write_table

    write_table(
        to_table(_trajectories(np.random.default_rng(0), 0, policy), iteration=0, policy_version=0), STEPS, path
    )


def _evaluation(study, folder: Path, method: str, seed: int, policy) -> None:
    from empg.config import evaluate_run
    from empg.environments.alfworld.registration import AlfworldData
    from empg.environments.base import Task
    from empg.files import write_json
    from empg.rollouts.episodes import Episode, StopReason, Trajectory
    from empg.rollouts.evaluate import summarise, tables
    from empg.schema import EPISODES, EVALUATED_STEPS, write_table

    random = np.random.default_rng([len(method), seed])
    types = ("look_at_obj_in_light", "pick_two_obj_and_place")
    parts = []
    for split in ("valid_seen", "valid_unseen"):
        for mode in ("greedy", "sampled"):
            trajectories = []
            for number, success in enumerate(random.random(TASKS) < SUCCESS[method]):
                task = Task("alfworld", split, number, types[number % 2])
                steps = [_evaluated_step(random, i, policy) for i in range(int(random.integers(3, 20)))]
                stop = StopReason.SUCCESS if success else StopReason.STEP_LIMIT
                episode = Episode(task, number, number + TASKS * len(parts), seed=number)
                trajectories.append(Trajectory(episode, steps, float(success), stop, float(success)))
            parts.append(tables(trajectories, mode, 0))
    episodes = pl.concat(part.episodes for part in parts)
    write_table(episodes, EPISODES, folder / "episodes.parquet")
    write_table(pl.concat(part.steps for part in parts), EVALUATED_STEPS, folder / "steps.parquet")
    config = evaluate_run(study, {"alfworld": AlfworldData()}, "alfworld", method, seed)
    panels = summarise(episodes)
    summary = {"environment": "alfworld", "method": method, "seed": seed, "panels": panels}
    if method == "warmstart":
        cooled = {split: panels[split]["sampled"] | {"success": 0.4321} for split in panels}
        summary["cooled"] = {"temperature": 0.5, "tune": [(0.5, 0.4)], "panels": cooled}
    write_json(folder / "summary.json", summary | {"about": {"metrics": {}, "stop_reasons": {}}})
    summary = {f"{split}_{mode}_success": p["success"] for split, modes in panels.items() for mode, p in modes.items()}
    _manifest(folder, "evaluate", config, summary)


def _evaluated_step(random: np.random.Generator, number: int, policy):
    from empg.rollouts.episodes import Step

    text = f"<think>so {number}</think><action>look</action>"
    response = np.array(policy.chat.agent(text), np.int32)
    return Step(
        observation=f"You see a mug {number}.",
        prompt_ids=np.arange(10, 14, dtype=np.int32),
        response_ids=response,
        logprobs=np.full(len(response), -1.0, np.float32),
        entropies=random.random(len(response)).astype(np.float32),
        text=text,
        action="look",
        invalid=number % 4 == 3,
        truncated=False,
    )


def _training(study, folder: Path, method: str, seed: int, policy) -> None:
    from empg.config import train_run
    from empg.environments.alfworld.registration import AlfworldData
    from empg.rollouts.table import to_table
    from empg.schema import CREDITED_STEPS, write_table
    from empg.training.credit import credit_batch

    config = train_run(study, {"alfworld": AlfworldData()}, "alfworld", method, seed)
    rows = []
    for iteration in range(ITERATIONS):
        trajectories = _trajectories(np.random.default_rng([seed, iteration]), iteration, policy)
        credit = credit_batch(trajectories, config.method, max_response=40)
        table = to_table(trajectories, iteration=iteration, policy_version=iteration).hstack(credit.columns())
        write_table(table, CREDITED_STEPS, folder / "rollouts" / f"iteration_{iteration:04d}.parquet")
        success = float(np.mean([t.reward for t in trajectories]))
        rows.append(
            {
                "iteration": iteration,
                "success": success,
                "loss": -0.1 * iteration,
                "kl": None,
                "equal_reward_mass": credit.equal_reward_mass,
                "grad_norm": 1.0 + iteration * seed,
                "step_entropy_mean": float(credit.step_entropy.mean()),
            }
        )
    pl.DataFrame(rows, schema_overrides={"kl": pl.Float64}).write_parquet(folder / "metrics.parquet")
    _manifest(folder, "train", config, {"success": rows[-1]["success"]})


def _trajectories(random: np.random.Generator, iteration: int, policy) -> list:
    from empg.environments.base import Task
    from empg.rollouts.episodes import Episode, Step, StopReason, Trajectory

    vocabulary, end = policy.network.architecture.vocab_size, policy.chat.end_of_turn
    trajectories = []
    for number in range(16):
        task = Task("alfworld", "train", number // 4, "look_at_obj_in_light")
        trajectory = Trajectory(Episode(task, number // 4, number, seed=number))
        for _ in range(int(random.integers(2, 6))):
            response = np.append(random.integers(10, vocabulary, 7), end).astype(np.int32)
            trajectory.steps.append(
                Step(
                    observation="You see a mug 1.",
                    prompt_ids=random.integers(10, vocabulary, 5).astype(np.int32),
                    response_ids=response,
                    logprobs=np.full(8, -1.0, np.float32),
                    entropies=random.random(8).astype(np.float32),
                    text="<think>so</think><action>look</action>",
                    action="look",
                    invalid=bool(random.random() < 0.2),
                    truncated=False,
                )
            )
        trajectory.reward = float(random.random() < 0.3 + 0.1 * iteration and number >= 4)
        trajectory.stop_reason = StopReason.SUCCESS if trajectory.reward else StopReason.STEP_LIMIT
        trajectories.append(trajectory)
    return trajectories
