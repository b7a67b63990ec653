"""One of the processes of a warm start under `accelerate`: ``python -m empg.training.trl_warmstart JOB``.

The examples, their batches, the loss of each token and the schedule are those of the native engine
(:func:`empg.training.warmstart.fine_tune`). TRL gives the head that never holds all logits.
"""

from __future__ import annotations

import math
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from trl.trainer.utils import add_fused_lm_head

from empg.config import PretrainedPolicy, WarmStart, WarmStartRun
from empg.environments.datasets import open_dataset
from empg.errors import DivergenceError
from empg.files import atomic_directory
from empg.processes.job import Job
from empg.processes.rank import check_count, main
from empg.seeding import derive_seed
from empg.training.demonstrations import Example, batches, examples
from empg.training.optimiser import learning_rate_factor
from empg.training.trl_policy import TrainedPolicy, sharded

IGNORED = -100  # the label of a token that is not in the loss
Row = dict[str, Tensor]


def run(job: Job) -> None:
    """Fine-tune, and write the model."""
    config = job.config
    assert isinstance(config, WarmStartRun)
    assert isinstance(config.policy, PretrainedPolicy)
    half = config.policy.dtype == "bfloat16" and config.policy.lora is None
    accelerator = Accelerator(mixed_precision="bf16" if half else "no", cpu=not torch.cuda.is_available())
    check_count(config, accelerator.num_processes)
    torch.manual_seed(derive_seed(config.warmstart.seed, "policy"))
    policy = TrainedPolicy.load(
        config.policy,
        Path(job.model),
        config.system,
        sharded=sharded(accelerator.state.deepspeed_plugin),
        device=str(accelerator.device),
    )
    trained = fine_tune(accelerator, policy, config, job)
    policy.refresh(trained)
    if accelerator.is_main_process:
        with atomic_directory(Path(job.out) / "model") as folder:
            policy.played.save(folder)
    accelerator.wait_for_everyone()


def fine_tune(accelerator: Accelerator, policy: TrainedPolicy, config: WarmStartRun, job: Job) -> Any:
    """Train ``policy``, and leave a line for each update. Returns the trained model.

    Raises :class:`DivergenceError` if a loss or gradient is not finite.
    """
    settings = config.warmstart
    add_fused_lm_head(policy.model.get_base_model() if hasattr(policy.model, "get_base_model") else policy.model)
    if config.policy.gradient_checkpointing:  # type: ignore[union-attr]
        policy.model.activation_checkpointing_enable({"use_reentrant": False})
    optimiser = torch.optim.AdamW(
        [p for p in policy.model.parameters() if p.requires_grad],
        lr=settings.optimiser.lr,
        betas=(0.9, 0.95),
        weight_decay=settings.optimiser.weight_decay,
    )
    model, optimiser = accelerator.prepare(policy.model, optimiser)
    model.train()
    dataset = open_dataset(config.data, Path(job.data), config.interface)
    tokens = 0
    for batch in batches(examples(policy.played, config, dataset), settings.batch_tokens):
        if tokens >= settings.tokens:
            break
        factor = learning_rate_factor(tokens / settings.tokens, settings.warmup, settings.decay)
        for group in optimiser.param_groups:
            group["lr"] = settings.optimiser.lr * factor
        loss, norm = update(accelerator, model, batch, settings)
        if not math.isfinite(loss + norm):
            raise DivergenceError(
                f"warm start after {tokens} tokens: expected a finite loss and gradient norm, found {loss} and {norm}"
            )
        optimiser.step()
        optimiser.zero_grad()
        tokens += sum(len(e.conversation.ids) for e in batch)
        if accelerator.is_main_process:
            job.ended({"tokens": float(tokens), "loss": loss, "grad_norm": norm, "lr_factor": factor})
    return accelerator.unwrap_model(model)


def update(accelerator: Accelerator, model: Any, batch: list[Example], settings: WarmStart) -> tuple[float, float]:
    """The gradient of a batch, from the shares of all processes: its loss, and its norm before clipping."""
    rows, count = rows_of(batch, settings.observation_weight), accelerator.num_processes
    shares = [portions(rows[index::count], settings.micro_batch_tokens) for index in range(count)]
    own = shares[accelerator.process_index]
    filler = rows[0] | {"labels": torch.full_like(rows[0]["labels"], IGNORED)}
    own += [[filler]] * (max(map(len, shares)) - len(own))  # all processes take equally many steps
    loss = torch.zeros((), dtype=torch.float64, device=accelerator.device)
    for number, portion in enumerate(own, 1):
        with nullcontext() if number == len(own) else accelerator.no_sync(model):
            inputs = padded(portion, accelerator.device)
            inside = inputs["labels"][:, 1:] != IGNORED
            demonstrated, observed = (inputs.pop(name)[:, 1:][inside] for name in ("demonstrated", "observed"))
            with accelerator.autocast():
                logprob = model(**inputs, fused_lm_head=True).log_probs[inside].float()
            part = -(logprob * demonstrated).sum()
            accelerator.backward((part - (logprob * observed).sum()) * count)  # gradients of processes are averaged
            loss += part.detach()
    norm = accelerator.clip_grad_norm_(model.parameters(), settings.optimiser.max_grad_norm)
    return float(accelerator.reduce(loss, reduction="sum")), float(norm)


def rows_of(batch: list[Example], observation_weight: float) -> list[Row]:
    """The examples of a batch, ``[tokens]`` each, with the weight of each token in the loss of the whole batch."""
    demonstrated = sum(int(e.own.sum()) for e in batch)
    observed = max(sum(int((~e.own).sum()) for e in batch), 1)
    rows = []
    for example in batch:
        ids, mask = (torch.from_numpy(x) for x in (example.conversation.ids.astype("int64"), example.conversation.mask))
        own = torch.from_numpy(example.own).float()
        nothing = torch.zeros(len(ids))
        rows.append(
            {
                "input_ids": ids,
                "attention_mask": torch.ones_like(ids),
                "labels": torch.where(mask, ids, IGNORED),
                "demonstrated": nothing.masked_scatter(mask, own / demonstrated),
                "observed": nothing.masked_scatter(mask, (1 - own) * observation_weight / observed),
            }
        )
    return rows


def portions(rows: list[Row], max_tokens: int) -> list[list[Row]]:
    """Consecutive rows in micro-batches of at most ``max_tokens`` tokens, padding included, and at least one row."""
    portions: list[list[Row]] = []
    for row in rows:
        longest = max(len(r["input_ids"]) for r in [*(portions[-1] if portions else []), row])
        if portions and longest * (len(portions[-1]) + 1) <= max_tokens:
            portions[-1].append(row)
        else:
            portions.append([row])
    return portions


def padded(rows: list[Row], device: torch.device) -> Row:
    """Rows in one batch, ``[rows, tokens]`` each."""
    return {
        name: pad_sequence(
            [row[name] for row in rows], batch_first=True, padding_value=IGNORED if name == "labels" else 0
        ).to(device)
        for name in rows[0]
    }


if __name__ == "__main__":
    sys.exit(main(run))
