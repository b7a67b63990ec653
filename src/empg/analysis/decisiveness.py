"""The stage ``decisiveness``: which steps of a policy decide about the return, and what EMPG would make of them.

Where a study asks for it, :mod:`empg.analysis.gradient_quality` measures on the same policy what methods make of it.

:mod:`empg.rollouts.branching` plays the branches and :mod:`empg.core.decisiveness` estimates;
:mod:`empg.analysis.decisiveness_summary` relates the estimates to the entropies of the steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from empg.analysis import gradient_quality
from empg.analysis.decisiveness_summary import summary
from empg.config import DecisivenessRun
from empg.core.decisiveness import decisiveness, luck, scale_rms
from empg.core.modulation import modulate
from empg.environments.base import Dataset
from empg.environments.datasets import open_dataset
from empg.environments.prompts import turns_apart
from empg.errors import ConfigError, DataError
from empg.files import write_json
from empg.policy.policy import Policy
from empg.provenance import stage
from empg.rollouts.branching import Branches, BranchingSampler, Player, branch, draw_states
from empg.rollouts.collect import draw_tasks, group_episodes
from empg.rollouts.episodes import Trajectory
from empg.schema import Schema
from empg.seeding import derive_seed
from empg.training.update import renyi2_entropies

Array = NDArray[np.float64]

SCORED_TOKENS = 4096  # through the network at once: bounds memory and changes nothing else

#: One row is one state: a step of a played episode, before its response.
STATES: Schema = {
    "split": pl.String,
    "task": pl.Int64,
    "task_type": pl.String,
    "trajectory": pl.Int32,  # the played episode
    "seed": pl.Int64,  # of the played episode
    "step": pl.Int32,
    "observation": pl.String,
    "text": pl.String,  # the response that was played; the branches have others
    "entropy": pl.Float64,  # of the played response: mean over its tokens, nats
    "normalised_entropy": pl.Float64,  # h of EMPG, over all steps of all played episodes
    "gradient_scale": pl.Float64,  # g of EMPG with k = 1, likewise
    "score_norm": pl.Float64,  # v of the played response: 1 − Σ p² summed over its tokens
    "branch_entropy": pl.Float64,  # mean entropy of the branches' responses
    "responses": pl.Int32,  # different texts among the branches
    "actions": pl.Int32,  # different actions among them
    "ended": pl.Int32,  # branches whose response ended the episode
    "value": pl.Float64,  # mean return over all branches and continuations
    "decisiveness": pl.Float64,  # unbiased; may be negative
    "luck": pl.Float64,  # variance of the return given the response
    "returns": pl.List(pl.List(pl.Float64)),  # [responses][continuations]
}


def run(config: DecisivenessRun, data: Path, model: Path, out: Path, *, progress: Callable[[int, int], None]) -> None:
    """Write ``out/states.parquet``, in :data:`STATES`, and ``out/summary.json``: the estimates with their intervals.

    Episodes of training tasks are played with the policy ``model``, as many as ``decisiveness.episodes``; states are
    drawn from all of their steps. Tasks and random numbers derive from ``decisiveness.seed`` and not from the run, so
    all policies of a study play the same tasks. Calls ``progress(branches done, branches in all)``, and then the same
    for batches where gradients are measured. Raises :class:`ConfigError` with ``sampling.engine: vllm``, which cannot
    go on in the middle of an episode.
    """
    if config.sampling.engine != "native":
        raise ConfigError(f"sampling.engine: expected native for decisiveness, found {config.sampling.engine}")
    with stage("decisiveness", config, out, inputs={"data": data, "model": model}) as record:
        policy = Policy.load(model, config.system)
        dataset = open_dataset(config.data, data, config.interface)
        sampler = branching_sampler(policy, config, dataset)

        def score_norms(played: Sequence[Trajectory]) -> Array:
            return _score_norms(policy, played, config)

        states, batch = measure(sampler, score_norms, config, dataset, progress)
        record.write_frame(states, "states.parquet")
        found = {
            "environment": config.environment,
            "method": config.method_name,
            "seed": config.seed,
            "halfway": config.halfway,
            "batch": batch,
        }
        found |= summary(states, batch)
        if config.estimators:
            tasks = dataset.tasks("train")
            found["gradients"] = gradient_quality.measure(policy.network, sampler, tasks, config, progress)
        write_json(out / "summary.json", found)
        record.summary = {"states": len(states), "decisiveness": float(states["decisiveness"].to_numpy().mean())}


def branching_sampler(policy: Policy, config: DecisivenessRun, dataset: Dataset) -> BranchingSampler:
    """The sampler of the stage, with the settings of training."""
    sampling = config.sampling
    return BranchingSampler(
        policy.network,
        policy.chat,
        dataset.arena(config.max_steps),
        max_response=sampling.max_response,
        max_context=sampling.max_context,
        max_refused=sampling.max_refused,
        rows=sampling.rows,
        temperature=sampling.temperature,
    )


def measure(
    player: Player,
    score_norms: Callable[[Sequence[Trajectory]], Array],
    config: DecisivenessRun,
    dataset: Dataset,
    progress: Callable[[int, int], None],
) -> tuple[pl.DataFrame, dict[str, Any]]:
    """The states, in :data:`STATES`, and what is known of all steps of the played episodes: ``batch``.

    ``score_norms`` gives v of every step of trajectories, ``[steps]``.
    """
    settings = config.decisiveness
    tasks = dataset.tasks("train")
    seed = derive_seed(settings.seed, "decisiveness")
    chosen = draw_tasks(tasks, np.ones(len(tasks)), settings.episodes, derive_seed(seed, "tasks"))
    played = [t for t in player.play(group_episodes(chosen, 1, 0, seed, "episodes")) if t.steps]
    if not played:
        raise DataError(f"{config.environment}: expected episodes with at least one step, found none")
    states = draw_states(played, settings.steps, derive_seed(seed, "states"))
    total, done = len(states) * settings.responses * settings.continuations, 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        progress(done, total)

    found = branch(
        player,
        states,
        responses=settings.responses,
        continuations=settings.continuations,
        seed=seed,
        value=lambda t: t.reward if config.reward == "success" else t.score,
        progress=advance,
    )
    steps = _of_batch(played, score_norms(played))
    norm, scale = (steps[name].to_torch() for name in ("score_norm", "gradient_scale"))
    batch = {
        "episodes": len(played),
        "steps": len(steps),
        "success": float(np.mean([t.reward == 1.0 for t in played])),
        "mean_entropy": float(steps["entropy"].to_numpy().mean()),
        "scale_rms": float(scale_rms(norm, scale)),
        "scale_rms_equal": float(scale_rms(torch.ones_like(norm), scale)),
    }
    return table(found, played, steps), batch


def _of_batch(played: Sequence[Trajectory], score_norm: Array) -> pl.DataFrame:
    """Entropy, h and g of EMPG (k = 1) and v of every step of the batch."""
    steps = [(i, float(step.entropies.mean())) for i, t in enumerate(played) for step in t.steps]
    trajectory, entropy = torch.tensor([i for i, _ in steps]), torch.tensor([h for _, h in steps], dtype=torch.float64)
    made = modulate(torch.zeros(len(played), dtype=torch.float64), entropy, trajectory, zeta=0.0)
    columns = {
        "entropy": entropy.numpy(),
        "normalised_entropy": made.normalised_entropy.numpy(),
        "gradient_scale": made.gradient_scale.numpy(),
        "score_norm": score_norm,
    }
    return pl.DataFrame(columns)


def _score_norms(policy: Policy, played: Sequence[Trajectory], config: DecisivenessRun) -> Array:
    """v of every step: 1 − Σ p² of each token, the expected squared norm of its score, summed over the tokens."""
    renyi2 = renyi2_entropies(
        policy.network,
        played,
        temperature=config.sampling.temperature,
        micro_batch_tokens=SCORED_TOKENS,
        apart=turns_apart(config.interface),
    )
    tokens = -np.expm1(-renyi2.double().numpy())
    lengths = [len(step.response_ids) for t in played for step in t.steps]
    made: Array = np.add.reduceat(tokens, np.cumsum([0, *lengths[:-1]]))
    return made


def table(found: Sequence[Branches], played: Sequence[Trajectory], steps: pl.DataFrame) -> pl.DataFrame:
    """One row for each state, in :data:`STATES`. ``steps`` holds what is known of all steps played."""
    returns = torch.tensor([branches.returns for branches in found], dtype=torch.float64)
    estimate, lucky = decisiveness(returns).tolist(), luck(returns).tolist()
    begin = dict(zip(map(id, played), np.cumsum([0, *(len(t.steps) for t in played)]).tolist(), strict=False))
    rows = []
    for number, (state, responses, values, ended) in enumerate(found):
        episode, step = state.trajectory.episode, state.trajectory.steps[state.step]
        place = begin[id(state.trajectory)] + state.step
        rows.append(
            {
                "split": episode.task.split,
                "task": episode.task.id,
                "task_type": episode.task.type,
                "trajectory": episode.trajectory,
                "seed": episode.seed,
                "step": state.step,
                "observation": step.observation,
                "text": step.text,
                **steps.row(place, named=True),
                "branch_entropy": float(np.mean([response.entropies.mean() for response in responses])),
                "responses": len({response.text for response in responses}),
                "actions": len({response.action for response in responses}),
                "ended": ended,
                "value": float(np.mean(values)),
                "decisiveness": estimate[number],
                "luck": lucky[number],
                "returns": values,
            }
        )
    return pl.DataFrame(rows, schema=STATES)
