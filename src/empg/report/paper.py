"""The paper's own numbers, of other models, tasks and budgets."""

from __future__ import annotations

# The tables of arXiv 2509.09265 by type of environment: title, heads, rows. Numbers are percent.
_TABLE_1 = ("model (paper)", "GRPO", "GRPO + EMPG", "DAPO", "DAPO + EMPG")
PAPER = {
    "alfworld": (
        "Table 1, ALFWorld, success",
        _TABLE_1,
        (("Qwen2.5-1.5B-Instruct", 65.6, 73.7, 80.8, 88.1), ("Qwen2.5-7B-Instruct", 74.8, 78.5, 90.0, 91.6)),
    ),
    "webshop": (
        "Table 1, WebShop, success",
        _TABLE_1,
        (("Qwen2.5-1.5B-Instruct", 58.2, 60.8, 73.2, 73.8), ("Qwen2.5-7B-Instruct", 65.6, 69.3, 79.6, 82.7)),
    ),
    "deepsearch": (
        "Table 2, Deep Search, Qwen2.5-32B-Instruct, in distribution (WebWalker, HotpotQA, 2WikiMultiHopQA) and out of "
        "it (MuSiQue, Bamboogle)",
        ("variant (paper)", "ID", "OOD", "all"),
        (
            ("DAPO", 63.5, 59.8, 62.0),
            ("+ gradient scaling only", 63.7, 63.7, 63.7),
            ("+ future clarity bonus only", 66.1, 61.4, 64.2),
            ("+ EMPG", 66.6, 63.7, 65.3),
        ),
    ),
}


def lines(kinds: list[str]) -> list[str]:
    """One sentence for each row of the paper's tables about these types of environment."""
    return [
        f"{title}: {row[0]}, {', '.join(f'{head} {value}' for head, value in zip(heads[1:], row[1:], strict=True))}."
        for kind in dict.fromkeys(kinds)
        if kind in PAPER
        for title, heads, rows in [PAPER[kind]]
        for row in rows
    ]
