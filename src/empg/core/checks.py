"""Checks of arguments. Every error names the argument, the place, what was expected and what was found."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Rounding may put a float32 entropy just below zero. Anything lower is not an entropy.
ENTROPY_ROUNDING = 1e-4


def require_vector(name: str, value: Tensor, length: int | None = None) -> None:
    """``value`` has one dimension, at least one element, and ``length`` elements where a length is given."""
    if not isinstance(value, Tensor):
        raise ValueError(f"{name}: expected a torch.Tensor, found {type(value).__name__}")
    if value.ndim != 1 or value.numel() == 0:
        raise ValueError(f"{name}: expected one dimension with at least one element, found shape {list(value.shape)}")
    if length is not None and len(value) != length:
        raise ValueError(f"{name}: expected {length} elements, found {len(value)}")


def require_float(name: str, value: Tensor) -> None:
    """``value`` is float32 or float64 and finite everywhere."""
    if value.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"{name}: expected float32 or float64, found {value.dtype}")
    wrong = ~torch.isfinite(value)
    if wrong.any():
        index = _first(wrong)
        raise ValueError(f"{name}[{index}]: expected a finite number, found {value[index].item()}")


def require_index(name: str, value: Tensor, size: int) -> None:
    """``value`` is int64 and holds every index in 0 … size − 1 at least once, and no other."""
    if value.dtype != torch.int64:
        raise ValueError(f"{name}: expected int64, found {value.dtype}")
    wrong = (value < 0) | (value >= size)
    if wrong.any():
        index = _first(wrong)
        raise ValueError(f"{name}[{index}]: expected an index in [0, {size - 1}], found {value[index].item()}")
    missing = torch.bincount(value, minlength=size) == 0
    if missing.any():
        raise ValueError(f"{name}: expected every index in [0, {size - 1}], found none equal to {_first(missing)}")


def require_same_device(name: str, value: Tensor, reference: Tensor) -> None:
    """``value`` lies on the device of ``reference``."""
    if value.device != reference.device:
        raise ValueError(f"{name}: expected device {reference.device}, found {value.device}")


def require_number(name: str, value: float, *, minimum: float = -math.inf, above: float = -math.inf) -> None:
    """``value`` is finite, at least ``minimum`` and greater than ``above``."""
    if not (math.isfinite(value) and value >= minimum and value > above):
        bound = f" ≥ {minimum}" if minimum > -math.inf else f" > {above}" if above > -math.inf else ""
        raise ValueError(f"{name}: expected a finite number{bound}, found {value}")


def check_modulation_inputs(outcome_advantage: Tensor, step_entropy: Tensor, step_trajectory: Tensor) -> None:
    """What ``modulate`` needs: finite numbers on one device, entropies ≥ 0, at least one step in every trajectory."""
    require_vector("outcome_advantage", outcome_advantage)
    require_vector("step_entropy", step_entropy)
    require_vector("step_trajectory", step_trajectory, len(step_entropy))
    require_same_device("step_entropy", step_entropy, outcome_advantage)
    require_same_device("step_trajectory", step_trajectory, outcome_advantage)
    require_float("outcome_advantage", outcome_advantage)
    require_float("step_entropy", step_entropy)
    require_index("step_trajectory", step_trajectory, len(outcome_advantage))
    negative = step_entropy < -ENTROPY_ROUNDING
    if negative.any():
        index = _first(negative)
        raise ValueError(f"step_entropy[{index}]: expected an entropy ≥ 0, found {step_entropy[index].item()}")


def check_step_index(step_trajectory: Tensor, step_index: Tensor) -> None:
    """Refuse duplicated, missing and misplaced steps: the indices of a trajectory must be 0, 1, 2, … in order.

    Both are ``[steps]`` int64. A duplicated row would count twice in both batch means of EMPG. Raises ``ValueError``.
    """
    require_vector("step_trajectory", step_trajectory)
    require_vector("step_index", step_index, len(step_trajectory))
    expected = step_positions(step_trajectory)
    wrong = step_index != expected
    if wrong.any():
        row = _first(wrong)
        raise ValueError(
            f"step_index[{row}], trajectory {step_trajectory[row].item()}: "
            f"expected step {expected[row].item()}, found {step_index[row].item()}"
        )


def step_positions(step_trajectory: Tensor) -> Tensor:
    """Position 0, 1, 2, … of each step in its trajectory, ``[steps]`` int64; trajectories may be interleaved."""
    order = torch.argsort(step_trajectory, stable=True)
    length = torch.bincount(step_trajectory)
    start = length.cumsum(0) - length
    position = torch.empty_like(step_trajectory)
    position[order] = torch.arange(len(order), device=order.device) - start[step_trajectory[order]]
    return position


def _first(mask: Tensor) -> int:
    return int(mask.nonzero()[0].item())
