"""The optimisers: Muon for the matrices of the layers, AdamW for embeddings, norms and biases."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from empg.config import Optimiser as OptimiserConfig
from empg.policy.transformer import Transformer


class Muon(torch.optim.Optimizer):
    """Momentum with updates that Newton–Schulz steps orthogonalise, in float32.

    Keller Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024). ``torch.optim.Muon``
    computes in bfloat16, which is several times slower on a CPU without native support. Matrices of one shape are
    computed as one batch.
    """

    COEFFICIENTS = (3.4445, -4.7750, 2.0315)

    def __init__(
        self, parameters: Iterable[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape[parameter.shape].append(parameter)
            for shape, parameters in by_shape.items():
                update = orthogonalise(torch.stack([self._momentum(p, group["momentum"]) for p in parameters]))
                scale = group["lr"] * max(1.0, shape[0] / shape[1]) ** 0.5
                for parameter, change in zip(parameters, update, strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"]).add_(change, alpha=-scale)

    def _momentum(self, parameter: Tensor, momentum: float) -> Tensor:
        """Nesterov momentum of the gradient."""
        assert parameter.grad is not None
        gradient: Tensor = parameter.grad.float()
        buffer: Tensor = self.state[parameter].setdefault("momentum", torch.zeros_like(gradient))
        buffer.lerp_(gradient, 1 - momentum)
        nesterov: Tensor = gradient.lerp(buffer, momentum)
        return nesterov


def orthogonalise(matrices: Tensor, steps: int = 5) -> Tensor:
    """Matrices near the semi-orthogonal ones that are nearest to the given ``[count, rows, columns]``.

    Their singular values lie between 0.7 and 1.2.
    """
    a, b, c = Muon.COEFFICIENTS
    x: Tensor = matrices.mT if matrices.shape[1] > matrices.shape[2] else matrices
    x = x / (torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if matrices.shape[1] > matrices.shape[2] else x


def learning_rate_factor(done: float, warmup: float, decay: float) -> float:
    """A trapezoid over the budget: it rises over the first share ``warmup`` and falls to 0 over the last, ``decay``."""
    return min(1.0, (done + 1e-3) / warmup if warmup else 1.0, (1 - done) / decay if decay else 1.0)


class Optimiser:
    """Both optimisers as one, with gradient clipping and a learning-rate factor for schedules."""

    def __init__(self, network: Transformer, config: OptimiserConfig) -> None:
        self.parameters = [p for p in network.parameters() if p.requires_grad]
        matrices = [p for n, p in network.named_parameters() if n.startswith("layers.") and p.dim() == 2]
        self.max_grad_norm = config.max_grad_norm
        use_muon = config.muon_lr > 0
        names = {id(p) for p in matrices} if use_muon else set()
        rest = [p for p in self.parameters if id(p) not in names]
        self.optimisers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(rest, lr=config.lr, betas=(0.9, 0.95), weight_decay=config.weight_decay, fused=True)
        ]
        if use_muon:
            self.optimisers.append(Muon(matrices, lr=config.muon_lr, weight_decay=config.weight_decay))
        self._base = [[group["lr"] for group in o.param_groups] for o in self.optimisers]

    def zero_grad(self) -> None:
        for optimiser in self.optimisers:
            optimiser.zero_grad(set_to_none=True)

    def step(self, factor: float = 1.0) -> float:
        """Clip the gradient, update with learning rates times ``factor``, return the norm before clipping.

        Does not update where the norm is not finite.
        """
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.max_grad_norm)
        if not torch.isfinite(norm):
            return float(norm)
        for optimiser, base in zip(self.optimisers, self._base, strict=True):
            for group, lr in zip(optimiser.param_groups, base, strict=True):
                group["lr"] = lr * factor
            optimiser.step()
        return float(norm)

    def state_dict(self) -> list[dict[str, Any]]:
        return [optimiser.state_dict() for optimiser in self.optimisers]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        for optimiser, state in zip(self.optimisers, states, strict=True):
            optimiser.load_state_dict(state)
