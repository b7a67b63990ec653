"""Seeds derived from coordinates, never from call order, so that any part can be recomputed alone."""

from __future__ import annotations

import hashlib


def derive_seed(*coordinates: int | str) -> int:
    """A 63-bit seed that is a pure function of its coordinates, such as (run seed, "train", iteration, trajectory).

    The same on every machine, in every process and Python version: SHA-256 of the coordinates' canonical text.
    """
    text = "\x1f".join(f"{type(c).__name__}:{c}" for c in coordinates)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
