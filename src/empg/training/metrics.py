"""The metrics of an iteration's batch. Those of its updates come from :mod:`empg.training.update`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from empg.rollouts.episodes import Trajectory
from empg.training.credit import Credit
from empg.training.importance import importance_metrics

Metrics = dict[str, float | None]


def batch_metrics(kept: Sequence[Trajectory], dropped: Sequence[Trajectory], credited: Credit) -> Metrics:
    """Metrics of the sampled trajectories and of the credit of those that were kept.

    What does not depend on the credit, such as ``success``, counts the dropped trajectories too.
    """
    everything = [*kept, *dropped]
    steps = [step for t in everything for step in t.steps]
    m, entropy = credited.modulation, credited.step_entropy
    return importance_metrics(everything) | {
        "success": float(np.mean([t.reward for t in everything])),
        "reward_mean": float(credited.reward.mean()),
        "score_mean": float(np.mean([t.score for t in everything])),
        "invalid_rate": float(np.mean([step.invalid for step in steps])),
        "steps_mean": len(steps) / len(everything),
        "agent_tokens": float(sum(len(step.response_ids) for step in steps)),
        "context_tokens": float(sum(t.tokens for t in everything)),
        "entropy_mean": float(np.mean(np.concatenate([step.entropies for step in steps]))),
        "step_entropy_min": float(entropy.min()),
        "step_entropy_mean": float(entropy.mean()),
        "step_entropy_max": float(entropy.max()),
        "gradient_scale_min": float(m.gradient_scale.min()),
        "gradient_scale_max": float(m.gradient_scale.max()),
        "clarity_bonus_mean": float(m.clarity_bonus.mean()),
        "advantage_abs_mean": float(m.advantage.abs().mean()),
        "equal_reward_groups": credited.equal_reward_groups,
        "equal_reward_mass": credited.equal_reward_mass,
        "groups_dropped": len({t.episode.group for t in dropped}),
    }
