"""The warm start: supervised fine-tuning of a policy on expert demonstrations.

The default policy is made here from nothing: a small network and a tokenizer trained on the text of the environment.
The budget is in tokens and not in seconds, so that the load of the machine does not change the result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from random import Random

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from empg.config import ENVIRONMENTS, PretrainedPolicy, TinyPolicy, WarmStartRun
from empg.environments.base import Dataset, DemonstrationStep
from empg.environments.datasets import open_dataset
from empg.errors import ConfigError, DivergenceError
from empg.files import atomic_directory
from empg.policy import memory
from empg.policy.chat import Chat
from empg.policy.initialisation import (
    initialise,
    match_content,
    repeat_sequences,
    scale_residual_stream,
    share_words,
    word_counts,
)
from empg.policy.policy import Policy, device, fetch
from empg.policy.tokenizer import train_tokenizer
from empg.policy.transformer import Architecture, Transformer
from empg.policy.weights import tiny_config
from empg.provenance import stage
from empg.seeding import derive_seed
from empg.training.optimiser import Optimiser, learning_rate_factor
from empg.training.packing import Conversation, packs

TOKENIZER_DEMONSTRATIONS = 400
CHECKED = 100  # demonstrations whose answers must fit into a response of a pretrained policy
FormatStep = Callable[[str, str], str]


def run(
    config: WarmStartRun,
    data: Path,
    out: Path,
    *,
    on_metrics: Callable[[int, dict[str, float]], None],
    progress: Callable[[int, int], None],
) -> None:
    """Make ``out/model`` and ``out/metrics.parquet``. ``progress`` gets the tokens done and the tokens in all."""
    with stage("warmstart", config, out, inputs={"data": data}, threads=config.warmstart.threads) as record:
        policy = make_policy(config, data)
        history = []
        for step, metrics in enumerate(fine_tune(policy, config, data)):
            history.append({"step": step, **metrics})
            on_metrics(step, metrics)
            progress(int(metrics["tokens"]), config.warmstart.tokens)
        with atomic_directory(out / "model") as folder:
            policy.save(folder)
        record.write_frame(pl.DataFrame(history), "metrics.parquet")
        record.summary = {"tokens": history[-1]["tokens"], "loss": history[-1]["loss"]} if history else {"tokens": 0}


def make_policy(config: WarmStartRun, data: Path) -> Policy:
    """The policy before fine-tuning: a tiny one with random weights, or a pretrained one."""
    torch.manual_seed(derive_seed(config.warmstart.seed, "policy"))
    if isinstance(config.policy, PretrainedPolicy):
        folder = fetch(config.policy.model)
        if config.warmstart.tokens:
            needed = max(config.warmstart.micro_batch_tokens, config.max_context or 0)
            parts = memory.update_bytes(memory.Sizes.of(folder), config.policy, needed, config.max_context or needed)
            memory.require("warmstart", parts, "lower its micro_batch_tokens or sampling.max_context, or use lora")
        return Policy.load_pretrained(config.policy, folder, config.system)
    dataset = open_dataset(config.data, data, config.interface)
    demonstrations = islice(demonstrate(dataset, config), TOKENIZER_DEMONSTRATIONS)
    spoken = (text for d in demonstrations for text in texts(d, config.system, dataset.format_step))
    tags = ENVIRONMENTS[config.data.type].tags
    tokenizer = train_tokenizer(spoken, config.policy.vocab_size, dataset.names, tags=tags)
    chat = Chat(tokenizer, config.system, "the trained tokenizer")
    return tiny_policy(config.policy, chat, config.warmstart.seed)


def tiny_policy(sizes: TinyPolicy, chat: Chat, seed: int) -> Policy:
    """A policy of these sizes with random weights."""
    start = {"type", "family", "vocab_size", "induction", "residual_scale"}
    model_config = tiny_config(
        sizes.family,
        len(chat.tokenizer),
        chat.end_of_turn,
        chat.tokenizer.pad_token_id,
        **sizes.model_dump(exclude=start),
    )
    network = Transformer(Architecture.from_config(model_config, "the policy's config"))
    generator = torch.Generator().manual_seed(derive_seed(seed, "weights"))
    initialise(network, generator)
    match_content(network)
    share_words(network.embedding, words_of_tokens(chat), generator)
    if sizes.induction:
        repeat_sequences(network, generator)
    scale_residual_stream(network, sizes.residual_scale)
    return Policy(network.to(device()), chat, model_config)


def words_of_tokens(chat: Chat) -> Tensor:
    """The words of each token of the vocabulary: :func:`~empg.policy.initialisation.word_counts`."""
    return word_counts([str(chat.tokenizer.decode([i])) for i in range(len(chat.tokenizer))])


def texts(demonstration: list[DemonstrationStep], system: str, format_step: FormatStep) -> Iterator[str]:
    """All that is said in a demonstration, with the roles: text for the tokenizer."""
    yield f"system\n{system}"
    for step in demonstration:
        yield f"user\n{step.observation}"
        yield f"assistant\n{format_step(step.thought, step.action)}"


def demonstrate(dataset: Dataset, config: WarmStartRun) -> Iterator[list[DemonstrationStep]]:
    """Demonstrations of training task 0, 1, 2, …. A share of them has mistakes, from which the expert recovers."""
    settings = config.warmstart
    for task in count():
        random = Random(derive_seed(settings.seed, "demonstration", task))
        mistakes = settings.mistake_rate if random.random() < settings.mistake_share else 0.0
        yield dataset.demonstrate(
            task, random, max_steps=settings.max_steps, mistake_rate=mistakes, detour_rate=settings.detour_rate
        )


@dataclass(frozen=True, slots=True)
class Example:
    """A demonstration as token ids, with the mask of those in the loss.

    They are the tokens of the demonstrator, but not its mistakes, and with ``observations`` those of the environment.
    """

    conversation: Conversation
    own: NDArray[np.bool_]  # [targets]: which of the tokens in the loss are the demonstrator's


def make_example(
    demonstration: list[DemonstrationStep],
    chat: Chat,
    format_step: FormatStep,
    max_tokens: int,
    *,
    observations: bool = False,
) -> Example:
    """The example that a demonstration gives.

    Like an episode of an agent, it ends before the step that would exceed ``max_tokens``. Raises :class:`ConfigError`
    if its first step exceeds them.
    """
    ids: list[int] = []
    own: list[bool] = []
    other: list[bool] = []
    for step in demonstration:
        prompt = chat.reply(step.observation) if ids else chat.opening(step.observation)
        response = chat.agent(format_step(step.thought, step.action))
        if len(ids) + len(prompt) + len(response) > max_tokens:
            if not ids:
                raise ConfigError(
                    f"policy: expected room for a demonstration's first step, {len(prompt + response)} "
                    f"tokens, found {max_tokens} positions"
                )
            break
        ids += prompt + response
        own += [False] * len(prompt) + [not step.is_mistake] * len(response)
        other += [observations] * len(prompt) + [False] * len(response)
    other[0] = False  # no position predicts the first token
    mask = np.array(own) | np.array(other)
    return Example(Conversation(np.array(ids, dtype=np.int32), mask), np.array(own)[mask])


def check_responses(
    demonstrations: Iterable[list[DemonstrationStep]], chat: Chat, format_step: FormatStep, max_response: int
) -> None:
    """Raises :class:`ConfigError` if an answer of the demonstrations is longer than the policy may sample."""
    answers = (chat.agent(format_step(step.thought, step.action)) for d in demonstrations for step in d)
    longest = max(answers, key=len)
    if len(longest) > max_response:
        raise ConfigError(
            f"sampling.max_response: expected at least the {len(longest)} tokens of the longest demonstrated answer, "
            f"{chat.text(longest)!r}, found {max_response}"
        )


def batches(examples: Iterator[Example], batch_tokens: int) -> Iterator[list[Example]]:
    """Consecutive examples in batches of at least ``batch_tokens`` tokens; examples without a target are left out."""
    batch: list[Example] = []
    for item in examples:
        if item.own.any():
            batch.append(item)
        if sum(len(e.conversation.ids) for e in batch) >= batch_tokens:
            yield batch
            batch = []


def fine_tune(policy: Policy, config: WarmStartRun, data: Path) -> Iterator[dict[str, float]]:
    """Train in place and yield the metrics of each update; ``loss`` is that of the demonstrator's own tokens.

    Raises :class:`DivergenceError` if a loss or gradient is not finite.
    """
    settings, network = config.warmstart, policy.network
    if settings.tokens == 0:
        return
    words = words_of_tokens(policy.chat).to(network.device) if isinstance(config.policy, TinyPolicy) else None
    optimiser = Optimiser(network, settings.optimiser, words)
    tokens = 0
    dataset = open_dataset(config.data, data, config.interface)
    longest = min(network.max_positions, config.max_context or network.max_positions)
    if config.max_response is not None:
        check_responses(
            islice(demonstrate(dataset, config), CHECKED), policy.chat, dataset.format_step, config.max_response
        )
    weight = settings.observation_weight
    stream = (
        make_example(d, policy.chat, dataset.format_step, longest, observations=weight > 0)
        for d in demonstrate(dataset, config)
    )
    for batch in batches(stream, settings.batch_tokens):
        if tokens >= settings.tokens:
            return
        factor = learning_rate_factor(tokens / settings.tokens, settings.warmup, settings.decay)
        own = torch.from_numpy(np.concatenate([e.own for e in batch])).to(network.device)
        conversations = [e.conversation for e in batch]
        optimiser.zero_grad()
        loss = 0.0
        for pack in packs(conversations, settings.micro_batch_tokens, network.device):
            logprobs, _ = pack.statistics(network)
            is_own = own[pack.rows]
            part = -logprobs[is_own].sum() / own.sum()
            total = part - weight * logprobs[~is_own].sum() / (~own).sum() if weight else part
            total.backward()  # type: ignore[no-untyped-call]
            loss += float(part.detach())
        norm = optimiser.step(factor)
        if not np.isfinite(loss + norm):
            raise DivergenceError(
                f"warm start after {tokens} tokens: expected a finite loss and gradient norm, found {loss} and {norm}"
            )
        tokens += sum(len(c.ids) for c in conversations)
        yield {"tokens": float(tokens), "loss": loss, "grad_norm": norm, "lr_factor": factor}
