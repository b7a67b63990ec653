"""The optimisers: Muon for the matrices of the layers, AdamW for embeddings, norms and biases."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from empg.config import Optimiser as OptimiserConfig
from empg.policy.network import Network


class StepRule:
    """A group of parameters, the settings of their update rule and its state.

    ``state`` and ``param_groups`` are those of ``torch.optim.Optimizer``, and so is the layout of
    :meth:`state_dict`. That class is not the base, because making one imports ``torch._dynamo``, which takes longer
    than all other imports of a stage together.
    """

    def __init__(self, parameters: Iterable[Tensor], **settings: Any) -> None:
        self.param_groups: list[dict[str, Any]] = [{"params": list(parameters), **settings}]
        self.state: dict[Tensor, dict[str, Tensor]] = defaultdict(dict)

    def step(self) -> None:
        """Update the parameters that have a gradient, in place."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """The state of each parameter by its number, and the settings. Tensors are not copied."""
        (group,) = self.param_groups
        numbers = range(len(group["params"]))
        state = {i: self.state[p] for i, p in enumerate(group["params"]) if p in self.state}
        return {"state": state, "param_groups": [group | {"params": list(numbers)}]}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Take over a state. Raises ``ValueError`` if it is not of as many parameters."""
        (group,), (saved_group,) = self.param_groups, saved["param_groups"]
        parameters = group["params"]
        if len(saved_group["params"]) != len(parameters):
            raise ValueError(f"expected the state of {len(parameters)} parameters, found {len(saved_group['params'])}")
        self.state.clear()
        for number, state in saved["state"].items():
            parameter = parameters[number]
            self.state[parameter] = {name: value.to(parameter.device) for name, value in state.items()}
        group.update({name: value for name, value in saved_group.items() if name != "params"})


class AdamW(StepRule):
    """Adam with decoupled weight decay (arXiv 1711.05101), bit for bit ``torch.optim.AdamW(fused=True)``.

    The parameters share one device and one type. Each loads the state of the other. bfloat16 parameters have a float32
    copy (``master``) that the updates add up in: most updates are smaller than half of a bfloat16's last digit.
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(parameters, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)

    @torch.no_grad()
    def step(self) -> None:
        (group,) = self.param_groups
        parameters = [p for p in group["params"] if p.grad is not None]
        if not parameters:
            return
        for p in parameters:
            if not self.state[p]:
                step = torch.zeros((), dtype=torch.float32, device=p.device)
                exact = p if p.dtype != torch.bfloat16 else p.float()
                self.state[p] = {
                    "step": step,
                    "exp_avg": torch.zeros_like(exact),
                    "exp_avg_sq": torch.zeros_like(exact),
                }
                if exact is not p:
                    self.state[p]["master"] = exact
        states = [self.state[p] for p in parameters]
        steps = [state["step"] for state in states]
        torch._foreach_add_(steps, 1)
        beta1, beta2 = group["betas"]
        torch._fused_adamw_(
            [state.get("master", p) for p, state in zip(parameters, states, strict=True)],
            [_like(p.grad, state["exp_avg"]) for p, state in zip(parameters, states, strict=True)],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            steps,
            lr=group["lr"],
            beta1=beta1,
            beta2=beta2,
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            amsgrad=False,
            maximize=False,
        )
        for p, state in zip(parameters, states, strict=True):
            if "master" in state:
                p.copy_(state["master"])


def _like(gradient: Tensor | None, state: Tensor) -> Tensor:
    assert gradient is not None
    return gradient.to(state.dtype)


class SharedWords(AdamW):
    """AdamW on vectors of words, for an embedding of tokens that are made of words.

    A token's vector is taken as the sum of its words' vectors and a part of its own, so what is learnt of "mug" holds
    for " mug 1" and " mug 2". This rule adds the words' change to the embedding; the own part's comes from
    :class:`AdamW` on the embedding itself. The words' values need not be known, because Adam's update depends on
    gradients alone.
    """

    def __init__(self, embedding: Tensor, words: Tensor, **settings: Any) -> None:
        """``embedding`` is ``[vocabulary, width]`` and ``words`` ``[vocabulary, words]``."""
        self.embedding, self.words = embedding, words
        self.change = torch.zeros(words.shape[1], embedding.shape[1], device=embedding.device)
        super().__init__([self.change], weight_decay=0.0, **settings)

    @torch.no_grad()
    def step(self) -> None:
        if self.embedding.grad is None:
            return
        self.change.zero_()
        self.change.grad = self.words.T @ self.embedding.grad
        super().step()
        self.embedding.addmm_(self.words, self.change)


class Muon(StepRule):
    """Momentum with updates that Newton–Schulz steps orthogonalise, in float32.

    Keller Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024). ``torch.optim.Muon``
    computes in bfloat16, which is several times slower on a CPU without native support. Matrices of one shape are
    computed as one batch.
    """

    COEFFICIENTS = (3.4445, -4.7750, 2.0315)

    def __init__(
        self, parameters: Iterable[Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(parameters, lr=lr, momentum=momentum, weight_decay=weight_decay)

    @torch.no_grad()
    def step(self) -> None:
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

    def __init__(self, network: Network, config: OptimiserConfig, words: Tensor | None = None) -> None:
        """``words``, ``[vocabulary, words]``, makes tokens learn together where they share words."""
        self.parameters = [p for p in network.parameters() if p.requires_grad]
        matrices = [p for p in network.matrices() if p.requires_grad]
        self.max_grad_norm = config.max_grad_norm
        use_muon = config.muon_lr > 0
        names = {id(p) for p in matrices} if use_muon else set()
        rest = [p for p in self.parameters if id(p) not in names]
        self.optimisers: list[StepRule] = [
            AdamW(rest, lr=config.lr, betas=(0.9, 0.95), weight_decay=config.weight_decay)
        ]
        if words is not None:
            self.optimisers.append(SharedWords(network.output_weight, words, lr=config.lr, betas=(0.9, 0.95)))
        if use_muon:
            self.optimisers.append(Muon(matrices, lr=config.muon_lr, weight_decay=config.weight_decay))
        self._base = [[group["lr"] for group in o.param_groups] for o in self.optimisers]

    def zero_grad(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None

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
