"""Conversations as token ids: an episode grows by the agent's own tokens and the template around each observation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, cast

from jinja2 import TemplateError

from empg.errors import DataError
from empg.policy.reading import reading
from empg.policy.tokenizer import TinyTokenizer

_MARK_AGENT, _MARK_OBSERVATION = "\ue000AGENT\ue000", "\ue000OBSERVATION\ue000"


class ChatTokenizer(Protocol):
    """What a conversation needs of a tokenizer: our own or any fast one of `transformers`."""

    chat_template: Any
    pad_token_id: Any
    backend_tokenizer: Any
    all_special_ids: Any

    def __len__(self) -> int: ...
    def encode(self, text: str, /, *, add_special_tokens: bool) -> list[int]: ...
    def decode(self, ids: list[int], /, *, clean_up_tokenization_spaces: bool = ...) -> str: ...
    def convert_ids_to_tokens(self, token: int, /) -> str | None: ...
    def apply_chat_template(
        self, messages: list[dict[str, str]], /, *, tokenize: bool, add_generation_prompt: bool
    ) -> str: ...
    def save_pretrained(self, folder: Path, /) -> Any: ...


class Chat:
    """Encodes conversations with a tokenizer's chat template, a part at a time.

    Re-rendering the whole conversation each turn could change earlier tokens (templates strip thoughts, tokenizers
    merge across borders), and the policy would be trained on tokens that it never sampled. Here earlier ids stay as
    they were. Observations are encoded as plain text: a special token spelled in one is never a special token.

    Args:
        tokenizer: a fast tokenizer with a chat template.
        system: the system message; "" for none.
        where: names the tokenizer in errors.

    Raises:
        DataError: there is no chat template, or it does not render each message once with a special token at the end of
            an answer.
    """

    def __init__(self, tokenizer: ChatTokenizer, system: str, where: str) -> None:
        if not tokenizer.chat_template:
            raise DataError(f"{where}: tokenizer: expected a chat template, found none")
        self.tokenizer = tokenizer
        opening = [{"role": "system", "content": system}] if system else []
        exchange = [{"role": "user", "content": "x"}, {"role": "assistant", "content": _MARK_AGENT}]
        try:
            first = self._render([*opening, {"role": "user", "content": _MARK_OBSERVATION}])
            later = self._render([*exchange, {"role": "user", "content": _MARK_OBSERVATION}])
        except TemplateError as error:
            raise DataError(
                f"{where}: chat template: expected one that renders a conversation, found {error}"
            ) from None
        if first.count(_MARK_OBSERVATION) != 1 or later.count(_MARK_AGENT) != 1:
            raise DataError(f"{where}: chat template: expected each message's content once, found another count")
        prefix, suffix = first.split(_MARK_OBSERVATION)
        between, _ = later.split(_MARK_AGENT)[1].split(_MARK_OBSERVATION)
        self._prefix, self._suffix = self._template_ids(prefix), self._template_ids(suffix)
        end, *between_ids = self._template_ids(between)
        if end not in tokenizer.all_special_ids:
            found = tokenizer.convert_ids_to_tokens(end)
            raise DataError(f"{where}: chat template: expected a special token after an answer, found {found!r}")
        self.end_of_turn: int = end
        self._between = between_ids

    @classmethod
    def load(cls, folder: Path, system: str) -> Chat:
        """The chat of a model folder. Raises :class:`DataError` when it holds no fast tokenizer or no chat template."""
        tokenizer = TinyTokenizer.load(folder) or _pretrained_tokenizer(folder)
        with reading(folder, "a tokenizer that encodes what its chat template writes"):
            return cls(tokenizer, system, str(folder))

    def _render(self, messages: list[dict[str, str]]) -> str:
        return str(self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))

    def _template_ids(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    def _plain_ids(self, text: str) -> list[int]:
        backend = self.tokenizer.backend_tokenizer
        backend.encode_special_tokens = True
        try:
            return list(backend.encode(text, add_special_tokens=False).ids)
        finally:
            backend.encode_special_tokens = False

    def opening(self, observation: str) -> list[int]:
        """Ids up to and including the first generation prompt."""
        return self._prefix + self._plain_ids(observation) + self._suffix

    def reply(self, observation: str) -> list[int]:
        """Ids between the agent's end of turn (excluded) and its next token."""
        return self._between + self._plain_ids(observation) + self._suffix

    def agent(self, text: str) -> list[int]:
        """Ids of one agent turn written by somebody else (a demonstration), with the end of turn."""
        return [*self._template_ids(text), self.end_of_turn]

    def text(self, response_ids: Sequence[int]) -> str:
        """The text that the agent wrote, without the end of turn."""
        ids = [i for i in response_ids if i != self.end_of_turn]
        return str(self.tokenizer.decode(ids, clean_up_tokenization_spaces=False))


def _pretrained_tokenizer(folder: Path) -> ChatTokenizer:
    from transformers import AutoTokenizer  # a second or more of imports, which jobs of tiny policies need not pay

    with reading(folder, "a tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(folder)
    return cast(ChatTokenizer, tokenizer)
