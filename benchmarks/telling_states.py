"""How many steps are at a state that tells calibrated modulation what decides, in the rollouts of warm starts.

    python -m benchmarks.telling_states results/quick

prints for each environment the share of the steps of groups with unequal rewards whose state several trajectories
visit with different actions, where states are observations and where they are whole histories.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from empg.config import Study, parse
from empg.core.advantages import Batch, informative_groups
from empg.core.calibration import _analyse
from empg.files import read_json
from empg.rollouts.table import from_table
from empg.schema import STEPS, read_table
from empg.training.credit import _actions, _anchors, _histories, groups_of


def shares(rollouts: Path, environment: str) -> list[float]:
    """The shares of one environment: of observations, and of histories."""
    trajectories = from_table(read_table(rollouts, STEPS), environment)
    reward, group = groups_of(trajectories, "success")
    steps = [step for trajectory in trajectories for step in trajectory.steps]
    trajectory = torch.repeat_interleave(torch.tensor([len(t.steps) for t in trajectories]))
    able, found = informative_groups(reward, group)[trajectory], []
    for state in (_anchors(steps), _histories(trajectories)):
        analysis = _analyse(Batch(reward, group, trajectory, state, _actions(steps)))
        found.append(float(analysis.tells[analysis.state][able].double().mean()))
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="a finished study's folder")
    folder = parser.parse_args().results
    config = folder / "config" / "study.json"
    for name in parse(Study, read_json(config), str(config)).environments:
        observation, history = shares(folder / name / "rollouts" / "rollouts.parquet", name)
        print(f"{name}: observations {observation:.0%}, histories {history:.0%}")
