"""Expert demonstrations as examples for the warm start."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import count, islice
from random import Random

import numpy as np
from numpy.typing import NDArray

from empg.config import WarmStartRun
from empg.environments.base import Dataset, DemonstrationStep, Rates
from empg.errors import ConfigError
from empg.policy.chat import Chat
from empg.policy.packing import Conversation
from empg.policy.policy import Policy
from empg.seeding import derive_seed

CHECKED = 100  # demonstrations whose answers must fit into a response of a pretrained policy
FormatStep = Callable[[str, str], str]


def demonstrate(dataset: Dataset, config: WarmStartRun) -> Iterator[list[DemonstrationStep]]:
    """Demonstrations of training task 0, 1, 2, …. A share of them has mistakes, from which the expert recovers."""
    settings = config.warmstart
    for task in count():
        random = Random(derive_seed(settings.seed, "demonstration", task))
        mistakes = settings.mistake_rate if random.random() < settings.mistake_share else 0.0
        rates = Rates(mistakes, settings.detour_rate, settings.gap_rate)
        yield dataset.demonstrate(task, random, max_steps=settings.max_steps, rates=rates)


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


def examples(policy: Policy, config: WarmStartRun, dataset: Dataset) -> Iterator[Example]:
    """The examples of all demonstrations, without end.

    Raises :class:`ConfigError` if an answer of the first is longer than the policy may sample.
    """
    positions = policy.network.max_positions
    longest = min(positions, config.max_context or positions)
    if config.max_response is not None:
        check_responses(
            islice(demonstrate(dataset, config), CHECKED), policy.chat, dataset.format_step, config.max_response
        )
    observations = config.warmstart.observation_weight > 0
    for demonstration in demonstrate(dataset, config):
        yield make_example(demonstration, policy.chat, dataset.format_step, longest, observations=observations)


def batches(examples: Iterator[Example], batch_tokens: int) -> Iterator[list[Example]]:
    """Consecutive examples in batches of at least ``batch_tokens`` tokens; examples without a target are left out."""
    batch: list[Example] = []
    for item in examples:
        if item.own.any():
            batch.append(item)
        if sum(len(e.conversation.ids) for e in batch) >= batch_tokens:
            yield batch
            batch = []
