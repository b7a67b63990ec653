"""`empg fingerprint --size small` in an emulated processor: QEMU 7.2, user mode, of Debian's package qemu-user.

    qemu-x86_64 -cpu Haswell .venv/bin/python -m benchmarks.emulated_fingerprint --processor "Haswell, QEMU 7.2"

This QEMU crashes in numpy's AVX2 code that sorts whole numbers. A stable sort, which has no such code, gives the same
order here. It takes minutes. `qemu-x86_64 -cpu help` lists the processors; none has AVX-512.
"""

from __future__ import annotations

import sys
from typing import Any

from empg import arithmetic, cli


def sort_stably() -> None:
    """Make numpy's ``unique`` with places sort stably. Nothing else of a fingerprint sorts with numpy."""
    import numpy as np

    unique: Any = np.unique

    def stable(values: Any, return_index: bool = False, return_inverse: bool = False, **options: Any) -> Any:
        if not return_inverse:
            return unique(values, return_index=return_index, **options)
        found, index, inverse, *counts = unique(values, return_index=True, return_inverse=True, **options)
        return (found, index, inverse, *counts) if return_index else (found, inverse, *counts)

    np.unique = stable  # with an index it sorts stably, as of numpy 2.4


if __name__ == "__main__":
    arithmetic.prepare()
    sort_stably()
    sys.exit(cli.main(["fingerprint", "--size", "small", *sys.argv[1:]]))
