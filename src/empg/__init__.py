"""Entropy-Modulated Policy Gradients (EMPG, arXiv 2509.09265) for LLM agents.

``from empg import modulate`` is the method itself, usable in any trainer; it needs torch and nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from empg.core.modulation import Modulation, modulate

__all__ = ["Modulation", "modulate"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # Lazy (PEP 562): the environments import this package too, and they must not pay for torch.
    if name in __all__:
        from empg.core import modulation

        return getattr(modulation, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
