"""Whether an answer is right: exact match and token F1 after the field's usual normalisation.

The normalisation is that of SQuAD's evaluation (arXiv 1606.05250), which HotpotQA, 2WikiMultiHopQA, MuSiQue, FlashRAG
and Search-R1 share: lower case, ASCII punctuation and the articles a, an, the dropped, blanks collapsed. Of several
gold answers the one that fits best counts.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Iterable

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_CLOSED = ("yes", "no", "noanswer")


def normalise_answer(text: str) -> str:
    """The answer in lower case, without punctuation, articles and superfluous blanks."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(prediction: str, golden_answers: Iterable[str]) -> bool:
    """Whether the normalised prediction equals one of the normalised gold answers."""
    normalised = normalise_answer(prediction)
    return any(normalised == normalise_answer(golden) for golden in golden_answers)


def f1_score(prediction: str, golden_answers: Iterable[str]) -> float:
    """The best F1, in [0, 1], of the prediction's normalised tokens against a gold answer's.

    As in HotpotQA's official script (arXiv 1809.09600) yes, no and noanswer earn nothing from shared words: "no" is not
    half of "no one", and a hedge "yes or no" is not half right.
    """
    normalised = normalise_answer(prediction)
    return max((_f1(normalised, normalise_answer(golden)) for golden in golden_answers), default=0.0)


def _f1(prediction: str, golden: str) -> float:
    if prediction == golden:
        return 1.0
    if prediction in _CLOSED or golden in _CLOSED:
        return 0.0
    predicted, expected = prediction.split(), golden.split()
    shared = (Counter(predicted) & Counter(expected)).total()
    return 2 * shared / (len(predicted) + len(expected))
