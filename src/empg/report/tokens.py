"""A response as HTML, in which the tokens that the policy was uncertain of are marked with their entropies."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from markupsafe import Markup, escape

from empg.policy.chat import Chat

LEVELS = (0.1, 0.5, 1.0)  # nats, from which on a token is marked lightly, clearly, strongly


class MarkedText:
    """Marks responses of one tokenizer. The text of each token is decoded once."""

    def __init__(self, chat: Chat) -> None:
        self._chat = chat
        self._texts: dict[int, str] = {}

    def __call__(self, text: str, response_ids: Sequence[int], entropies: Sequence[float]) -> Markup:
        """The response ``text`` in HTML. ``response_ids`` and ``entropies`` (nats) are ``[response]``.

        Neighbours of one level share a mark, whose title says the highest entropy. The end of turn is not shown. A text
        that its tokens do not spell one by one (a character may be several tokens) is left unmarked.
        """
        spelt = [
            (self._text(i), h) for i, h in zip(response_ids, entropies, strict=True) if i != self._chat.end_of_turn
        ]
        if "".join(piece for piece, _ in spelt) != text:
            return escape(text)
        parts = []
        for level, run in groupby(spelt, key=lambda token: sum(token[1] >= least for least in LEVELS)):
            tokens = list(run)
            shown = escape("".join(piece for piece, _ in tokens))
            highest = max(entropy for _, entropy in tokens)
            parts.append(f'<mark class="u{level}" title="{highest:.2f} nats">{shown}</mark>' if level else shown)
        return Markup("".join(parts))

    def _text(self, token: int) -> str:
        if token not in self._texts:
            self._texts[token] = self._chat.text([token])
        return self._texts[token]
