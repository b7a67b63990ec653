"""EMPG against an independent re-implementation: plain Python loops, lists of trajectories, no tensors inside."""

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from empg.core.advantages import gigpo_steps, grpo, rloo
from empg.core.modulation import modulate

finite = st.floats(-3, 3, allow_subnormal=False)
entropy = st.floats(0, 5, allow_subnormal=False)
trajectories = st.lists(st.tuples(finite, st.lists(entropy, min_size=1, max_size=6)), min_size=1, max_size=6)
settings_of_empg = st.fixed_dictionaries(
    {"k": st.floats(0, 3), "k_future": st.floats(0, 3), "zeta": st.floats(0, 1), "scale": st.booleans()}
)


def empg_in_plain_python(batch, *, k, k_future, zeta, scale):
    """``batch``: a list of (advantage, [entropy of each step]); returns a list of lists of final advantages."""
    everything = [h for _, steps in batch for h in steps]
    low, high = min(everything), max(everything)

    def normalise(h):
        return (h - low) / (high - low + 1e-8)

    normaliser = math.fsum(math.exp(-k * normalise(h)) for h in everything) / len(everything)
    modulated = []
    for advantage, steps in batch:
        row = []
        for t, h in enumerate(steps):
            value = advantage * math.exp(-k * normalise(h)) / normaliser if scale else advantage
            if t + 1 < len(steps):
                value += zeta * math.exp(-k_future * normalise(steps[t + 1]))
            row.append(value)
        modulated.append(row)
    mean = math.fsum(value for row in modulated for value in row) / len(everything)
    return [[value - mean for value in row] for row in modulated]


@settings(deadline=None, derandomize=True)
@given(trajectories, settings_of_empg, st.data())
def test_modulate_is_the_plain_python_one(batch, hyperparameters, data):
    expected = empg_in_plain_python(batch, **hyperparameters)
    # Interleave the trajectories at random, each one's steps in their order.
    owners = data.draw(st.permutations([i for i, (_, steps) in enumerate(batch) for _ in steps]))
    position, rows = [0] * len(batch), []
    for i in owners:
        rows.append((i, position[i]))
        position[i] += 1
    found = modulate(
        torch.tensor([advantage for advantage, _ in batch], dtype=torch.float64),
        torch.tensor([batch[i][1][t] for i, t in rows], dtype=torch.float64),
        torch.tensor(owners),
        **hyperparameters,
    ).advantage
    wanted = torch.tensor([expected[i][t] for i, t in rows], dtype=torch.float64)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-9)


def moments(values):
    mean = math.fsum(values) / len(values)
    return mean, math.sqrt(math.fsum((v - mean) ** 2 for v in values) / len(values))


rewards_in_groups = st.lists(st.tuples(st.floats(0, 1), st.integers(-3, 3)), min_size=1, max_size=16)


@settings(deadline=None, derandomize=True)
@given(rewards_in_groups)
def test_grpo_is_the_plain_python_one(rows):
    reward = torch.tensor([r for r, _ in rows], dtype=torch.float64)
    expected = []
    for r, g in rows:
        mean, std = moments([s for s, other in rows if other == g])
        expected.append((r - mean) / (std + 1e-6))
    found = grpo(reward, torch.tensor([g for _, g in rows]))
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=1e-8)


@settings(deadline=None, derandomize=True)
@given(st.lists(st.lists(st.floats(0, 1), min_size=2, max_size=6), min_size=1, max_size=4))
def test_rloo_is_grpo_without_its_standard_deviation(groups):
    reward = torch.tensor([r for rewards in groups for r in rewards], dtype=torch.float64)
    group = torch.tensor([i for i, rewards in enumerate(groups) for _ in rewards])
    size = torch.tensor([len(rewards) for rewards in groups for _ in rewards])
    std = torch.tensor([moments(rewards)[1] for rewards in groups for _ in rewards], dtype=torch.float64)
    expected = grpo(reward, group) * (std + 1e-6) * size / (size - 1)
    torch.testing.assert_close(rloo(reward, group), expected, rtol=0, atol=1e-9)


@settings(deadline=None, derandomize=True)
@given(
    st.lists(
        st.tuples(st.floats(0, 1), st.integers(0, 1), st.lists(st.integers(0, 3), min_size=1, max_size=5)),
        min_size=1,
        max_size=6,
    )
)
def test_gigpo_steps_is_the_plain_python_one(batch):
    gamma = 0.95
    rows = [(i, t) for i, (_, _, anchors) in enumerate(batch) for t in range(len(anchors))]
    returns, keys = {}, {}
    for i, t in rows:
        reward, group, anchors = batch[i]
        returns[i, t] = sum(  # r_k is 0 but at the last step
            gamma ** (s - t) * (reward if s == len(anchors) - 1 else 0.0) for s in range(t, len(anchors))
        )
        keys[i, t] = (group, anchors[t])
    expected = []
    for row in rows:
        mean, std = moments([returns[other] for other in rows if keys[other] == keys[row]])
        expected.append((returns[row] - mean) / (std + 1e-6))
    found = gigpo_steps(
        torch.tensor([reward for reward, _, _ in batch], dtype=torch.float64),
        torch.tensor([group for _, group, _ in batch]),
        torch.tensor([i for i, _ in rows]),
        torch.tensor([batch[i][2][t] for i, t in rows]),
    )
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=1e-8)


@settings(deadline=None, derandomize=True)
@given(st.lists(st.floats(0, 1), min_size=2, max_size=6))
def test_gigpo_reduces_to_grpo_where_every_episode_is_one_step_from_one_anchor(rewards):
    reward, group = torch.tensor(rewards, dtype=torch.float64), torch.zeros(len(rewards), dtype=torch.int64)
    found = gigpo_steps(reward, group, torch.arange(len(rewards)), group)
    torch.testing.assert_close(found, grpo(reward, group))
