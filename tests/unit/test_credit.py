"""Credit of a batch by hand: every outcome advantage under every modulation, from trajectories to table columns."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from empg.config import Method, method_model
from empg.environments.base import Task
from empg.errors import ConfigError
from empg.rollouts.episodes import Episode, Step, Trajectory
from empg.schema import CREDIT
from empg.training.credit import credit_batch

ZETA = 0.5
K = math.log(2)  # so that exp(−k·h) = 2^(−h)
METHODS = ("grpo", "dapo", "rloo", "gigpo")
MODULATIONS = ("none", "empg", "empg_scale", "empg_bonus")


def step(*entropies: float, observation: str = "here") -> Step:
    n = len(entropies)
    return Step(
        observation,
        np.zeros(2, np.int32),
        np.zeros(n, np.int32),
        np.full(n, -1, np.float32),
        np.array(entropies, np.float32),
        "",
        "look",
        invalid=False,
        truncated=False,
    )


def trajectory(group: int, number: int, reward: float, *steps: Step) -> Trajectory:
    return Trajectory(Episode(Task("alfworld", "train", group, "x"), group, number, 0), list(steps), reward)


# Step entropies are the means 0, 1 | 0.5 | 0.25 | 0.75, 0.5, whatever the number of tokens; min-max changes none.
BATCH = [
    trajectory(0, 0, 1.0, step(0.0, 0.0, observation="a"), step(0.5, 1.5, observation="b")),
    trajectory(0, 1, 0.0, step(0.2, 0.8, 0.5, observation="a")),
    trajectory(1, 2, 0.0, step(0.25, observation="a")),
    trajectory(1, 3, 0.0, step(0.5, 1.0, observation="c"), step(0.25, 0.75, 0.5, 0.5, observation="c")),
]
H = np.array([0.0, 1.0, 0.5, 0.25, 0.75, 0.5])
# Group 0: rewards 1 and 0, mean 0.5, standard deviation 0.5. Group 1: equal rewards.
OUTCOME = {"grpo": [1, -1, 0, 0], "dapo": [1, -1, 0, 0], "rloo": [1, -1, 0, 0], "gigpo": [1, -1, 0, 0]}
# GiGPO: returns 0.95, 1 | 0 | 0 | 0, 0. Of group 0, "a" was seen twice: (0.95, 0) standardises to 1 and −1.
GIGPO_STEPS = np.array([1, 0, -1, 0, 0, 0])


def method(advantage: str, modulation: str, **options) -> Method:
    """A method without the overlong punishment. Of k, k' and ζ it has those that it knows."""
    strengths = {"k": K, "k_future": K, "zeta": ZETA}
    known = method_model(advantage, modulation).model_fields
    own = {name: value for name, value in strengths.items() if name in known}
    value = {"advantage": advantage, "modulation": modulation, "overlong_cache": 0} | own | options
    return Method.model_validate(value)


def test_the_dense_score_can_be_the_reward():
    """Scores .75 and .25 of one group standardise as 1 and 0 do; .3 and .3 are equal."""
    batch = [replace(t, score=score) for t, score in zip(BATCH, (0.75, 0.25, 0.3, 0.3), strict=True)]
    found = credit_batch(batch, method("grpo", "none"), max_response=10, reward="score")
    np.testing.assert_allclose(found.outcome_advantage, [1, -1, 0, 0], atol=1e-5)
    np.testing.assert_allclose(found.reward, [0.75, 0.25, 0.3, 0.3])


@pytest.mark.parametrize("modulation", MODULATIONS)
@pytest.mark.parametrize("advantage", METHODS)
def test_every_method_by_hand(advantage, modulation):
    found = credit_batch(BATCH, method(advantage, modulation), max_response=10)
    A = np.array(OUTCOME[advantage])[[0, 0, 1, 2, 3, 3]] + (GIGPO_STEPS if advantage == "gigpo" else 0)  # noqa: N806
    g, f = np.ones(6), np.zeros(6)
    if modulation in ("empg", "empg_scale"):
        g = 2**-H / ((1 + 2**-1 + 2**-0.5 + 2**-0.25 + 2**-0.75 + 2**-0.5) / 6)
    if modulation != "none":
        f = np.array([0.5, 0, 0, 0, 2**-0.5, 0])  # 2^(−h) of the next step; a trajectory's last step has none
    if modulation == "empg_scale":  # which has no k': e^(−h) for the record
        f = np.array([math.exp(-1), 0, 0, 0, math.exp(-0.5), 0])
    bonus = 0.0 if modulation == "empg_scale" else ZETA
    expected = A * g + bonus * f
    if modulation != "none":
        expected -= expected.mean()
    tolerance = {"atol": 1e-5, "rtol": 0}  # the standard deviation's ε is 1e-6
    np.testing.assert_allclose(found.modulation.advantage, expected, **tolerance)
    np.testing.assert_allclose(found.step_entropy, H, **tolerance)
    np.testing.assert_allclose(found.modulation.normalised_entropy, H, **tolerance)
    np.testing.assert_allclose(found.modulation.gradient_scale, g, **tolerance)
    np.testing.assert_allclose(found.modulation.clarity_bonus, f, **tolerance)
    np.testing.assert_allclose(found.outcome_advantage, OUTCOME[advantage], **tolerance)
    assert found.reward.tolist() == [1, 0, 0, 0]
    assert found.equal_reward_groups == 0.5
    magnitude = np.abs(expected)
    assert found.equal_reward_mass == pytest.approx(magnitude[3:].sum() / magnitude.sum(), abs=1e-5)


def test_one_case_in_numbers():
    """GRPO with EMPG, worked out with a pocket calculator: mean of 2^(−h) is 0.7249536."""
    found = credit_batch(BATCH, method("grpo", "empg"), max_response=10)
    # A·g + ζ·f: 1.3793986 + 0.25, 0.6896993, −0.9753819, 0, 0 + 0.3535534, 0; their mean is 0.2828782.
    np.testing.assert_allclose(
        found.modulation.advantage, [1.346520, 0.406821, -1.258260, -0.282878, 0.070675, -0.282878], atol=5e-6
    )


def test_rloo_leaves_the_scale_of_rewards():
    larger = [trajectory(0, i, r, step(0.1)) for i, r in enumerate((1.0, 0.0, 0.0, 1.0))]
    found = credit_batch(larger, method("rloo", "none"), max_response=10)
    np.testing.assert_allclose(found.modulation.advantage, [2 / 3, -2 / 3, -2 / 3, 2 / 3], atol=1e-12)


def test_long_answers_are_punished_before_the_advantage():
    """Of 10 tokens at most and a cache of 4: 8 tokens cost 0.5, 10 cost 1, up to 6 nothing; steps average."""
    batch = [
        trajectory(0, 0, 1.0, step(*[0.1] * 8), step(*[0.2] * 6)),  # 1 − (0.5 + 0) / 2
        trajectory(0, 1, 1.0, step(*[0.3] * 10)),  # 1 − 1
        trajectory(0, 2, 1.0, step(0.4)),
    ]
    chosen = method("dapo", "none", overlong_cache=4)
    found = credit_batch(batch, chosen, max_response=10)
    shaped = np.array([0.75, 0.0, 1.0])
    expected = (shaped - shaped.mean()) / shaped.std()
    np.testing.assert_allclose(found.outcome_advantage, expected, atol=1e-5)
    np.testing.assert_allclose(found.modulation.advantage, expected[[0, 0, 1, 2]], atol=1e-5)
    assert found.reward.tolist() == [1.0, 1.0, 1.0]  # what is reported is the environment's reward
    with pytest.raises(ValueError, match="cache: expected a length in"):
        credit_batch(batch, chosen, max_response=3)


# A group of three, so that the advantages differ in more than scale. Step entropies 0 and 1 make h what they are.
THREE = [
    trajectory(5, 0, 1.0, step(0.0, observation="a"), step(1.0, observation="b")),
    trajectory(5, 1, 0.0, step(1.0, observation="a")),
    trajectory(5, 2, 0.0, step(0.0, observation="b"), step(0.0, observation="a")),
]
OWNERS = [0, 0, 1, 2, 2]


def test_gigpo_has_grpos_advantage_and_not_rloos():
    """Rewards 1, 0, 0: mean ⅓ and standard deviation √2/3 give √2 and −1/√2; RLOO gives 1 and −½."""
    grpo, rloo = [math.sqrt(2), -math.sqrt(0.5), -math.sqrt(0.5)], [1, -0.5, -0.5]
    for advantage, expected in (("gigpo", grpo), ("grpo", grpo), ("dapo", grpo), ("rloo", rloo)):
        found = credit_batch(THREE, method(advantage, "none"), max_response=10)
        np.testing.assert_allclose(found.outcome_advantage, expected, atol=1e-5, err_msg=advantage)


def gigpo_by_hand(rewards, omega: float, gamma: float) -> np.ndarray:
    """A_i + ω·A^S of the steps of ``THREE``."""
    r = np.array(rewards)
    outcome = (r - r.mean()) / r.std()
    returns = np.array([gamma * r[0], r[0], r[1], gamma * r[2], r[2]])
    step = np.zeros(5)
    for seen in ([0, 2, 4], [1, 3]):  # those at "a" and those at "b"
        part = returns[seen]
        step[seen] = (part - part.mean()) / part.std()
    return outcome[OWNERS] + omega * step


@pytest.mark.parametrize(("omega", "gamma"), [(1.0, 0.95), (3.0, 0.95), (1.0, 0.25), (0.5, 0.5)])
def test_gigpos_settings_reach_its_steps(omega, gamma):
    """All succeed but the last, so that a discounted return differs from 1 and from 0."""
    batch = [replace(t, reward=reward) for t, reward in zip(THREE, (1.0, 1.0, 0.0), strict=True)]
    found = credit_batch(batch, method("gigpo", "none", omega=omega, gamma=gamma), max_response=10)
    expected = gigpo_by_hand((1.0, 1.0, 0.0), omega, gamma)
    np.testing.assert_allclose(found.modulation.advantage, expected, atol=2e-4)  # ε = 1e-6 beside spreads of 0.02


def test_gigpo_is_of_the_shaped_rewards():
    """Steps of 8 and 10 tokens of at most 10, with a cache of 4, cost ½ and 1; a trajectory has the mean of its steps.

    All three succeed, so that nothing but the punishment tells them apart: rewards 1 − ¼, 1 − 1 and 1.
    """
    batch = [
        trajectory(5, 0, 1.0, step(*[0.1] * 8, observation="a"), step(0.2, observation="b")),
        trajectory(5, 1, 1.0, step(*[0.3] * 10, observation="a")),
        trajectory(5, 2, 1.0, step(0.4, observation="b"), step(0.5, observation="a")),
    ]
    found = credit_batch(batch, method("gigpo", "none", overlong_cache=4), max_response=10)
    expected = gigpo_by_hand((0.75, 0.0, 1.0), omega=1.0, gamma=0.95)
    np.testing.assert_allclose(found.modulation.advantage, expected, atol=1e-4)


def test_k_and_k_future_are_apart():
    """k = ln 2 and k' = 2 ln 2: g goes as 2^(−h), f as 4^(−h)."""
    found = credit_batch(BATCH, method("grpo", "empg", k=K, k_future=2 * K), max_response=10).modulation
    np.testing.assert_allclose(found.gradient_scale, 2**-H / (2**-H).mean(), atol=1e-6)
    np.testing.assert_allclose(found.clarity_bonus, [0.25, 0, 0, 0, 0.5, 0], atol=1e-6)
    alone = credit_batch(BATCH, method("grpo", "empg_bonus", k_future=2 * K), max_response=10).modulation
    np.testing.assert_allclose(alone.clarity_bonus, found.clarity_bonus, atol=1e-12)
    assert alone.gradient_scale.tolist() == [1.0] * 6


def test_a_zeta_that_nobody_set_is_an_error():
    with pytest.raises(ConfigError, match="zeta: expected a number"):
        credit_batch(BATCH, method("grpo", "empg", zeta=None), max_response=10)


def test_columns_are_the_tables_and_rows_are_steps():
    found = credit_batch(BATCH, method("gigpo", "empg"), max_response=10)
    columns = found.columns()
    assert columns.schema == pl.Schema(CREDIT)
    assert len(columns) == 6
    assert columns["trained"].all()
    np.testing.assert_allclose(columns["outcome_advantage"], [1, 1, -1, 0, 0, 0], atol=1e-5)
    np.testing.assert_allclose(columns["advantage"], found.modulation.advantage, atol=1e-7)
    np.testing.assert_allclose(columns["step_entropy"], H, atol=1e-7)


def test_the_order_of_trajectories_does_not_matter():
    order = [2, 0, 3, 1]
    chosen = method("grpo", "empg")
    plain = credit_batch(BATCH, chosen, max_response=10).modulation.advantage
    shuffled = credit_batch([BATCH[i] for i in order], chosen, max_response=10).modulation.advantage
    steps = [[0, 1], [2], [3], [4, 5]]
    np.testing.assert_allclose(shuffled, plain[[s for i in order for s in steps[i]]], atol=1e-12)


# Token-level modulation. Of BATCH's 14 tokens the entropies run from 0 to 1.5.
TOKENS = np.array([0.0, 0.0, 0.5, 1.5, 0.2, 0.8, 0.5, 0.25, 0.5, 1.0, 0.25, 0.75, 0.5, 0.5])
OWNER = np.array([0, 0, 0, 0, 1, 1, 1, 2, 3, 3, 3, 3, 3, 3])
STEP = np.array([0, 0, 1, 1, 2, 2, 2, 3, 4, 4, 5, 5, 5, 5])


def by_token(advantage: str, modulation: str):
    return method(advantage, modulation).model_copy(update={"level": "token"})


@pytest.mark.parametrize("modulation", MODULATIONS)
@pytest.mark.parametrize("advantage", METHODS)
def test_token_level_by_hand(advantage, modulation):
    found = credit_batch(BATCH, by_token(advantage, modulation), max_response=10)
    A = np.array(OUTCOME[advantage])[OWNER] + (GIGPO_STEPS[STEP] if advantage == "gigpo" else 0)  # noqa: N806
    h = TOKENS / 1.5
    g, f = np.ones(14), np.zeros(14)
    if modulation in ("empg", "empg_scale"):
        g = 2**-h / (2**-h).mean()
    if modulation != "none":
        following = [1, 2, 3, None, 5, 6, None, None, 9, 10, 11, 12, 13, None]  # the trajectory's next token
        base = math.e if modulation == "empg_scale" else 2  # without a k', for the record
        f = np.array([0.0 if i is None else base ** -h[i] for i in following])
    expected = A * g + (0.0 if modulation == "empg_scale" else ZETA) * f
    if modulation != "none":
        expected -= expected.mean()
    tolerance = {"atol": 1e-5, "rtol": 0}
    np.testing.assert_allclose(found.token_advantage, expected, **tolerance)
    np.testing.assert_allclose(found.step_entropy, H, **tolerance)  # what the table shows of a step's entropies
    columns = found.columns()
    for name, values in (
        ("advantage", expected),
        ("gradient_scale", g),
        ("clarity_bonus", f),
        ("normalised_entropy", h),
    ):
        means = [values[s == STEP].mean() for s in range(6)]
        np.testing.assert_allclose(columns[name], means, **tolerance, err_msg=name)
    magnitude = np.abs(expected)
    assert found.equal_reward_mass == pytest.approx(magnitude[7:].sum() / magnitude.sum(), abs=1e-5)


def test_a_steps_tokens_share_its_advantage():
    found = credit_batch(BATCH, method("grpo", "empg"), max_response=10)
    np.testing.assert_array_equal(found.token_advantage, found.modulation.advantage[STEP])


@pytest.mark.parametrize("advantage", METHODS)
def test_steps_of_one_token_make_the_levels_agree(advantage):
    batch = [
        trajectory(
            t.episode.group,
            t.episode.trajectory,
            t.reward,
            *(step(s.entropies.mean(), observation=s.observation) for s in t.steps),
        )
        for t in BATCH
    ]
    by_step = credit_batch(batch, method(advantage, "empg"), max_response=10)
    np.testing.assert_allclose(
        credit_batch(batch, by_token(advantage, "empg"), max_response=10).token_advantage, by_step.token_advantage
    )


@pytest.mark.parametrize("level", ["step", "token"])
def test_other_entropies_take_the_place_of_the_recorded_ones(level):
    chosen = method("grpo", "empg").model_copy(update={"level": level})
    other = np.linspace(1, 0, 14, dtype=np.float32) ** 2
    parts = iter(np.split(other, np.flatnonzero(np.diff(STEP)) + 1))
    recorded = [replace(t, steps=[replace(s, entropies=next(parts)) for s in t.steps]) for t in BATCH]
    found = credit_batch(BATCH, chosen, 10, token_entropy=torch.from_numpy(other))
    expected = credit_batch(recorded, chosen, 10)
    np.testing.assert_array_equal(found.token_advantage, expected.token_advantage)
    assert found.columns().equals(expected.columns())
    assert not np.allclose(found.step_entropy, H)


def test_actions_and_histories_are_those_of_the_steps():
    """RTMC on histories of observations and actions: two steps at "b" are one state only after the same beginning."""

    def acted(observation: str, action: str | None) -> Step:
        return replace(step(0.5, observation=observation), action=action)

    batch = [
        trajectory(0, 0, 1.0, acted("a", "left"), acted("b", "go")),
        trajectory(0, 1, 0.0, acted("a", "left"), acted("b", None)),
        trajectory(0, 2, 0.0, acted("a", "right"), acted("b", "go")),
    ]
    history = credit_batch(batch, method("rtmc", "none", gamma=1.0, prior=0.0), max_response=10)
    # At "a": Q(left) = ½, Q(right) = 0, V = ⅓. At "b" after left: Q(go) = 1, Q(None) = 0, V = ½; after right: Q = V.
    A = np.array([1 / 6, 1 / 2, 1 / 6, -1 / 2, -1 / 3, 0])  # noqa: N806
    np.testing.assert_allclose(history.modulation.advantage, A / A.std(), atol=1e-5)
    observed = credit_batch(batch, method("rtmc", "none", gamma=1.0, prior=0.0, state="observation"), max_response=10)
    # At "b", three visits: Q(go) = ½, Q(None) = 0, V = ⅓.
    A = np.array([1 / 6, 1 / 6, 1 / 6, -1 / 3, -1 / 3, 1 / 6])  # noqa: N806
    np.testing.assert_allclose(observed.modulation.advantage, A / A.std(), atol=1e-5)
    assert observed.outcome_advantage.tolist() == [0, 0, 0]


@pytest.mark.parametrize("level", ["step", "token"])
def test_gepo_gets_the_groups_of_steps_and_of_tokens(level):
    """Group 0 has the step entropies 0, 1, ½ and the token entropies 0, 0, ½, 3/2, 0.2, 0.8, ½: both means are ½.

    Group 1's are ½ and 15/28. So at the level of steps no group is low or high; of tokens, group 0 is low and 1 high.
    """
    found = credit_batch(BATCH, method("grpo", "gepo", level=level), max_response=10)
    if level == "step":
        np.testing.assert_allclose(found.modulation.advantage, [1, 1, -1, 0, 0, 0], atol=1e-5)
    else:
        np.testing.assert_allclose(found.token_advantage, [0.5] * 4 + [-1] * 3 + [0] * 7, atol=1e-5)
