"""``modulate_tokens`` is ``modulate`` on the runs of ones of a mask, whatever the padding, the rows and the ranks."""

from __future__ import annotations

import threading
from itertools import groupby, pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from empg import modulate
from empg.integrations.steps import modulate_tokens

RELAXED = settings(deadline=None)
SETTINGS = {"k": 0.7, "k_future": 1.3, "zeta": 0.1}


def reference(mask, entropy, advantage, trajectory, **chosen):
    """Step by step in plain Python, then ``modulate``: ``[rows, tokens]``."""
    steps = []  # (trajectory, mean entropy, row, positions)
    for row, bits in enumerate(mask.tolist()):
        for sampled, run in groupby(range(len(bits)), key=bits.__getitem__):
            if sampled:
                places = list(run)
                steps.append((trajectory[row], entropy[row, places].double().mean().item(), row, places))
    names = sorted({step[0] for step in steps})
    outcome = [next(advantage[step[2]].item() for step in steps if step[0] == name) for name in names]
    owner = torch.tensor([names.index(step[0]) for step in steps])
    H = torch.tensor([step[1] for step in steps], dtype=torch.float64)  # noqa: N806
    result = modulate(torch.tensor(outcome, dtype=torch.float64), H, owner, **chosen)
    table = torch.zeros(mask.shape, dtype=torch.float64)
    for value, (_, _, row, places) in zip(result.advantage, steps, strict=True):
        table[row, places] = value
    return table


@st.composite
def batches(draw, fewest=1):
    """(mask, entropy, advantage, trajectory): at least one sampled token; rows of a trajectory share an advantage."""
    count, width = draw(st.integers(fewest, 9)), draw(st.integers(1, 8))
    bits = draw(st.lists(st.lists(st.booleans(), min_size=width, max_size=width), min_size=count, max_size=count))
    bits[0][0] = True
    random = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    entropy = torch.rand(count, width, generator=random, dtype=torch.float64) * 3
    trajectory = draw(st.lists(st.integers(-(2**62), 2**62), min_size=1, max_size=4, unique=True))
    owner = torch.tensor([trajectory[draw(st.integers(0, len(trajectory) - 1))] for _ in range(count)])
    of = {name: float(torch.randn((), generator=random)) for name in trajectory}
    advantage = torch.tensor([of[int(name)] for name in owner], dtype=torch.float64)
    return torch.tensor(bits), entropy, advantage, owner


def on_ranks(parts, **chosen):
    """What each rank gets; ranks are threads, and ``gather`` waits for all of them."""
    barrier, box, results = threading.Barrier(len(parts)), [None] * len(parts), [None] * len(parts)

    def rank(number):
        def gather(tensor):
            box[number] = tensor
            barrier.wait(30)
            assert len({part.shape for part in box}) == 1, "gather: unequal shapes"
            together = torch.cat(box)
            barrier.wait(30)
            return together

        mask, entropy, advantage, trajectory = parts[number]
        results[number] = modulate_tokens(mask, entropy, advantage, trajectory=trajectory, gather=gather, **chosen)

    threads = [threading.Thread(target=rank, args=(number,)) for number in range(len(parts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


@RELAXED
@given(batches(), st.booleans())
def test_equals_modulate_on_the_runs_of_the_mask(batch, scale):
    mask, entropy, advantage, _ = batch
    found = modulate_tokens(mask, entropy, advantage, scale=scale, **SETTINGS).advantage
    expected = reference(mask, entropy, advantage, list(range(len(mask))), scale=scale, **SETTINGS)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    assert (found[~mask] == 0).all()


@RELAXED
@given(batches())
def test_rows_of_one_trajectory_are_joined_in_order(batch):
    mask, entropy, advantage, trajectory = batch
    found = modulate_tokens(mask, entropy, advantage, trajectory=trajectory, **SETTINGS).advantage
    expected = reference(mask, entropy, advantage, trajectory.tolist(), **SETTINGS)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@RELAXED
@given(batches(2), st.lists(st.integers(0, 9), min_size=1, max_size=3), st.booleans())
def test_ranks_get_their_rows_of_the_whole_batch(batch, cuts, joined):
    mask, entropy, advantage, trajectory = batch
    own = trajectory if joined else None
    whole = modulate_tokens(mask, entropy, advantage, trajectory=own, **SETTINGS)
    bounds = [0, *sorted(1 + cut % (len(mask) - 1) for cut in cuts), len(mask)]
    slices = [slice(a, b) for a, b in pairwise(bounds) if b > a]
    parts = [(mask[s], entropy[s], advantage[s], own[s] if joined else None) for s in slices]
    results = on_ranks(parts, **SETTINGS)
    assert torch.equal(torch.cat([result.advantage for result in results]), whole.advantage)
    assert all(result.metrics == whole.metrics for result in results)


def test_ranks_with_equal_rows_get_equal_parts():
    part = (torch.ones(1, 2, dtype=torch.bool), torch.tensor([[0.5, 1.5]]), torch.tensor([1.0]), None)
    first, second = on_ranks([part, part])
    assert torch.equal(first.advantage, second.advantage)
    assert first.metrics["steps"] == 2


@RELAXED
@given(batches(), st.integers(1, 5))
def test_padding_and_values_under_the_mask_change_nothing(batch, more):
    mask, entropy, advantage, trajectory = batch
    wide = torch.nn.functional.pad(entropy, (0, more)).masked_fill(
        ~torch.nn.functional.pad(mask, (0, more)), float("nan")
    )
    found = modulate_tokens(torch.nn.functional.pad(mask, (0, more)), wide, advantage, trajectory=trajectory)
    expected = modulate_tokens(mask, entropy, advantage, trajectory=trajectory)
    assert torch.equal(found.advantage[:, : mask.shape[1]], expected.advantage)
    assert (found.advantage[:, mask.shape[1] :] == 0).all()
    assert found.metrics == expected.metrics


@RELAXED
@given(batches())
def test_every_step_counts_once_so_the_mean_over_steps_is_zero(batch):
    mask, entropy, advantage, _ = batch
    found = modulate_tokens(mask, entropy, advantage, **SETTINGS)
    starts = mask & ~torch.nn.functional.pad(mask, (1, -1))
    assert found.metrics["steps"] == starts.sum()
    assert abs(found.advantage[starts].mean().item()) < 1e-12


def test_integer_masks_half_precision_and_rows_without_steps():
    mask = torch.tensor([[1, 1, 0, 1], [0, 0, 0, 0], [0, 1, 0, 0]])
    entropy = torch.tensor([[0.5, 1.5, 9.0, 0.25], [9.0] * 4, [9.0, 2.0, 9.0, 9.0]], dtype=torch.bfloat16)
    result = modulate_tokens(mask, entropy, torch.tensor([1.0, 5.0, -1.0]))
    expected = modulate(torch.tensor([1.0, -1.0]), torch.tensor([1.0, 0.25, 2.0]), torch.tensor([0, 0, 1])).advantage
    a, b, c = expected.tolist()
    assert result.advantage.tolist() == [[a, a, 0, b], [0] * 4, [0, c, 0, 0]]
    assert result.advantage.dtype == torch.float32
    assert result.metrics["trajectories"] == 2


def test_a_batch_without_steps_is_all_zero():
    nothing = modulate_tokens(torch.zeros(2, 3, dtype=torch.bool), torch.rand(2, 3), torch.ones(2))
    assert not nothing.advantage.any()
    assert nothing.metrics == {"steps": 0.0, "trajectories": 0.0}
    empty = (torch.zeros(2, 3, dtype=torch.bool), torch.rand(2, 3), torch.ones(2), None)
    assert not any(result.advantage.any() for result in on_ranks([empty, empty]))
    full = (torch.ones(2, 3, dtype=torch.bool), torch.rand(2, 3), torch.tensor([1.0, -1.0]), None)
    one, other = on_ranks([full, empty])
    assert one.advantage.any()
    assert not other.advantage.any()


ROWS = torch.ones(2, 3, dtype=torch.bool)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mask": torch.ones(2, 3)}, r"mask: expected \[rows, tokens\] of 0 and 1, found torch.float32 \[2, 3\]"),
        ({"mask": torch.full((2, 3), 2)}, "mask: expected"),
        ({"mask": torch.ones(6, dtype=torch.bool)}, "mask: expected"),
        ({"entropy": torch.rand(2, 4)}, r"entropy: expected float \[2, 3\] as the mask, found torch.float32 \[2, 4\]"),
        ({"entropy": torch.ones(2, 3, dtype=torch.int64)}, "entropy: expected float"),
        ({"entropy": torch.full((2, 3), float("nan"))}, r"step_entropy\[0\]: expected a finite number, found nan"),
        ({"outcome_advantage": torch.zeros(3)}, "outcome_advantage: expected 2 elements, found 3"),
        ({"outcome_advantage": torch.tensor([1, 2])}, "outcome_advantage: expected float32 or float64"),
        ({"outcome_advantage": torch.tensor([1.0, float("nan")])}, "expected a finite number, found nan"),
        ({"trajectory": torch.tensor([0])}, "trajectory: expected 2 elements, found 1"),
        ({"trajectory": torch.tensor([0.0, 1.0])}, "trajectory: expected int64"),
        ({"trajectory": torch.tensor([7, 7])}, "expected one value for all rows of a trajectory"),
        ({"k": -1.0}, "k: expected a finite number ≥ 0"),
    ],
)
def test_wrong_arguments_are_refused(change, message):
    given_ = {"mask": ROWS, "entropy": torch.rand(2, 3), "outcome_advantage": torch.tensor([1.0, -1.0])} | change
    first = [given_.pop(name) for name in ("mask", "entropy", "outcome_advantage")]
    with pytest.raises(ValueError, match=message):
        modulate_tokens(*first, **given_)
