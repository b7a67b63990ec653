"""Muon and AdamW: updates by hand, and a state that survives the disk to the bit."""

from __future__ import annotations

import copy
import io

import pytest
import torch

from empg.config import Optimiser as Config
from empg.policy.initialisation import initialise
from empg.policy.transformer import Architecture, Transformer
from empg.policy.weights import tiny_config
from empg.training.optimiser import AdamW, Muon, Optimiser, SharedWords, orthogonalise


def newton_schulz(value: float) -> float:
    """The value that Muon's five steps give to a singular value."""
    a, b, c = Muon.COEFFICIENTS
    for _ in range(5):
        value = a * value + b * value**3 + c * value**5
    return value


@pytest.mark.parametrize(("rows", "columns"), [(16, 16), (48, 16), (16, 48), (5, 7)])
def test_orthogonal_matrices_of_every_shape(rows, columns):
    matrices = torch.randn(3, rows, columns, generator=torch.Generator().manual_seed(0))
    found = orthogonalise(matrices)
    assert found.shape == matrices.shape
    u, s, v = torch.linalg.svd(matrices, full_matrices=False)
    values = torch.linalg.svdvals(found)
    large = s > 0.02 * s.norm(dim=1, keepdim=True)
    assert large.float().mean() > 0.9
    assert ((values > 0.6) & (values < 1.25))[large].all()
    # The singular vectors stay: each value alone goes through the polynomial.
    shrunk = s / s.norm(dim=1, keepdim=True)
    expected = u @ torch.diag_embed(shrunk.double().apply_(newton_schulz).float()) @ v
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_matrices_of_one_shape_do_not_mix():
    matrices = torch.randn(3, 8, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(orthogonalise(matrices)[1], orthogonalise(matrices[1:2])[0], atol=1e-6, rtol=0)


@pytest.mark.parametrize(("rows", "columns", "factor"), [(4, 4, 1.0), (8, 2, 2.0), (2, 8, 1.0)])
def test_a_muon_step_by_hand(rows, columns, factor):
    """A gradient with equal singular values is orthogonal up to scale: the step is lr · factor · f(1/√rank) of it."""
    gradient = 3.0 * torch.eye(rows, columns)
    parameter = torch.nn.Parameter(torch.ones(rows, columns))
    parameter.grad = gradient.clone()
    Muon([parameter], lr=0.1, weight_decay=0.5).step()
    step = 0.1 * factor * newton_schulz(min(rows, columns) ** -0.5)
    expected = torch.full((rows, columns), 1 - 0.1 * 0.5) - step * torch.eye(rows, columns)
    torch.testing.assert_close(parameter.detach(), expected, atol=1e-5, rtol=0)


def test_muons_momentum_is_nesterovs():
    """After gradients a and b the buffer is m = 0.95·0.05·a + 0.05·b, and the direction 0.05·b + 0.95·m."""
    random = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 6, 4, generator=random)
    parameter = torch.nn.Parameter(torch.zeros(6, 4))
    muon = Muon([parameter], lr=1.0)
    parameter.grad = first.clone()
    muon.step()
    before = parameter.detach().clone()
    parameter.grad = second.clone()
    muon.step()
    buffer = 0.95 * 0.05 * first + 0.05 * second
    direction = orthogonalise((0.05 * second + 0.95 * buffer)[None])[0]
    torch.testing.assert_close(before - parameter.detach(), direction * (6 / 4) ** 0.5, atol=1e-4, rtol=0)


def network() -> Transformer:
    config = tiny_config(
        "qwen2", 50, 0, 1, width=16, layers=2, heads=2, kv_heads=1, mlp_width=24, max_positions=32, rope_theta=1e4
    )
    network = Transformer(Architecture.from_config(config, "here"))
    initialise(network, torch.Generator().manual_seed(0))
    return network


def give_gradients(network: Transformer, seed: int, scale: float = 1.0) -> None:
    random = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        parameter.grad = scale * torch.randn(parameter.shape, generator=random)


def test_matrices_go_to_muon_and_the_rest_to_adamw():
    model = network()
    optimiser = Optimiser(model, Config(lr=1e-3, muon_lr=1e-2))
    adamw, muon = ({id(p) for g in o.param_groups for p in g["params"]} for o in optimiser.optimisers)
    names = {id(p): name for name, p in model.named_parameters()}
    assert {names[i] for i in muon} == {
        f"layers.{i}.{matrix}" for i in range(2) for matrix in ("qkv", "out", "gate_up", "down")
    }
    assert {names[i] for i in adamw} == set(names.values()) - {names[i] for i in muon}
    (only,) = Optimiser(model, Config(lr=1e-3, muon_lr=0.0)).optimisers
    assert {id(p) for g in only.param_groups for p in g["params"]} == set(names)


def test_words_learn_as_if_they_were_parameters():
    """Three tokens "mug", "mug 1", "mug 1 1": the sum of words' vectors and an own part, each under AdamW."""
    counts = torch.tensor([[1.0, 0.0], [1.0, 1.0], [1.0, 2.0]])
    random = torch.Generator().manual_seed(0)
    start, target = torch.randn(2, 3, 4, generator=random)
    words, own = torch.nn.Parameter(torch.randn(2, 4, generator=random)), torch.nn.Parameter(torch.zeros(3, 4))
    own.data = start - counts @ words.detach()
    embedding = torch.nn.Parameter(start.clone())
    made_of_parts = torch.optim.AdamW([words, own], lr=0.01, betas=(0.9, 0.95), weight_decay=0.0)
    whole = [
        AdamW([embedding], lr=0.01, betas=(0.9, 0.95), weight_decay=0.0),
        SharedWords(embedding, counts, lr=0.01, betas=(0.9, 0.95)),
    ]
    for _ in range(5):
        made_of_parts.zero_grad()
        (counts @ words + own - target).square().sum().backward()
        made_of_parts.step()
        embedding.grad = None
        (embedding - target).square().sum().backward()
        for rule in whole:
            rule.step()
    assert (embedding - start).abs().mean() > 0.01
    torch.testing.assert_close(embedding.detach(), (counts @ words + own).detach(), atol=1e-5, rtol=0)


def test_what_one_token_learns_holds_for_those_that_share_its_word():
    embedding = torch.nn.Parameter(torch.zeros(3, 4))
    embedding.grad = torch.zeros(3, 4)
    embedding.grad[0] = 1.0
    SharedWords(embedding, torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]), lr=0.01).step()
    expected = torch.tensor([-0.01, -0.01, 0.0])[:, None].expand(3, 4)
    torch.testing.assert_close(embedding.detach(), expected, atol=1e-6, rtol=0)


def test_a_step_returns_the_norm_and_clips_to_the_limit():
    model = network()
    optimiser = Optimiser(model, Config(lr=1e-3, muon_lr=1e-2, max_grad_norm=0.5))
    give_gradients(model, 1)
    norm = torch.cat([p.grad.flatten() for p in model.parameters()]).norm().item()
    assert optimiser.step() == pytest.approx(norm, rel=1e-5)
    clipped = torch.cat([p.grad.flatten() for p in model.parameters()]).norm().item()
    assert clipped == pytest.approx(0.5, rel=1e-4)


def test_no_gradient_is_left_after_zero_grad():
    model = network()
    optimiser = Optimiser(model, Config(lr=1e-3, muon_lr=1e-2))
    give_gradients(model, 1)
    optimiser.zero_grad()
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_factor_scales_both_learning_rates_and_does_not_pile_up():
    changes = []
    for factors in ([1.0], [0.5], [0.0, 0.5]):
        model = network()
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        optimiser = Optimiser(model, Config(lr=1e-3, muon_lr=1e-2))
        for factor in factors:
            give_gradients(model, 1)
            optimiser.step(factor)
        changes.append({name: p.detach() - before[name] for name, p in model.named_parameters()})
    for name in ("embedding", "norm", "layers.0.qkv"):
        torch.testing.assert_close(changes[1][name], changes[0][name] / 2, atol=1e-7, rtol=1e-3)
        torch.testing.assert_close(changes[2][name], changes[0][name] / 2, atol=1e-7, rtol=1e-2)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_gradient_that_is_not_finite_changes_nothing(bad):
    model = network()
    optimiser = Optimiser(model, Config())
    give_gradients(model, 1)
    model.norm.grad[0] = bad
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    assert not optimiser.step() < float("inf")
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert all(not o.state for o in optimiser.optimisers)


def test_a_state_from_disk_goes_on_to_the_bit():
    models, optimisers = [network(), network()], []
    for model in models:
        optimisers.append(Optimiser(model, Config(lr=1e-3, muon_lr=1e-2, weight_decay=0.1)))
    for seed in range(3):
        give_gradients(models[0], seed)
        optimisers[0].step(0.7)
    file = io.BytesIO()
    torch.save(optimisers[0].state_dict(), file)
    file.seek(0)
    models[1].load_state_dict(models[0].state_dict())
    optimisers[1].load_state_dict(torch.load(file, weights_only=True))
    for seed in range(3, 6):
        for model, optimiser in zip(models, optimisers, strict=True):
            give_gradients(model, seed)
            optimiser.step(0.3)
    for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(a, b)


SETTINGS = {"lr": 1e-2, "betas": (0.9, 0.95), "weight_decay": 0.1}


def torchs(parameters) -> torch.optim.AdamW:
    return torch.optim.AdamW(parameters, **SETTINGS, fused=True)


def through_the_disk(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def steps_alike(ours: Transformer, theirs: Transformer, optimisers, seeds) -> None:
    """Both optimisers get the same gradients, some of them none, and rates; the weights stay equal to the bit."""
    for seed in seeds:
        for model, optimiser in zip((ours, theirs), optimisers, strict=True):
            give_gradients(model, seed, scale=10.0 ** (seed % 5 - 4))
            if seed % 3 == 1:
                model.layers[0].qkv.grad = None
            optimiser.param_groups[0]["lr"] = SETTINGS["lr"] / (1 + seed)
            optimiser.step()
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert torch.equal(a, b)


def test_adamw_is_torchs_to_the_bit_and_each_goes_on_from_the_others_state():
    ours, theirs = network(), network()
    before = ours.embedding.detach().clone()
    mine, reference = AdamW(ours.parameters(), **SETTINGS), torchs(theirs.parameters())
    steps_alike(ours, theirs, (mine, reference), range(8))
    assert not torch.equal(ours.embedding, before)
    states = through_the_disk(mine.state_dict()), through_the_disk(reference.state_dict())
    assert states[0]["state"].keys() == states[1]["state"].keys()
    for state, other in zip(states[0]["state"].values(), states[1]["state"].values(), strict=True):
        assert state.keys() == other.keys()
        assert all(torch.equal(state[name], other[name]) for name in state)
    mine, reference = AdamW(ours.parameters(), lr=1.0), torchs(theirs.parameters())
    mine.load_state_dict(states[1])
    reference.load_state_dict(states[0] | {"param_groups": states[1]["param_groups"]})
    steps_alike(ours, theirs, (mine, reference), range(8, 12))


@pytest.mark.parametrize("rule", [AdamW, Muon])
def test_a_state_of_another_network_is_refused(rule):
    parameters = [torch.nn.Parameter(torch.ones(2, 2)) for _ in range(3)]
    saved = rule(parameters[:2], lr=0.1).state_dict()
    with pytest.raises(ValueError, match="expected the state of 3 parameters, found 2"):
        rule(parameters, lr=0.1).load_state_dict(saved)


def test_bfloat16_weights_add_up_updates_in_float32():
    """Each update is far smaller than half of a bfloat16's last digit at 1; a hundred of them are not."""
    exact = torch.nn.Parameter(torch.ones(5))
    rounded = torch.nn.Parameter(torch.ones(5, dtype=torch.bfloat16))
    ours = [AdamW([p], lr=1e-4, weight_decay=0.0) for p in (exact, rounded)]
    for step in range(100):
        for parameter, optimiser in zip((exact, rounded), ours, strict=True):
            parameter.grad = torch.ones(5, dtype=parameter.dtype)
            optimiser.step()
        assert torch.equal(rounded.detach(), exact.detach().bfloat16()), step
    assert (rounded < 1).all()


def test_a_float32_copy_is_part_of_the_state():
    parameters = [torch.nn.Parameter(torch.ones(5, dtype=torch.bfloat16)) for _ in range(2)]
    first, second = (AdamW([p], lr=1e-4, weight_decay=0.0) for p in parameters)
    for _ in range(7):
        parameters[0].grad = torch.full((5,), 0.5, dtype=torch.bfloat16)
        first.step()
    parameters[1].data.copy_(parameters[0].data)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for parameter, optimiser in zip(parameters, (first, second), strict=True):
        for _ in range(40):
            parameter.grad = torch.ones(5, dtype=torch.bfloat16)
            optimiser.step()
    assert torch.equal(*(p.detach() for p in parameters))
    assert (parameters[0] < 1).all()
