"""Checkpoints: the whole state of a training run, written atomically. Loading one runs no code from its files."""

from __future__ import annotations

import pickle
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from empg.errors import DataError
from empg.files import atomic_directory, read_json, write_json
from empg.policy.network import Network
from empg.training.optimiser import Optimiser

WEIGHTS, OPTIMISER, STATE = "weights.safetensors", "optimiser.pt", "state.json"


@dataclass(slots=True)
class Progress:
    """How far a run is. ``config`` is the digest of everything that the run depends on.

    ``seconds`` are the CPU seconds of each iteration by part.
    """

    config: str
    iteration: int
    updates: int
    history: list[dict[str, float | None]]
    seconds: list[dict[str, float]] = field(default_factory=list)


def save(directory: Path, network: Network, optimiser: Optimiser, progress: Progress) -> None:
    """Write a checkpoint, then delete the older ones: there is a whole one at every moment."""
    target = directory / f"{progress.iteration:06d}"
    with atomic_directory(target) as folder:
        save_file({n: p.detach().cpu().contiguous() for n, p in network.named_parameters()}, folder / WEIGHTS)
        random = {
            "cpu": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }
        torch.save({"optimiser": optimiser.state_dict(), "random": random}, folder / OPTIMISER)
        fields: dict[str, Any] = {name: getattr(progress, name) for name in Progress.__slots__}
        write_json(folder / STATE, fields)
    for old in directory.iterdir():
        if old != target:
            shutil.rmtree(old)


def load_latest(directory: Path, network: Network, optimiser: Optimiser, config: str) -> Progress | None:
    """Restore the newest checkpoint in place. None where there is none, or none with the digest ``config``.

    Raises :class:`DataError`, which names the folder, for a damaged checkpoint.
    """
    found = sorted(directory.glob("[0-9]*")) if directory.is_dir() else []
    if not found:
        return None
    folder = found[-1]
    try:
        progress = Progress(**read_json(folder / STATE))
        if progress.config != config:
            return None
        weights = load_file(folder / WEIGHTS)
        state = torch.load(folder / OPTIMISER, weights_only=True)
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                parameter.copy_(weights[name])
        optimiser.load_state_dict(state["optimiser"])
        torch.set_rng_state(state["random"]["cpu"])
        if torch.cuda.is_available():
            torch.cuda.set_rng_state_all(state["random"]["cuda"])
    except (
        OSError,
        RuntimeError,
        SafetensorError,
        KeyError,
        TypeError,
        ValueError,
        EOFError,
        pickle.UnpicklingError,
    ) as error:
        raise DataError(
            f"{folder}: expected a whole checkpoint, found {error!r}; delete the folder to start over"
        ) from None
    return progress
