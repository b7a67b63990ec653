"""Normalisation, rotation and gate are their formulas, and their gradients those of finite differences."""

from __future__ import annotations

import torch
from torch.autograd import gradcheck

from empg.policy import elementwise


def test_the_backward_passes_by_hand_are_those_of_finite_differences():
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()

    assert gradcheck(lambda x, w: elementwise.rms_norm(x, w, 1e-2), (random(2, 3, 8), random(8)))
    angle = random(5, 1, 4).detach()
    assert gradcheck(lambda x: elementwise.rotate(x, angle.cos(), angle.sin()), (random(5, 3, 8),))
    assert gradcheck(elementwise.swiglu, (random(4, 6),))


def test_the_forward_passes_are_their_formulas():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 3, 8, generator=generator, dtype=torch.float64)
    weight = torch.randn(8, generator=generator, dtype=torch.float64)
    expected = x / (x.square().mean(-1, keepdim=True) + 1e-2).sqrt() * weight
    torch.testing.assert_close(elementwise.rms_norm(x, weight, 1e-2), expected)
    gate, up = x[..., :4], x[..., 4:]
    torch.testing.assert_close(elementwise.swiglu(x), gate / (1 + (-gate).exp()) * up)
    angle = torch.randn(4, 1, 4, generator=generator, dtype=torch.float64)
    turned = torch.complex(gate, up) * torch.polar(torch.ones_like(angle), angle)
    torch.testing.assert_close(
        elementwise.rotate(x, angle.cos(), angle.sin()), torch.cat([turned.real, turned.imag], -1)
    )
