"""The warm start: its demonstrations, its learning rate, and that a short one helps and is reproducible."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from empg.config import TinyPolicy, WarmStart, WarmStartRun
from empg.environments.alfworld.registration import AlfworldData
from empg.environments.base import DemonstrationStep
from empg.environments.datasets import open_dataset
from empg.environments.text import format_step
from empg.errors import ConfigError, DivergenceError
from empg.policy.chat import Chat
from empg.policy.packing import Conversation, packs
from empg.policy.tokenizer import train_tokenizer
from empg.training import warmstart
from empg.training.demonstrations import Example, batches, make_example
from empg.training.optimiser import learning_rate_factor
from empg.training.warmstart import fine_tune, make_policy, texts

DEMONSTRATION = [
    DemonstrationStep("You see a mug 1.", "take it", "take mug 1", is_mistake=False),
    DemonstrationStep("You take the mug 1.", "take it", "take mug 2", is_mistake=True),
    DemonstrationStep("Nothing happens.", "leave", "go to desk 1", is_mistake=False),
]
NO_FILES = Path("none")  # generated games are drawn


@pytest.fixture(scope="module")
def chat():
    return Chat(train_tokenizer(list(texts(DEMONSTRATION, "Tidy up.", format_step)) * 3, 400), "Tidy up.", "here")


def test_the_loss_is_about_the_demonstrators_own_tokens_but_for_mistakes(chat):
    example = make_example(DEMONSTRATION, chat, format_step, 1000)
    found = example.conversation
    assert found.ids.shape == found.mask.shape
    assert example.own.all()
    assert len(example.own) == found.mask.sum()
    answers = ["<think>take it</think><action>take mug 1</action>", "<think>leave</think><action>go to desk 1</action>"]
    assert chat.tokenizer.decode(found.ids[found.mask]) == "<|im_end|>".join([*answers, ""])
    whole = chat.tokenizer.decode(found.ids)
    assert whole.startswith("<|im_start|>system\nTidy up.<|im_end|><|im_start|>user\nYou see a mug 1.<|im_end|>")
    assert "<action>take mug 2</action><|im_end|><|im_start|>user\nNothing happens.<|im_end|>" in whole


def test_with_observations_everything_but_mistakes_is_learnt_and_told_apart(chat):
    plain = make_example(DEMONSTRATION, chat, format_step, 1000)
    example = make_example(DEMONSTRATION, chat, format_step, 1000, observations=True)
    ids, mask = example.conversation.ids, example.conversation.mask
    np.testing.assert_array_equal(ids, plain.conversation.ids)
    mistake = "<think>take it</think><action>take mug 2</action><|im_end|>"
    assert chat.tokenizer.decode(ids[~mask]) == f"<|im_start|>{mistake}", "the first token has nothing before it"
    targets = ids[mask]
    np.testing.assert_array_equal(targets[example.own], ids[plain.conversation.mask])
    assert "Nothing happens." in chat.tokenizer.decode(targets[~example.own])


def test_a_demonstration_ends_before_the_step_that_does_not_fit(chat):
    def ids(demonstration, longest):
        return make_example(demonstration, chat, format_step, longest).conversation.ids

    whole, first = ids(DEMONSTRATION, 1000), len(ids(DEMONSTRATION[:1], 1000))
    cut = ids(DEMONSTRATION, len(whole) - 1)
    assert first < len(cut) < len(whole)
    np.testing.assert_array_equal(cut, ids(DEMONSTRATION[:2], 1000))
    with pytest.raises(ConfigError, match=rf"first step, {first} tokens, found {first - 1} positions"):
        ids(DEMONSTRATION, first - 1)


def test_the_tokenizer_reads_everything_that_is_said():
    assert list(texts(DEMONSTRATION[:1], "Tidy up.", format_step)) == [
        "system\nTidy up.",
        "user\nYou see a mug 1.",
        "assistant\n<think>take it</think><action>take mug 1</action>",
    ]


@pytest.mark.parametrize(
    ("done", "factor"),
    [(0.0, 0.01), (0.05, 0.51), (0.1, 1.0), (0.5, 1.0), (0.6, 1.0), (0.8, 0.5), (1.0, 0.0)],
)
def test_the_learning_rate_is_a_trapezoid(done, factor):
    assert learning_rate_factor(done, warmup=0.1, decay=0.4) == pytest.approx(factor)


def test_a_learning_rate_without_slopes():
    assert {learning_rate_factor(done, warmup=0.0, decay=0.0) for done in (0.0, 0.5, 1.0)} == {1.0}


def test_batches_are_filled_with_whole_conversations_that_teach_something():
    def made(length: int, teaches: bool = True) -> Example:
        return Example(Conversation(np.zeros(length, np.int32), np.full(length, teaches)), np.full(length, teaches))

    stream = [made(3), made(9, teaches=False), made(4), made(2), made(12), made(1)]
    assert [[len(e.own) for e in batch] for batch in batches(iter(stream), 7)] == [[3, 4], [2, 12]]


def run(**settings: object) -> WarmStartRun:
    sizes = TinyPolicy(width=32, heads=2, kv_heads=1, layers=1, mlp_width=32, vocab_size=400)
    options = {"tokens": 12_000, "batch_tokens": 1000} | settings
    return WarmStartRun(
        environment="alfworld",
        data=AlfworldData(),
        system="",
        interface={},
        policy=sizes,
        warmstart=WarmStart.model_validate(options),
    )


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    monkeypatch.setattr(warmstart, "TOKENIZER_DEMONSTRATIONS", 20)


def test_the_loss_falls_the_budget_holds_and_the_same_seed_gives_the_same_bits():
    ended = []
    for _ in range(2):
        policy = make_policy(run(), NO_FILES)
        ended.append((list(fine_tune(policy, run(), NO_FILES)), policy.network.state_dict()))
    (metrics, weights), (again, same_weights) = ended
    assert metrics == again
    assert all(torch.equal(weights[name], same_weights[name]) for name in weights)
    assert metrics[-1]["loss"] < metrics[0]["loss"] - 0.5
    assert metrics[-2]["tokens"] < 12_000 <= metrics[-1]["tokens"]
    assert metrics[0]["lr_factor"] < 1.0
    other = make_policy(run(seed=9), NO_FILES).network.state_dict()
    assert not torch.equal(weights["layers.0.qkv"], other["layers.0.qkv"])


def test_the_micro_batch_size_is_a_memory_knob():
    losses = []
    for micro_batch_tokens in (100, 10_000):
        config = run(micro_batch_tokens=micro_batch_tokens)
        losses.append([m["loss"] for m in fine_tune(make_policy(config, NO_FILES), config, NO_FILES)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_the_environments_tokens_are_learnt_too_if_they_have_weight():
    def others_loss(config: WarmStartRun) -> float:
        policy = make_policy(config, NO_FILES)
        list(fine_tune(policy, config, NO_FILES))
        dataset = open_dataset(config.data, NO_FILES)
        demonstrations = [next(warmstart.demonstrate(dataset, config))]
        examples = [make_example(d, policy.chat, dataset.format_step, 500, observations=True) for d in demonstrations]
        (pack,) = packs([e.conversation for e in examples], 10**6, torch.device("cpu"))
        with torch.no_grad():
            logprobs, _ = pack.statistics(policy.network)
        return -float(logprobs[~torch.from_numpy(examples[0].own)].mean())

    assert others_loss(run(observation_weight=0.5)) < others_loss(run()) - 0.1


def test_a_loss_that_is_not_finite_stops_it():
    policy = make_policy(run(), NO_FILES)
    with torch.no_grad():
        policy.network.norm[0] = torch.nan
    with pytest.raises(DivergenceError, match="warm start after 0 tokens: expected a finite loss and gradient norm"):
        list(fine_tune(policy, run(), NO_FILES))
