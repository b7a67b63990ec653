"""The testbed's world: its exact gradient against finite differences, a case worked by hand, and sampling."""

import math

import pytest
import torch

from empg.config.testbed import World as Settings
from empg.config.testbed import changed
from empg.testbed.world import World, logits_of_entropy, play

SETTINGS = Settings(tasks=3, steps=5, actions=4, decisive=2, width=6, decisive_entropy=0.7, other_entropy=1.1)


def drawn(settings: Settings = SETTINGS, seed: int = 0) -> tuple[World, torch.Generator]:
    generator = torch.Generator().manual_seed(seed)
    return World.draw(settings, generator), generator


def weights(generator: torch.Generator, settings: Settings = SETTINGS) -> torch.Tensor:
    return 0.3 * torch.randn(settings.actions, settings.width, generator=generator, dtype=torch.float64)


def test_exact_gradient_is_that_of_finite_differences():
    world, generator = drawn()
    weight, step = weights(generator), 1e-6
    numeric = torch.zeros_like(weight)
    for place in range(weight.numel()):
        nudge = torch.zeros(weight.numel(), dtype=torch.float64)
        nudge[place] = step
        nudge = nudge.view_as(weight)
        numeric.view(-1)[place] = (world.success(weight + nudge) - world.success(weight - nudge)).mean() / (2 * step)
    torch.testing.assert_close(world.gradient(weight), numeric, rtol=1e-6, atol=1e-9)


def by_hand() -> World:
    """One task of two steps with two actions. Action 0 is right at step 0, π there is (¾, ¼); step 1 decides nothing.

    Features are (1, 0) and (0, 2).
    """
    settings = Settings(tasks=1, steps=2, actions=2, decisive=1, width=2, decisive_entropy=0.5, other_entropy=0.5)
    base = torch.tensor([[[math.log(3), 0], [0, 0]]], dtype=torch.float64)
    features = torch.tensor([[[1, 0], [0, 2]]], dtype=torch.float64)
    return World(settings, base, features, torch.tensor([[0, -1]]))


def test_a_case_by_hand():
    """P = ¾. ∇ = P·(e₀ − π)φᵀ = ¾·(¼, −¼)ᵀ(1, 0). Decisiveness: reward 1 with ¾, 0 with ¼, variance 3/16."""
    world, weight = by_hand(), torch.zeros(2, 2, dtype=torch.float64)
    assert world.success(weight).item() == pytest.approx(0.75)
    torch.testing.assert_close(world.gradient(weight), torch.tensor([[3 / 16, 0], [-3 / 16, 0]], dtype=torch.float64))
    torch.testing.assert_close(world.decisiveness(weight), torch.tensor([[3 / 16, 0]], dtype=torch.float64))


def test_entropies_are_those_asked_for_and_apart_from_feature_norms():
    settings = Settings(decisive_entropy=0.4, other_entropy=1.3, spread=0.1, norm_ratio=3)
    world, _ = drawn(settings)
    log_p = world.log_policy(torch.zeros(settings.actions, settings.width, dtype=torch.float64))
    entropy, decisive, norm = -(log_p.exp() * log_p).sum(-1), world.right >= 0, world.features.norm(dim=-1)
    assert decisive.sum(1).tolist() == [2] * 16
    assert len({tuple(row) for row in decisive.tolist()}) > 5, "decisive steps lie at random places"
    for mask, centre, length in ((decisive, 0.4, 3.0), (~decisive, 1.3, 1.0)):
        assert (entropy[mask] - centre).abs().max() <= 0.1 + 1e-9
        assert entropy[mask].std() > 0.03
        torch.testing.assert_close(norm[mask], torch.full_like(norm[mask], length))


def test_logits_of_an_entropy():
    direction = torch.tensor([[1.0, 0, 0], [2, 1, 0]], dtype=torch.float64)
    log_p = torch.log_softmax(logits_of_entropy(direction, torch.tensor([0.3, 1.0], dtype=torch.float64)), dim=-1)
    torch.testing.assert_close(-(log_p.exp() * log_p).sum(-1), torch.tensor([0.3, 1.0], dtype=torch.float64))


def test_a_drawn_policy_is_calibrated():
    """The right action is the policy's own draw, so the mean success at W = 0 is the mean of Σπ², squared."""
    settings = Settings(tasks=4000, width=1, decisive_entropy=0.9, spread=0.0, steps=3, decisive=1)
    world, _ = drawn(settings)
    log_p = world.log_policy(torch.zeros(5, 1, dtype=torch.float64))
    expected = log_p.exp().square().sum(-1)[world.right >= 0]
    found = world.success(torch.zeros(5, 1, dtype=torch.float64))
    assert found.mean().item() == pytest.approx(expected.mean().item(), abs=4 * found.std().item() / 4000**0.5)


def test_sampled_episodes_succeed_as_often_as_computed():
    world, generator = drawn()
    weight = weights(generator)
    played = play(world, weight, 4000, generator, torch.arange(3))
    share = played.batch.reward.view(3, 4000).mean(1)
    torch.testing.assert_close(share, world.success(weight), rtol=0, atol=4 * 0.5 / 4000**0.5)
    log_p = world.log_policy(weight)
    torch.testing.assert_close(played.entropy.view(3, 4000, 5)[:, 0], -(log_p.exp() * log_p).sum(-1))
    chosen = log_p[:, None].expand(3, 4000, 5, 4).gather(-1, played.action.view(3, 4000, 5, 1))[..., 0]
    torch.testing.assert_close(played.logprob.view(3, 4000, 5), chosen)


@pytest.mark.parametrize("window", [0, 1, 9])
def test_an_observation_shows_the_last_actions(window):
    world, generator = drawn(changed(SETTINGS, window=window))
    played = play(world, torch.zeros(4, 6, dtype=torch.float64), 20, generator, torch.tensor([1]))
    actions = played.action.view(20, 5).tolist()
    pairs = [(tuple(row[max(0, t - window) : t]), t) for row in actions for t in range(5)]
    number = {pair: played.batch.anchor[place].item() for place, pair in enumerate(pairs)}
    assert [number[pair] for pair in pairs] == played.batch.anchor.tolist()
    assert len(set(number.values())) == len(number)
    histories = {(tuple(row[:t]), t) for row in actions for t in range(5)}
    assert len(set(played.batch.history.tolist())) == len(histories)
