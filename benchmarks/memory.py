"""Peak memory of log-probabilities and entropies with gradients, at the vocabulary of Qwen2.5-0.5B.

Each side runs in a process of its own, whose peak is compared with what it held before. Both take the gradients of
hidden states and output embedding; the naive side keeps the whole ``[tokens, vocabulary]`` matrix, as autograd does.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import psutil
import torch

from benchmarks.measure import Line
from empg.core.entropy import token_statistics

TOKENS, WIDTH, VOCABULARY = 1024, 896, 151_936


def naive(hidden: torch.Tensor, weight: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What :func:`token_statistics` gives, by verl's formulas (verl/utils/torch_functional.py)."""
    logits = hidden @ weight.T
    logprob = logits.log_softmax(-1).gather(1, target[:, None])[:, 0]
    return logprob, logits.logsumexp(-1) - (logits.softmax(-1) * logits).sum(-1)


def peak() -> float:
    """The most memory that this process has held, MiB. Not ``ru_maxrss``, which begins at what the parent held."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))
    assert found is not None
    return int(found[1]) / 1024


def measure(side: str) -> None:
    """Print the MiB and the CPU seconds of one side."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    hidden = torch.randn(TOKENS, WIDTH, requires_grad=True)
    weight = torch.empty(VOCABULARY, WIDTH).normal_(std=WIDTH**-0.5).requires_grad_()  # without a copy that counts
    target = torch.randint(VOCABULARY, (TOKENS,))
    before, start = psutil.Process().memory_info().rss / 2**20, time.process_time()
    logprob, entropy = (token_statistics if side == "ours" else naive)(hidden, weight, target)
    (logprob.sum() + 0.1 * entropy.sum()).backward()
    print(peak() - before, time.process_time() - start)


def against_naive() -> Line:
    """MiB beside the naive way, as its share."""
    found = {}
    for side in ("ours", "naive"):
        command = [sys.executable, "-m", "benchmarks.memory", side]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        found[side] = [float(number) for number in printed.split()]
    (ours, our_seconds), (theirs, their_seconds) = found["ours"], found["naive"]
    return Line(
        f"memory of log-probabilities and entropies with gradients, {TOKENS:,} tokens, vocabulary {VOCABULARY:,} (MiB)",
        f"{ours:,.0f} in {our_seconds:.1f} CPU s",
        f"verl's formulas without chunks {theirs:,.0f} in {their_seconds:.1f} CPU s",
        ours / theirs,
        target=0.2,
        at_most=True,
    )


if __name__ == "__main__":
    measure(sys.argv[1])
