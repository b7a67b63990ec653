"""Our transformer and Hugging Face's are one function of one folder, and all ways to run ours agree."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, Qwen2Config, Qwen3Config

from empg.config import TinyPolicy
from empg.errors import DataError
from empg.files import read_json, write_json
from empg.policy import decoding
from empg.policy.chat import Chat
from empg.policy.decoding import Cache
from empg.policy.policy import Policy
from empg.policy.prefix_tree import PrefixTree, attend_by_products, causal_mask
from empg.policy.tokenizer import train_tokenizer
from empg.policy.transformer import Architecture, Transformer
from empg.policy.weights import load_transformer, save_transformer
from empg.training.warmstart import tiny_policy

TOLERANCE = {"atol": 1e-4, "rtol": 0.0}
SIZES = {
    "vocab_size": 97,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 128,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
LINEAR = {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 4.0}
CONFIGS = {
    "qwen2": Qwen2Config(**SIZES, tie_word_embeddings=True),
    "qwen2-untied": Qwen2Config(**SIZES, tie_word_embeddings=False),
    "qwen2-linear": Qwen2Config(**SIZES, tie_word_embeddings=True, rope_parameters=LINEAR),
    "llama": LlamaConfig(**SIZES, tie_word_embeddings=False),
    "llama-tied": LlamaConfig(**SIZES, tie_word_embeddings=True),
    "llama-biases": LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True),
    "llama-attention-bias": LlamaConfig(**SIZES, attention_bias=True),
    "llama3": LlamaConfig(**SIZES, rope_parameters=LLAMA3, head_dim=16),
    "llama-one-kv-head": LlamaConfig(**SIZES | {"num_key_value_heads": 1}),
    "qwen3": Qwen3Config(**SIZES, tie_word_embeddings=True, head_dim=16),
}
OBSERVATIONS = ["You are in a room. You see a shelf 1, a mug 12.", "You open the shelf 1.\nInside, you see nothing."]


@pytest.fixture(scope="module", params=CONFIGS)
def model(request, tmp_path_factory):
    """A random model of Hugging Face's with every parameter away from its default, and its folder."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[request.param], dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    folder = tmp_path_factory.mktemp(request.param)
    model.save_pretrained(folder)
    return model.eval(), folder


@pytest.fixture(scope="module")
def tokens():
    return torch.randint(97, (100,), generator=torch.Generator().manual_seed(1))


def logits(network: Transformer, ids):
    return network.states(ids) @ network.output_weight.T


def tree(*sequences: torch.Tensor) -> PrefixTree:
    return PrefixTree.of([sequence.numpy() for sequence in sequences], torch.device("cpu"))


@torch.no_grad()
def test_logits_are_those_of_transformers(model, tokens):
    theirs, folder = model
    network = load_transformer(folder)
    torch.testing.assert_close(logits(network, tokens), theirs(tokens[None]).logits[0], **TOLERANCE)


@torch.no_grad()
def test_transformers_loads_what_we_save(model, tokens, tmp_path):
    theirs, folder = model
    save_transformer(load_transformer(folder), read_json(folder / "config.json"), tmp_path)
    again, information = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(information[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    torch.testing.assert_close(again(tokens[None]).logits, theirs(tokens[None]).logits, atol=0.0, rtol=0.0)


@pytest.mark.parametrize("key", ["dtype", "torch_dtype"])
@pytest.mark.parametrize("asked", [None, torch.float32, torch.bfloat16], ids=str)
def test_a_bfloat16_model_stays_one_unless_float32_is_asked_for(model, tmp_path, key, asked):
    _, folder = model
    AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(tmp_path)
    config = {k: v for k, v in read_json(folder / "config.json").items() if k != "dtype"} | {key: "bfloat16"}
    write_json(tmp_path / "config.json", config)
    network = load_transformer(tmp_path, dtype=asked)
    assert {parameter.dtype for parameter in network.parameters()} == {asked or torch.bfloat16}
    save_transformer(network, config, tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert {parameter.dtype for parameter in again.parameters()} == {asked or torch.bfloat16}


@torch.no_grad()
def test_bfloat16_is_float32_up_to_its_rounding(model, tokens):
    """Scoring, prefill and decoding; the distances are those of transformers' own bfloat16 model, at most twice."""
    theirs, folder = model
    exact = theirs(tokens[None]).logits[0]
    rough = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)(tokens[None]).logits[0].float()
    bound = 2 * (rough - exact).abs().max() + 0.02
    network = load_transformer(folder, dtype=torch.bfloat16)
    assert (network.logits(network.states(tokens)) - exact).abs().max() < bound
    cache = Cache(network, 1, 100)
    assert (network.logits(cache.prefill(tokens[:50], [50], [0], [0])) - exact[49]).abs().max() < bound
    for n in range(50, 100):
        hidden = cache.decode(tokens[n : n + 1], torch.tensor([n]))
        assert (network.logits(hidden) - exact[n]).abs().max() < bound
    cache = Cache(network, 2, 100)
    cache.prefill(torch.cat([tokens[:20], tokens[:40]]), [20, 40], [0, 0], [1, 0])
    hidden = cache.prefill(torch.cat([tokens[20:80], tokens[40:]]), [60, 60], [20, 40], [1, 0])
    assert (network.logits(hidden) - exact[[79, 99]]).abs().max() < bound


def test_attention_by_products_is_attention():
    random = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(h, n, 8, generator=random, dtype=torch.float64) for h, n in ((6, 5), (2, 9), (2, 9)))
    mask = causal_mask(torch.arange(4, 9), torch.arange(9), torch.float64)
    expected = torch.nn.functional.scaled_dot_product_attention(q[None], k[None], v[None], mask, enable_gqa=True)[0]
    torch.testing.assert_close(attend_by_products(q, k, v, mask), expected)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(model, tmp_path, bad):
    theirs = AutoModelForCausalLM.from_pretrained(model[1])
    with torch.no_grad():
        theirs.model.layers[1].mlp.up_proj.weight[3, 4] = bad
    theirs.save_pretrained(tmp_path)
    message = "tensor model.layers.1.mlp.up_proj.weight: expected finite numbers, found NaN or infinity"
    with pytest.raises(DataError, match=re.escape(message)):
        load_transformer(tmp_path)


@torch.no_grad()
def test_sequences_of_a_tree_do_not_see_each_other(model, tokens):
    network = load_transformer(model[1])
    parts = tokens.split([1, 40, 17, 42])
    forest = tree(*parts)
    found = network(forest)
    for part, places in zip(parts, forest.places, strict=True):
        torch.testing.assert_close(found[places], network.states(part), atol=1e-5, rtol=0.0)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_wanted_states_and_their_gradients_are_those_of_the_whole(model, tokens, share):
    """Few wanted tokens leave most of the last layer out; a sequence may have none of them."""
    network = load_transformer(model[1]).double()
    forest = tree(*tokens.split([1, 40, 17, 42]))
    assert len(forest.ids) == 100
    wanted = torch.nonzero(torch.arange(100) % 10 < 10 * share)[:, 0]
    wanted = wanted[(wanted < 41) | (wanted >= 58)] if share < 0.9 else wanted
    whole = network(forest)[wanted]
    whole.pow(2).sum().backward()
    used = [p for p in network.parameters() if p.grad is not None]  # hidden states need no output weight
    gradients = [p.grad.clone() for p in used]
    network.zero_grad()
    part = network(forest, wanted)
    part.pow(2).sum().backward()
    torch.testing.assert_close(part, whole, atol=1e-10, rtol=1e-10)
    for parameter, expected in zip(used, gradients, strict=True):
        found = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize(("short", "copied"), [(48, 20_000), (0, 20_000), (0, 0)], ids=["together", "last", "apart"])
def test_extending_a_cache_in_any_portions_gives_the_packed_hidden_states(model, tokens, short, copied, monkeypatch):
    """However chunks are attended to: together, the last layer's queries alone together, or one by one."""
    monkeypatch.setattr(decoding, "SHORT", short)
    monkeypatch.setattr(decoding, "COPIED", copied)
    network = load_transformer(model[1])
    rows = [tokens[:60], tokens[30:74], tokens[40:100]]
    cache = Cache(network, 3, 60)
    lengths, found = [0, 0, 0], [{}, {}, {}]
    # Some of the rows in any order and portions, then all of them token by token.
    for portions in ({0: 25, 1: 9, 2: 25}, {2: 5, 1: 5}, {1: 1}):
        ids = torch.cat([rows[r][lengths[r] : lengths[r] + n] for r, n in portions.items()])
        hidden = decoding.prefill(
            network, ids, list(portions.values()), [lengths[r] for r in portions], cache=cache, rows=list(portions)
        )
        for (r, n), last in zip(portions.items(), hidden, strict=True):
            lengths[r] += n
            found[r][lengths[r] - 1] = last
    for _ in range(29):
        ids = torch.stack([row[n] for row, n in zip(rows, lengths, strict=True)])
        hidden = decoding.decode(network, ids, torch.tensor(lengths), cache)
        lengths = [n + 1 for n in lengths]
        for r, h in enumerate(hidden):
            found[r][lengths[r] - 1] = h
    with torch.no_grad():
        for row, parts, length in zip(rows, found, lengths, strict=True):
            assert len(parts) > 29
            expected = network.states(row[:length])[list(parts)]
            torch.testing.assert_close(torch.stack(list(parts.values())), expected, **TOLERANCE)


@pytest.mark.parametrize("wanted", [None, torch.arange(5, 100, 7)], ids=["whole", "wanted"])
def test_gradient_checkpointing_changes_no_gradient(model, tokens, wanted):
    network = load_transformer(model[1])
    gradients = []
    for checkpointing in (False, True):
        network.gradient_checkpointing = checkpointing
        network.zero_grad()
        (network(tree(tokens[:60], tokens[60:]), wanted) @ network.output_weight.T).square().mean().backward()
        gradients.append([p.grad for p in network.parameters()])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed, atol=0.0, rtol=0.0)


@pytest.fixture(scope="module")
def tokenizer():
    text = ["<think>find a mug</think><action>go to shelf 1</action>", *OBSERVATIONS, "system\n", "user\n"]
    return train_tokenizer(text * 3, 400)


@pytest.mark.parametrize("family", ["qwen2", "llama"])
def test_a_saved_policy_is_an_ordinary_folder(family, tokenizer, tmp_path):
    sizes = TinyPolicy(family=family, width=32, heads=4, kv_heads=2, layers=1, mlp_width=48, max_positions=256)
    policy = tiny_policy(sizes, Chat(tokenizer, "Tidy up.", "here"), seed=3)
    policy.save(tmp_path)
    assert not list(tmp_path.glob("*.bin"))
    theirs, model = AutoTokenizer.from_pretrained(tmp_path), AutoModelForCausalLM.from_pretrained(tmp_path)
    assert model.config.model_type == family
    answer = "<think>find a mug</think><action>go to shelf 1</action>"
    messages = [
        {"role": "system", "content": "Tidy up."},
        {"role": "user", "content": OBSERVATIONS[0]},
        {"role": "assistant", "content": answer},
        {"role": "user", "content": OBSERVATIONS[1]},
    ]
    chat = policy.chat
    ours = chat.opening(OBSERVATIONS[0]) + chat.agent(answer) + chat.reply(OBSERVATIONS[1])
    assert theirs.apply_chat_template(messages, add_generation_prompt=True)["input_ids"] == ours
    assert theirs.eos_token_id == model.generation_config.eos_token_id == chat.end_of_turn
    assert theirs.decode(ours) == theirs.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    again = Policy.load(tmp_path, "Tidy up.")
    assert again.chat.opening(OBSERVATIONS[0]) == chat.opening(OBSERVATIONS[0])
    ids = torch.tensor(ours)
    with torch.no_grad():
        torch.testing.assert_close(logits(policy.network, ids), model(ids[None]).logits[0], **TOLERANCE)
        torch.testing.assert_close(logits(again.network, ids), logits(policy.network, ids))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gpt2"}, "model_type: expected one of qwen2, qwen3, llama, found 'gpt2'"),
        ({"use_sliding_window": True}, "use_sliding_window: expected false, found true"),
        ({"hidden_act": "gelu"}, "hidden_act: expected 'silu', found 'gelu'"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "rope_type: expected default, linear or llama3, found 'yarn'"),
        ({"hidden_size": None}, "hidden_size: expected a number, found None"),
        ({"intermediate_size": 50}, "layers.0.mlp.gate_proj.weight: expected shape (50, 32), found (48, 32)"),
        ({"num_hidden_layers": 3}, "tensor model.layers.2.input_layernorm.weight: expected shape (32,), found none"),
    ],
)
def test_a_folder_that_cannot_be_run_is_refused(change, message, tmp_path):
    model = AutoModelForCausalLM.from_config(CONFIGS["qwen2"])
    model.save_pretrained(tmp_path)
    write_json(tmp_path / "config.json", read_json(tmp_path / "config.json") | change)
    with pytest.raises(DataError, match="found") as error:
        load_transformer(tmp_path)
    assert str(tmp_path) in str(error.value)
    assert message in str(error.value)


@pytest.mark.parametrize("damage", ["missing", "truncated", "empty"])
def test_damaged_weights_are_named(damage, tmp_path):
    AutoModelForCausalLM.from_config(CONFIGS["qwen2"]).save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    content = file.read_bytes()
    file.unlink()
    if damage != "missing":
        file.write_bytes(content[: len(content) // 2] if damage == "truncated" else b"")
    with pytest.raises(DataError, match="safetensors file") as error:
        load_transformer(tmp_path)
    assert str(tmp_path) in str(error.value)


def test_a_config_without_a_size_is_refused():
    config = {"model_type": "llama", "hidden_size": 32}
    with pytest.raises(DataError, match=r"here: num_attention_heads: expected a number, found none"):
        Architecture.from_config(config, "here")


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match="expected a model folder, found none"):
        Policy.load(Path(tmp_path / "none"), "")
