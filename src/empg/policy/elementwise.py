"""What a block does between its matrix products: normalisation, rotation, gate. Each has a backward pass by hand.

Autograd's own keep more intermediate tensors and go over them more often. In a small network that is a tenth of a
training step.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F  # noqa: N812 — its customary name


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Root-mean-square normalisation (arXiv 1910.07467) of the last dimension; ``weight`` ``[width]``."""
    if not torch.is_grad_enabled():  # sampling calls this for few tokens, where the detour would be felt
        return F.rms_norm(x, weight.shape, weight, eps)
    return cast("Tensor", _RMSNorm.apply(x, weight, eps))  # type: ignore[no-untyped-call]


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding of ``[..., heads, head_width]`` by angles ``[..., 1, head_width / 2]``."""
    if not torch.is_grad_enabled():
        return _rotated(x, cos, sin, 1)
    return cast("Tensor", _Rotation.apply(x, cos, sin))  # type: ignore[no-untyped-call]


def swiglu(gate_up: Tensor) -> Tensor:
    """silu(gate) · up (arXiv 2002.05202), ``[..., mlp_width]``, of both side by side, ``[..., 2 * mlp_width]``."""
    if not torch.is_grad_enabled():
        return _gated(gate_up)
    return cast("Tensor", _SwiGLU.apply(gate_up))  # type: ignore[no-untyped-call]


class _RMSNorm(torch.autograd.Function):
    """With r = 1 / √(mean x² + ε) and n = x·r: ∂/∂x = r·(g·w − n·mean(g·w·n)) and ∂/∂w = Σ g·n for y = n·w."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.eps = eps
        return F.rms_norm(x, weight.shape, weight, eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight = ctx.saved_tensors
        width = len(weight)
        r = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(width).add_(ctx.eps).rsqrt_()
        normed = x * r
        product = gradient * normed
        d_weight = product.flatten(0, -2).sum(0)
        mean = (product @ weight).div_(width)[..., None]
        return torch.mul(gradient, weight, out=product).addcmul_(normed, mean, value=-1).mul_(r), d_weight, None


class _Rotation(torch.autograd.Function):
    """The gradient is rotated back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotated(x, cos, sin, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _rotated(gradient, cos, sin, -1), None, None


def _rotated(x: Tensor, cos: Tensor, sin: Tensor, direction: int) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    rotated = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    new_first, new_second = rotated.chunk(2, dim=-1)
    torch.mul(first, cos, out=new_first).addcmul_(second, sin, value=-direction)
    torch.mul(second, cos, out=new_second).addcmul_(first, sin, value=direction)
    return rotated


def _gated(gate_up: Tensor) -> Tensor:
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate).mul_(up)


class _SwiGLU(torch.autograd.Function):
    """∂/∂gate = g·up·silu′(gate) and ∂/∂up = g·silu(gate)."""

    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        ctx.save_for_backward(gate_up)
        return _gated(gate_up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (gate_up,) = ctx.saved_tensors
        gate, up = gate_up.chunk(2, dim=-1)
        d_gate_up = torch.empty_like(gate_up)
        d_gate, d_up = d_gate_up.chunk(2, dim=-1)
        torch.mul(gradient, F.silu(gate), out=d_up)
        torch.ops.aten.silu_backward.grad_input(gradient * up, gate, grad_input=d_gate)
        return d_gate_up
