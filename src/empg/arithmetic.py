"""The same bits on every x86-64 processor with AVX2: ``arithmetic: portable`` in a study.

Processors differ in two ways. Kernels with AVX-512 round otherwise than those with AVX2; an environment variable
chooses (:data:`VARIABLES`). And MKL, which torch calls for matrix products and for elementwise functions, has other
kernels for each maker's processors and offers none but the slowest to all. So these calls go to numpy here: its
OpenBLAS takes the kernels that a variable names, and its functions those that are not disabled.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from empg.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

Arithmetic = Literal["native", "portable"]
#: What the environment must hold before torch and numpy are imported. numpy's names are those of version 2.4.
VARIABLES = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "OPENBLAS_CORETYPE": "Haswell",
    "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",
}
#: Functions that torch gives to MKL, by the name that torch and numpy share.
FUNCTIONS = ("exp", "expm1", "log", "log1p", "sin", "cos", "tanh")


def prepare() -> None:
    """Set :data:`VARIABLES`, for a process that has not imported torch and numpy."""
    os.environ.update(VARIABLES)


@cache
def install() -> None:
    """Make torch compute portably from here to the end of the process.

    Raises :class:`ConfigError` where that cannot be: without AVX2, with a GPU, with a numpy that has another BLAS, or
    without :func:`prepare`.
    """
    import numpy as np
    import torch

    capability, blas = torch.backends.cpu.get_cpu_capability(), _blas(np.show_config("dicts"))
    if capability != "AVX2" or any(os.environ.get(name) != value for name, value in VARIABLES.items()):
        raise ConfigError(
            "arithmetic: portable: expected an x86-64 processor with AVX2 and the variables "
            f"{', '.join(VARIABLES)} set by the command line, found torch with {capability}"
        )
    if torch.cuda.is_available():
        raise ConfigError("arithmetic: portable: expected no GPU, found one; CUDA_VISIBLE_DEVICES= hides it")
    if blas != "scipy-openblas":
        raise ConfigError(f"arithmetic: portable: expected numpy's own wheel with OpenBLAS, found it with {blas}")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"(?s).*[Oo]verrid")  # which is the point
        library: Any = torch.library.Library("aten", "IMPL")  # type: ignore[no-untyped-call]
        for name, function in _replacements().items():
            library.impl(name, function, "CPU")
    _KEPT.append(library)  # it ends with its last reference


_KEPT: list[Any] = []


def _blas(config: Any) -> str:
    return str(config["Build Dependencies"]["blas"]["name"])


def has_avx2() -> bool:
    """Whether this processor has AVX2 and FMA, as far as the operating system says."""
    cpuinfo = Path("/proc/cpuinfo")
    words = set(cpuinfo.read_text(encoding="utf-8").split()) if cpuinfo.exists() else set()
    return {"avx2", "fma"} <= words


def _replacements() -> dict[str, Callable[..., Any]]:
    """What replaces torch's CPU kernels, by the kernels' names. All take tensors that need no gradient of theirs."""
    found: dict[str, Callable[..., Any]] = {
        "mm": _product,
        "bmm": _product,
        "mv": _product,
        "mm.out": _product_into,
        "bmm.out": _product_into,
        "addmm_": _add_product,
        "_scaled_dot_product_flash_attention_for_cpu": _attention,
        "_scaled_dot_product_flash_attention_for_cpu_backward": _attention_backward,
        "linalg_qr": _qr,
        "_linalg_svd": _svd,
    }
    for name in ("addmm", "baddbmm", "addmv"):
        found[name] = _sum
        found[f"{name}.out"] = lambda c, *ab, beta=1, alpha=1, out: _into(out, _sum(c, *ab, beta=beta, alpha=alpha))
    for name in FUNCTIONS:
        found |= _elementwise(name)
    return found


def _array(tensor: Tensor) -> Any:
    return tensor.detach().numpy()


def _into(out: Tensor, result: Tensor) -> Tensor:
    return out.resize_(result.shape).copy_(result)


def _product(a: Tensor, b: Tensor) -> Tensor:
    return _product_into(a, b, out=a.new_empty(0))


def _product_into(a: Tensor, b: Tensor, *, out: Tensor) -> Tensor:
    import numpy as np

    shape = (*a.shape[:-1], b.shape[-1]) if b.dim() > 1 else a.shape[:-1]
    if out.shape != shape:
        out.resize_(shape)
    np.matmul(_array(a), _array(b), out=_array(out))
    return out


def _sum(c: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """beta·c + alpha·(a @ b). With ``beta`` 0, ``c`` may hold anything."""
    result = _product(a, b)
    if alpha != 1:
        result.mul_(alpha)
    return result.add_(c, alpha=beta) if beta else result


def _add_product(c: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    """:func:`_sum` in place of ``c``."""
    if beta in (0, 1):
        return c.add_(_product(a, b), alpha=alpha) if beta else c.copy_(_sum(c, a, b, beta=0, alpha=alpha))
    return c.mul_(beta).add_(_product(a, b), alpha=alpha)


def _elementwise(name: str) -> dict[str, Callable[..., Any]]:
    import numpy as np

    function = getattr(np, name)

    def replacement(x: Tensor) -> Tensor:
        x = x if x.is_floating_point() else x.float()
        result = x.new_empty(x.shape)
        function(_array(x), out=_array(result))
        return result

    def in_place(x: Tensor) -> Tensor:
        function(_array(x), out=_array(x))
        return x

    return {
        name: replacement,
        f"{name}_": in_place,
        f"{name}.out": lambda x, *, out: _into(out, replacement(x)),
    }


def _scores(q: Any, k: Any, mask: Tensor | None, is_causal: bool) -> Any:
    """What attention takes the softmax of, ``[batch, kv_heads, rows, keys]``: the heads that share keys are its rows.

    ``q`` ``[batch, heads, queries, w]`` is scaled; ``k`` ``[batch, kv_heads, keys, w]``.
    """
    import numpy as np

    batch, heads, queries, width = q.shape
    kv_heads, keys = k.shape[1:3]
    scores = q.reshape(batch, kv_heads, -1, width) @ k.swapaxes(2, 3)
    by_head = scores.reshape(batch, heads, queries, keys)  # a view
    if mask is not None:
        by_head += _array(mask)
    if is_causal:
        by_head += np.triu(np.full((queries, keys), -np.inf, q.dtype), 1)
    return scores


def _attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    attn_mask: Tensor | None = None,
    scale: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Attention ``[batch, heads, queries, w]`` and the logarithm of its denominators, ``[batch, heads, queries]``."""
    import numpy as np
    import torch

    assert not dropout_p
    p = _scores(_array(q) * (scale or q.shape[-1] ** -0.5), _array(k), attn_mask, is_causal)
    highest = _array(torch.from_numpy(p).amax(-1, keepdim=True))
    p -= highest
    np.exp(p, out=p)
    total = torch.from_numpy(p).sum(-1, keepdim=True)
    p /= _array(total)
    batch, heads, queries = q.shape[:3]
    out = q.new_empty(batch, queries, heads, v.shape[-1]).transpose(1, 2)  # the layout of torch's own
    _array(out)[...] = (p @ _array(v)).reshape(out.shape)
    log_total = np.log(_array(total))
    log_total += highest
    return out, torch.from_numpy(log_total.reshape(batch, heads, queries))


def _attention_backward(  # noqa: PLR0917 — torch calls it by position
    d_out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    log_total: Tensor,
    dropout_p: float,
    is_causal: bool,
    *,
    attn_mask: Tensor | None = None,
    scale: float | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of queries, keys and values."""
    import numpy as np
    import torch

    factor = scale or q.shape[-1] ** -0.5
    queries, keys, values, d_rows = (_array(x) for x in (q, k, v, d_out))
    rows = (len(queries), keys.shape[1], -1, queries.shape[-1])
    p = _scores(queries * factor, keys, attn_mask, is_causal)
    p -= _array(log_total).reshape(*p.shape[:3], 1)
    np.exp(p, out=p)
    d_rows = d_rows.reshape(rows)
    d_v = p.swapaxes(2, 3) @ d_rows
    d_p = d_rows @ values.swapaxes(2, 3)
    d_p -= _array((d_out * out).sum(-1)).reshape(*p.shape[:3], 1)
    d_p *= p
    d_p *= factor
    d_k = d_p.swapaxes(2, 3) @ queries.reshape(rows)
    d_q = (d_p @ keys).reshape(queries.shape)
    return torch.from_numpy(d_q), torch.from_numpy(d_k), torch.from_numpy(d_v)


def _qr(a: Tensor, mode: str = "reduced") -> tuple[Tensor, Tensor]:
    import numpy as np
    import torch

    q, r = np.linalg.qr(_array(a), mode=mode)  # type: ignore[call-overload]
    return torch.from_numpy(q), torch.from_numpy(r)


def _svd(
    a: Tensor, full_matrices: bool = False, compute_uv: bool = True, *, driver: str | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    import numpy as np
    import torch

    u, s, vh = np.linalg.svd(_array(a), full_matrices=full_matrices)
    return torch.from_numpy(u), torch.from_numpy(s), torch.from_numpy(vh)
