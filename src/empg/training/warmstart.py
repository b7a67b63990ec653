"""The warm start: supervised fine-tuning of a policy on expert demonstrations.

The default policy is made here from nothing: a small network and a tokenizer trained on the text of the environment.
The budget is in tokens and not in seconds, so that the load of the machine does not change the result.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import torch
from torch import Tensor

from empg.config import ENVIRONMENTS, PretrainedPolicy, TinyPolicy, WarmStartRun
from empg.environments.base import DemonstrationStep
from empg.environments.datasets import open_dataset
from empg.errors import DivergenceError
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
from empg.policy.packing import packs
from empg.policy.policy import Policy, device, fetch
from empg.policy.tokenizer import train_tokenizer
from empg.policy.transformer import Architecture, Transformer
from empg.policy.weights import tiny_config
from empg.processes import launch
from empg.processes.job import Job
from empg.provenance import CHECKPOINT, Record, stage
from empg.seeding import derive_seed
from empg.training.demonstrations import FormatStep, batches, demonstrate, examples
from empg.training.optimiser import Optimiser, learning_rate_factor

if TYPE_CHECKING:
    from empg.training import trl_warmstart  # noqa: F401 - what the processes run is a source of the stage

TOKENIZER_DEMONSTRATIONS = 400
REMEDY = "lower its micro_batch_tokens or sampling.max_context, or use lora"


def run(
    config: WarmStartRun,
    data: Path,
    out: Path,
    *,
    on_metrics: Callable[[int, dict[str, float]], None],
    progress: Callable[[int, int], None],
) -> None:
    """Make ``out/model`` and ``out/metrics.parquet``. ``progress`` gets the tokens done and the tokens in all."""
    if by_trl := config.engine == "trl":
        launch.check(config)
    inputs = {"data": data, **launch.inputs(config)}
    with stage(
        "warmstart",
        config,
        out,
        inputs=inputs,
        threads=config.warmstart.threads,
        libraries=launch.libraries(config),
    ) as record:
        history: list[dict[str, float]] = []

        def ended(step: int, metrics: dict[str, float]) -> None:
            history.append({"step": step, **metrics})
            on_metrics(step, metrics)
            progress(int(metrics["tokens"]), config.warmstart.tokens)

        if by_trl:
            fine_tune_by_processes(config, data, record, ended)
        else:
            policy = make_policy(config, data)
            for step, metrics in enumerate(fine_tune(policy, config, data)):
                ended(step, metrics)
            with atomic_directory(out / "model") as folder:
                policy.save(folder)
        record.write_frame(pl.DataFrame(history), "metrics.parquet")
        record.summary = {"tokens": history[-1]["tokens"], "loss": history[-1]["loss"]} if history else {"tokens": 0}
    shutil.rmtree(out / CHECKPOINT, ignore_errors=True)


def fine_tune_by_processes(
    config: WarmStartRun, data: Path, record: Record, ended: Callable[[int, dict[str, float]], None]
) -> None:
    """Make ``model`` in the record's folder by ``config.processes`` processes. ``ended`` gets each update's metrics."""
    assert isinstance(config.policy, PretrainedPolicy)
    folder = fetch(config.policy.model)
    if config.warmstart.tokens:
        longest = max(config.warmstart.micro_batch_tokens, config.max_context or 0)
        parts = memory.trl_update_bytes(
            memory.Sizes.of(folder), config.policy, longest, config.max_context or longest, shards=launch.shards(config)
        )
        memory.require("warmstart", parts, REMEDY, config.processes)
    job = Job.prepare(config, record.digest, os.getpid(), data=data, model=folder, out=record.out)
    launch.follow(job, "empg.training.trl_warmstart", "update", ended)


def make_policy(config: WarmStartRun, data: Path) -> Policy:
    """The policy before fine-tuning: a tiny one with random weights, or a pretrained one."""
    torch.manual_seed(derive_seed(config.warmstart.seed, "policy"))
    if isinstance(config.policy, PretrainedPolicy):
        folder = fetch(config.policy.model)
        if config.warmstart.tokens:
            needed = max(config.warmstart.micro_batch_tokens, config.max_context or 0)
            parts = memory.update_bytes(memory.Sizes.of(folder), config.policy, needed, config.max_context or needed)
            memory.require("warmstart", parts, REMEDY)
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
    weight = settings.observation_weight
    for batch in batches(examples(policy, config, dataset), settings.batch_tokens):
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
