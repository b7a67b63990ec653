"""Seeds are pure functions of their coordinates, everywhere and for ever."""

from __future__ import annotations

import hashlib

from empg.seeding import derive_seed


def test_the_value_is_fixed():
    digest = hashlib.sha256(b"int:1\x1fstr:train\x1fint:23").digest()
    assert derive_seed(1, "train", 23) == int.from_bytes(digest[:8], "big") >> 1 == 1170975137551425705


def test_coordinates_are_not_mixed_up():
    coordinates = [(1, 23), (12, 3), (123,), ("1", 23), (1, "23"), (23, 1), (1, 23, 0), (-1, 23), ()]
    assert len({derive_seed(*c) for c in coordinates}) == len(coordinates)


def test_it_fits_a_signed_64_bit_column_and_uses_all_of_it():
    seeds = [derive_seed("run", i) for i in range(1000)]
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert min(seeds) < 2**55 < 2**62 < max(seeds)
    assert len(set(seeds)) == 1000
