"""Families whose forward pass is transformers' own: training, scoring and sampling are that one function."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import polars as pl
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
)

from empg.analysis.proposition import gradient_norms, score_norms
from empg.config import Lora
from empg.config import Optimiser as OptimiserConfig
from empg.core.entropy import token_renyi2, token_statistics
from empg.errors import ConfigError, DataError
from empg.files import read_json
from empg.policy.foreign import Foreign, load_foreign
from empg.policy.prefix_tree import PrefixTree
from empg.policy.weights import load_transformer
from empg.training.optimiser import Optimiser

SIZES = {
    "vocab_size": 97,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 128,
}
GROUPED = SIZES | {"num_key_value_heads": 2}
CONFIGS = {
    "mistral": MistralConfig(**GROUPED, sliding_window=16),
    "gemma2": Gemma2Config(**GROUPED, head_dim=8, sliding_window=16, final_logit_softcapping=5.0),
    "gemma3": Gemma3TextConfig(**GROUPED, head_dim=8, sliding_window=16),
    "gpt_neox": GPTNeoXConfig(**SIZES),
}
TOLERANCE = {"atol": 1e-4, "rtol": 0.0}


def random_model(config, folder: Path):
    """A model away from its defaults, whose logits are of the size of a trained one's; it is saved to ``folder``."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    model.save_pretrained(folder)
    return model.eval()


@pytest.fixture(scope="module", params=CONFIGS)
def model(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    return random_model(CONFIGS[request.param], folder), folder


@pytest.fixture(scope="module")
def tokens():
    return torch.randint(97, (100,), generator=torch.Generator().manual_seed(1))


def load(folder: Path, lora: Lora | None = None) -> Foreign:
    return load_foreign(folder, "cpu", torch.float32, lora)


def tree(*sequences: torch.Tensor) -> PrefixTree:
    return PrefixTree.of([sequence.numpy() for sequence in sequences], torch.device("cpu"))


def test_statistics_and_gradients_are_those_of_the_models_own_logits(model, tokens):
    theirs, folder = model
    network = load(folder)
    sequences = [tokens[:60], torch.cat((tokens[:40], tokens[60:])), tokens[70:90]]
    forest = tree(*sequences)
    for temperature in (1.0, 0.7):
        theirs.zero_grad()
        network.zero_grad()
        expected = []
        for ids in sequences:
            logprobs = (theirs(ids[None]).logits[0, :-1] / temperature).log_softmax(-1)
            entropy = -(logprobs.exp() * logprobs).sum(-1)
            expected.append((logprobs.gather(1, ids[1:, None])[:, 0], entropy))
        places = torch.cat([torch.from_numpy(p[:-1]) for p in forest.places])
        hidden = network(forest)[places]
        found = network.statistics(hidden, torch.cat([ids[1:] for ids in sequences]), temperature)
        for own, other in zip(found, zip(*expected, strict=True), strict=True):
            torch.testing.assert_close(own, torch.cat(other), **TOLERANCE)
        (found[0].sum() + 2 * found[1].sum()).backward()
        sum(logprob.sum() + 2 * entropy.sum() for logprob, entropy in expected).backward()
        mine = dict(network.model.named_parameters())
        for name, parameter in theirs.named_parameters():
            torch.testing.assert_close(mine[name].grad, parameter.grad, atol=2e-3, rtol=1e-3)
    with torch.no_grad():
        head = theirs.get_output_embeddings().weight
        if not getattr(theirs.config, "final_logit_softcapping", None):
            torch.testing.assert_close(
                network.renyi2(hidden, 0.7), token_renyi2(hidden, head, temperature=0.7), **TOLERANCE
            )
            torch.testing.assert_close(
                found[1],
                token_statistics(hidden, head, hidden.new_zeros(len(hidden)).long(), temperature=0.7)[1],
                **TOLERANCE,
            )


@torch.no_grad()
def test_a_cache_in_any_portions_gives_the_models_own_states(model, tokens):
    """Longer than the windows of 16, with rows that wait, leave and are repeated while others go on."""
    theirs, folder = model
    network = load(folder)
    rows = [tokens[:60], tokens[30:74], tokens[40:100]]
    own = [theirs(ids[None]).logits[0] for ids in rows]
    cache, lengths = network.open_cache(3, 0), [0, 0, 0]

    def compare(numbers, hidden):
        for r, logits in zip(numbers, network.logits(hidden), strict=True):
            torch.testing.assert_close(logits, own[r][lengths[r] - 1], **TOLERANCE)

    for portions in ({0: 25, 1: 9, 2: 25}, {2: 5, 1: 5}, {1: 1}):
        ids = torch.cat([rows[r][lengths[r] : lengths[r] + n] for r, n in portions.items()])
        hidden = cache.prefill(ids, list(portions.values()), [lengths[r] for r in portions], list(portions))
        for r, n in portions.items():
            lengths[r] += n
        compare(portions, hidden)
    for step in range(20):
        going = [r for r in range(3) if (step + r) % 3]  # one row waits: its token does not count
        ids = torch.stack([rows[r][lengths[r]] if r in going else tokens[0] for r in range(3)])
        hidden = cache.decode(ids, torch.tensor(lengths))
        for r in going:
            lengths[r] += 1
        compare(going, hidden[going])
    order = torch.tensor([2, 0, 2])
    cache.select(order)
    assert cache.positions.shape[1] <= max(lengths) + 1, "no slot is left that no row uses"
    numbers = order.tolist()
    hidden = cache.decode(
        torch.stack([rows[r][lengths[r]] for r in numbers]), torch.tensor([lengths[r] for r in numbers])
    )
    for r, logits in zip(numbers, network.logits(hidden), strict=True):
        torch.testing.assert_close(logits, own[r][lengths[r]], **TOLERANCE)


def test_checkpointing_changes_no_gradient(model, tokens):
    network = load(model[1])
    gradients = []
    for checkpointing in (False, True):
        network.gradient_checkpointing = checkpointing
        network.zero_grad()
        network.statistics(network(tree(tokens[:50]))[:-1], tokens[1:50], 1.0)[0].sum().backward()
        gradients.append([p.grad for p in network.parameters()])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed)


def test_a_saved_model_is_the_same_model(model, tokens, tmp_path):
    theirs, folder = model
    load(folder).save(read_json(folder / "config.json"), tmp_path)
    again, about = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(about[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    torch.testing.assert_close(again(tokens[None]).logits, theirs(tokens[None]).logits, atol=0, rtol=0)


def test_adapters_start_as_the_model_and_are_merged_when_saved(model, tokens, tmp_path):
    theirs, folder = model
    network = load(folder, Lora(rank=4, alpha=8))
    trained = [name for name, p in network.named_parameters() if p.requires_grad]
    assert trained
    assert all(".lora_" in name for name in trained)
    ids = tokens[:30]
    torch.testing.assert_close(network.logits(network.states(ids)), theirs(ids[None]).logits[0], **TOLERANCE)
    optimiser = Optimiser(network, OptimiserConfig(lr=1e-2, muon_lr=0.0))
    for _ in range(3):
        optimiser.zero_grad()
        (-network.statistics(network.states(ids)[:-1], ids[1:], 1.0)[0].mean()).backward()
        optimiser.step()
    network.save(read_json(folder / "config.json"), tmp_path)
    again, about = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(about[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    with torch.no_grad():
        found = network.logits(network.states(ids))
        torch.testing.assert_close(again(ids[None]).logits[0], found, **TOLERANCE)
        assert (found - theirs(ids[None]).logits[0]).abs().max() > 0.1, "training should have changed something"


def test_a_llama_by_transformers_is_ours(tokens, tmp_path):
    """With LoRA, a family of the native transformer runs here; both are one function."""
    random_model(LlamaConfig(**GROUPED), tmp_path)
    ours, foreign = load_transformer(tmp_path), load(tmp_path, Lora())
    with torch.no_grad():
        torch.testing.assert_close(ours.states(tokens), foreign.states(tokens), **TOLERANCE)


def test_adapters_on_modules_that_the_model_lacks_are_refused(tmp_path):
    random_model(CONFIGS["mistral"], tmp_path)
    message = r"policy\.lora\.targets: expected some of down_proj, gate_proj, k_proj, .*, found query_key_value, wq"
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, Lora(targets=("q_proj", "wq", "query_key_value")))


def test_a_family_that_attends_otherwise_is_refused(tmp_path):
    random_model(BloomConfig(vocab_size=97, hidden_size=32, n_layer=2, n_head=4), tmp_path)
    with pytest.raises(DataError, match=r"model_type: expected a family that attends by masks .* found 'bloom'"):
        load(tmp_path)


@pytest.mark.parametrize("apart", [False, True])
def test_the_report_measures_it(model, tokens, apart):
    """Score norms and gradient norms of a recorded episode of two steps, against transformers' own backward pass."""
    theirs, folder = model
    parts = [tokens[start : start + 20].tolist() for start in (0, 20, 40, 60)]
    credit = {"step_entropy": 0.5, "outcome_advantage": 1.0, "gradient_scale": 1.0, "advantage": 0.5, "trained": True}
    rows = [
        {"trajectory": 0, "step": step, "prompt_ids": prompt, "response_ids": response, **credit}
        for step, (prompt, response) in enumerate(zip(parts[::2], parts[1::2], strict=True))
    ]
    network = load(folder)
    options = {"count": 50, "temperature": 0.7, "seed": 0, "apart": apart}
    scores = score_norms(network, pl.DataFrame(rows), **options)
    assert len(scores) == 40
    found = gradient_norms(network, pl.DataFrame(rows), **options)["norm"].to_list()
    for step, norm in enumerate(found):
        ids = torch.tensor([*chain.from_iterable(parts[2 * step * apart : 2 * step + 2])])
        theirs.zero_grad()
        logprobs = (theirs(ids[None]).logits[0, -21:-1] / 0.7).log_softmax(-1)
        logprobs.gather(-1, ids[-20:, None]).mean().backward()
        gradients = [p.grad.double().norm() for p in theirs.parameters() if p.grad is not None]
        assert norm == pytest.approx(float(torch.stack(gradients).norm()), rel=1e-3)
