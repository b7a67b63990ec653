"""What must hold for every batch: g averages 1, the result averages 0, and layout never changes an advantage."""

import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from empg.core.advantages import Advantages, grpo, informative_groups, rloo
from empg.core.entropy import token_renyi2, token_statistics
from empg.core.loss import AGGREGATIONS, policy_loss, token_weights
from empg.core.modulation import empg, empg_bonus, empg_scale, modulate, unmodulated

settings = hypothesis_settings(deadline=None, derandomize=True)


@st.composite
def batches(draw):
    """(advantage [trajectories], list of step entropies per trajectory), float64, without degenerate entropy ranges."""
    lengths = draw(st.lists(st.integers(1, 6), min_size=2, max_size=6))
    advantage = draw(st.lists(st.floats(-2, 2, allow_subnormal=False), min_size=len(lengths), max_size=len(lengths)))
    # Multiples of 1/64 up to 4: a range is 0 or ≥ 1/64, so the guard ε = 1e-8 is below 1e-6 of it.
    entropies = [[e / 64 for e in draw(st.lists(st.integers(0, 256), min_size=n, max_size=n))] for n in lengths]
    return torch.tensor(advantage, dtype=torch.float64), [torch.tensor(e, dtype=torch.float64) for e in entropies]


def packed(entropies):
    """One trajectory after another: (step_entropy, step_trajectory)."""
    return torch.cat(entropies), torch.cat([torch.full((len(e),), i) for i, e in enumerate(entropies)])


def close(found, expected, atol=1e-9):
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)


MODULATIONS = {unmodulated: (), empg: ("k", "k_future", "zeta"), empg_scale: ("k",), empg_bonus: ("k_future", "zeta")}


def credit(modulation, advantage, step_entropy, step_trajectory, *, k=1.0, k_future=1.0, zeta=0.05):
    """A modulation with those of the settings that it has."""
    strengths = {"k": k, "k_future": k_future, "zeta": zeta}
    own = {name: strengths[name] for name in MODULATIONS[modulation]}
    return modulation(Advantages(advantage), step_entropy, step_trajectory, **own)


modulations = st.sampled_from(list(MODULATIONS))
modulated = st.sampled_from([modulation for modulation in MODULATIONS if modulation is not unmodulated])
strengths = st.fixed_dictionaries({"k": st.floats(0, 5), "k_future": st.floats(0, 5), "zeta": st.floats(-1, 1)})


@settings
@given(batches(), modulations, strengths)
def test_gradient_scale_averages_one(batch, modulation, strengths):
    advantage, entropies = batch
    close(
        credit(modulation, advantage, *packed(entropies), **strengths).gradient_scale.mean(), torch.tensor(1.0).double()
    )


@settings
@given(batches(), modulated, strengths)
def test_final_advantage_averages_zero(batch, modulation, strengths):
    advantage, entropies = batch
    final = credit(modulation, advantage, *packed(entropies), **strengths).advantage
    assert abs(final.mean().item()) < 1e-12


@settings
@given(batches(), strengths)
def test_ranges_of_the_fields(batch, strengths):
    advantage, entropies = batch
    result = modulate(advantage, *packed(entropies), **strengths)
    assert ((result.normalised_entropy >= 0) & (result.normalised_entropy <= 1)).all()
    assert ((result.clarity_bonus >= 0) & (result.clarity_bonus <= 1)).all()
    assert (result.gradient_scale > 0).all()
    assert (result.clarity_bonus == 0).sum() == len(entropies)  # exactly the last steps


@settings
@given(batches(), strengths)
def test_confident_steps_weigh_no_less_than_uncertain_ones(batch, strengths):
    advantage, entropies = batch
    step_entropy, step_trajectory = packed(entropies)
    scale = modulate(advantage, step_entropy, step_trajectory, **strengths).gradient_scale
    assert (scale[step_entropy.argsort()].diff() <= 1e-12).all()


@settings
@given(batches(), st.booleans(), strengths, st.floats(0.1, 10), st.floats(0, 10))
def test_affine_rescaling_of_entropies_changes_nothing(batch, scale, strengths, factor, shift):
    advantage, entropies = batch
    step_entropy, step_trajectory = packed(entropies)
    settings = strengths | {"scale": scale, "eps": 1e-13}  # the guard is all that knows of the scale
    original = modulate(advantage, step_entropy, step_trajectory, **settings)
    rescaled = modulate(advantage, factor * step_entropy + shift, step_trajectory, **settings)
    for a, b in zip(original, rescaled, strict=True):
        close(a, b, atol=1e-7)


@settings
@given(batches(), modulations, strengths, st.randoms(use_true_random=False))
def test_permutation_of_trajectories(batch, modulation, strengths, random):
    advantage, entropies = batch
    order = random.sample(range(len(entropies)), len(entropies))
    original = credit(modulation, advantage, *packed(entropies), **strengths)
    permuted = credit(modulation, advantage[order], *packed([entropies[i] for i in order]), **strengths)
    lengths = [len(e) for e in entropies]
    for a, b in zip(original, permuted, strict=True):
        rows = a.split(lengths)
        close(torch.cat([rows[i] for i in order]), b)


@settings
@given(batches(), modulations, strengths, st.integers(0, 3), st.booleans())
def test_padding_and_layout(batch, modulation, strengths, extra, time_major):
    """Steps cut out of a padded matrix, row by row or column by column, get what the packed ones get."""
    advantage, entropies = batch
    original = credit(modulation, advantage, *packed(entropies), **strengths)
    width = max(map(len, entropies)) + extra
    matrix = torch.full((len(entropies), width), 1e9, dtype=torch.float64)  # padding that would wreck any statistic
    owner = torch.arange(len(entropies))[:, None].expand(-1, width)
    mask = torch.arange(width) < torch.tensor([len(e) for e in entropies])[:, None]
    for i, e in enumerate(entropies):
        matrix[i, : len(e)] = e
    if time_major:
        matrix, owner, mask = matrix.T, owner.T, mask.T
    result = credit(modulation, advantage, matrix[mask], owner[mask], **strengths)
    for a, b in zip(original, result, strict=True):
        restored = torch.zeros(mask.shape, dtype=torch.float64).masked_scatter(mask, b)
        restored, layout = (restored.T, mask.T) if time_major else (restored, mask)
        close(restored[layout], a)


@settings
@given(batches(), modulations, strengths, st.data())
def test_number_of_ranks(batch, modulation, strengths, data):
    """Trajectories dealt to ranks, gathered in rank order, credited once and scattered back: the same advantages."""
    advantage, entropies = batch
    rank = data.draw(st.lists(st.integers(0, 3), min_size=len(entropies), max_size=len(entropies)))
    original = credit(modulation, advantage, *packed(entropies), **strengths).advantage.split(
        [len(e) for e in entropies]
    )
    gathered = [i for r in range(4) for i in range(len(entropies)) if rank[i] == r]
    result = credit(modulation, advantage[gathered], *packed([entropies[i] for i in gathered]), **strengths).advantage
    for i, rows in zip(gathered, result.split([len(entropies[i]) for i in gathered]), strict=True):
        close(rows, original[i])


@hypothesis_settings(deadline=None, derandomize=True, max_examples=40)
@given(batches(), modulations, st.sampled_from(AGGREGATIONS), st.data())
def test_micro_batch_size_changes_no_gradient(batch, modulation, aggregation, data):
    """Tokens → statistics → credit → loss, split at any token boundaries: gradients add up to those of one batch."""
    advantage, entropies = batch
    _, step_trajectory = packed(entropies)
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**31)))
    tokens_of_step = torch.randint(1, 4, (len(step_trajectory),), generator=generator)
    token_step = torch.repeat_interleave(tokens_of_step)
    tokens = len(token_step)
    hidden = torch.randn(tokens, 3, dtype=torch.float64, generator=generator)
    weight = torch.randn(6, 3, dtype=torch.float64, generator=generator).requires_grad_()
    target = torch.randint(6, (tokens,), generator=generator)
    old_logprob = token_statistics(hidden, weight, target)[0].detach() + 0.3 * torch.randn(
        tokens, dtype=torch.float64, generator=generator
    )
    token_advantage = credit(modulation, advantage, *packed(entropies)).advantage[token_step]
    token_weight = token_weights(aggregation, step_trajectory[token_step], len(entropies))

    def gradient(boundaries):
        total = torch.zeros_like(weight)
        for start, stop in zip([0, *boundaries], [*boundaries, tokens], strict=True):
            part = slice(start, stop)
            logprob, _ = token_statistics(hidden[part], weight, target[part])
            loss = policy_loss(
                logprob, old_logprob[part], token_advantage[part], token_weight[part], clip_low=0.2, clip_high=0.28
            )
            total += torch.autograd.grad(loss, weight)[0]
        return total

    cuts = data.draw(st.sets(st.integers(1, tokens - 1), max_size=tokens - 1)) if tokens > 1 else set()
    close(gradient(sorted(cuts)), gradient([]), atol=1e-12)


@settings
@given(st.lists(st.floats(-30, 30), min_size=2, max_size=12), st.floats(0.1, 10))
def test_renyi_entropy_lies_between_zero_and_shannons(logits, temperature):
    hidden, weight = torch.ones(1, 1, dtype=torch.float64), torch.tensor(logits, dtype=torch.float64)[:, None]
    _, shannon = token_statistics(hidden, weight, torch.tensor([0]), temperature=temperature)
    renyi = token_renyi2(hidden, weight, temperature=temperature)
    assert 0 <= renyi.item() <= shannon.item() + 1e-12


rewards = st.lists(st.lists(st.sampled_from([0.0, 1.0]), min_size=2, max_size=8), min_size=1, max_size=5)


@settings
@given(rewards, st.randoms(use_true_random=False))
def test_advantages_average_zero_in_each_group_whatever_the_order(groups, random):
    rows = [(r, g) for g, group in enumerate(groups) for r in group]
    random.shuffle(rows)
    reward, group = torch.tensor([r for r, _ in rows], dtype=torch.float64), torch.tensor([g for _, g in rows])
    mask = informative_groups(reward, group)
    for advantage in (grpo(reward, group), rloo(reward, group)):
        for g, members in enumerate(groups):
            assert abs(advantage[group == g].mean().item()) < 1e-12
            assert mask[group == g].tolist() == [len(set(members)) > 1] * len(members)
        assert (advantage[~mask] == 0).all()
        assert (advantage[mask] != 0).all()
