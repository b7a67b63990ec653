"""``modulate_tokens`` on the padded rows of recorded batches gives the advantages of the native trainer, bit by bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from empg.config import Method
from empg.integrations.steps import modulate_tokens
from empg.rollouts.table import from_table
from empg.schema import CREDITED_STEPS, read_table
from empg.training.credit import credit_batch
from empg.training.update import conversations


def padded(rows, dtype):
    return torch.nn.utils.rnn.pad_sequence([torch.as_tensor(np.asarray(row), dtype=dtype) for row in rows], True)


@pytest.mark.parametrize("scale", [True, False])
def test_recorded_batches(study_results: Path, scale: bool):
    files = sorted((study_results / "alfworld" / "grpo_empg").rglob("iteration_*.parquet"))
    assert files
    for file in files:
        trajectories = from_table(read_table(file, CREDITED_STEPS), "alfworld")
        modulation = "empg" if scale else "empg_bonus"
        method = Method.model_validate({"advantage": "grpo", "modulation": modulation, "zeta": 0.1})
        credit = credit_batch(trajectories, method, max_response=40)
        masks = [whole.mask for whole in conversations(trajectories, apart=False)]
        entropies = [np.zeros(len(mask), np.float32) for mask in masks]
        for row, mask, trajectory in zip(entropies, masks, trajectories, strict=True):
            row[mask] = np.concatenate([step.entropies for step in trajectory.steps])
        mask = padded(masks, torch.bool)
        entropy = padded(entropies, torch.float32)
        found = modulate_tokens(mask, entropy, credit.outcome_advantage, zeta=0.1, scale=scale)
        assert torch.equal(found.advantage[mask], credit.token_advantage)
