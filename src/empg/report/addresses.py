"""Where the report's pages lie: names of files and of anchors that other pages, MLflow and people may link to.

Every address is relative to the folder ``report/``. Names of environments, methods and splits contain no hyphen, so
hyphens keep the parts of a file name apart.
"""

from __future__ import annotations

EPISODES_FOLDER, TRAJECTORIES_FOLDER = "episodes", "trajectories"


def run_name(method: str, seed: int | None) -> str:
    """A policy in file names: ``grpo-seed1``; the warm start, which has no seed, is ``warmstart``."""
    return method if seed is None else f"{method}-seed{seed}"


def episodes_page(environment: str, run: str | None, panel: str, decoding: str) -> str:
    """The page of one panel's evaluation episodes.

    With a ``run`` (a :func:`run_name`) it is the list of that policy's episodes, which leads to their steps:
    ``episodes/alfworld-grpo-seed1-valid_seen-sampled.html``. Without one it is the panel's table of all policies, one
    row a task, which leads to each list: ``episodes/alfworld-valid_seen-sampled.html``. A number over several seeds
    links to the latter. ``decoding`` is ``greedy`` or ``sampled``.
    """
    parts = [environment, panel, decoding] if run is None else [environment, run, panel, decoding]
    return f"{EPISODES_FOLDER}/{'-'.join(parts)}.html"


def trajectories_page(environment: str, method: str, seed: int | None) -> str:
    """The page of a run's last training episodes: ``trajectories/alfworld-grpo-seed1.html``."""
    return f"{TRAJECTORIES_FOLDER}/{environment}-{run_name(method, seed)}.html"


def episode_anchor(task: int, episode: int = 0) -> str:
    """The anchor of an episode on its page: ``task-732``, and ``task-732-1``, ``task-732-2`` for further plays.

    Training plays a task as often as a group is large: ``episode`` is then the place in the group.
    """
    return f"task-{task}" if episode == 0 else f"task-{task}-{episode}"
