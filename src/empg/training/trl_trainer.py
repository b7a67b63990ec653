"""TRL's ``GRPOTrainer`` on the batches, credit and loss of this package. Each process of a run has one.

What TRL and `accelerate` give: processes and sharding, the optimiser and its checkpoints, the head that never holds
all logits, adapters, the reference. What stays ours: episodes, advantages over the whole batch, the weight of each
token. So a method means the same in both engines.

Tested with TRL 1.16, whose inside this module uses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from accelerate.utils import is_peft_model
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.optim.lr_scheduler import LambdaLR
from trl import GRPOTrainer
from trl.trainer.utils import use_adapter

from empg.config import TrainRun
from empg.core.loss import clipped_tokens, entropy_bonus, kl_k3, policy_loss
from empg.environments.prompts import turns_apart
from empg.errors import DivergenceError
from empg.processes.rank import joined, share
from empg.rollouts.episodes import Episode, Trajectory
from empg.rollouts.sampler import Sampler
from empg.training.credit import Credit
from empg.training.metrics import Metrics
from empg.training.optimiser import learning_rate_factor
from empg.training.update import minibatches, token_batch

IGNORED = -100  # the label of a token that no process sampled
Micro = dict[str, Tensor]


class Shared:
    """Plays episodes in all processes, each a share of them. Every process gets all trajectories, in order."""

    def __init__(self, sampler: Sampler, index: int, count: int) -> None:
        self.sampler, self.index, self.count = sampler, index, count

    def play(self, episodes: Sequence[Episode], /) -> list[Trajectory]:
        return joined(self.sampler.play(share(episodes, self.index, self.count)))


class StudyTrainer(GRPOTrainer):
    """The updates of a training run.

    Args:
        run: its settings.
        collect: the trajectories of an iteration and their credit, from its number; the same in every process.
        ended: gets the number of an iteration that has ended, and the means of its updates' metrics.
        micro_rows: conversations in a micro-batch of a process.

    All other arguments are those of ``GRPOTrainer``. Raises :class:`~empg.errors.DivergenceError` for a loss or a
    gradient that is not finite, before a checkpoint is written.
    """

    loss_is_scaled_for_ga = True

    def __init__(
        self,
        *args: Any,
        run: TrainRun,
        collect: Callable[[int], tuple[list[Trajectory], Credit]],
        ended: Callable[[int, Metrics], None],
        micro_rows: int,
        **kwargs: Any,
    ) -> None:
        self.run, self.collect, self.ended, self.micro_rows = run, collect, ended, micro_rows
        self._queue: list[Micro] = []
        self._updates: list[dict[str, float]] = []
        super().__init__(*args, **kwargs)
        self._sums = torch.zeros(4, dtype=torch.float64, device=self.accelerator.device)

    def get_decay_parameter_names(self, model: Any) -> list[str]:
        """All parameters: transformers leaves out biases and norms, which the native engine decays too."""
        return [name for name, _ in model.named_parameters()]

    # ------------------------------------------------------------------------------------------------------- batches
    def get_train_dataloader(self) -> Any:
        """As many placeholders as there are micro-batches; :meth:`_prepare_inputs` makes what is trained on."""
        count = self.args.max_steps * self.args.gradient_accumulation_steps
        return torch.utils.data.DataLoader(range(count), batch_size=1, collate_fn=lambda _: {})  # type: ignore[arg-type]

    def _prepare_inputs(self, placeholder: Any) -> Micro:
        if not self._queue:
            self.model.eval()
            iteration = self.state.global_step // self.run.train.updates
            kept, credit = self.collect(iteration)
            self.model.train()
            for part, advantage in minibatches(kept, credit.token_advantage, self.run.train.updates):
                self._queue += self._micro_batches(part, advantage)
        return self._queue.pop(0)

    def _micro_batches(self, part: list[Trajectory], advantage: Tensor) -> list[Micro]:
        """This process's share of an update, in as many micro-batches as every other process has.

        Weights are those of the whole update. Where there is nothing left, a row without a target fills the place.
        """
        aggregation, apart = self.run.method.aggregation, turns_apart(self.run.interface)
        batch = token_batch(part, advantage, aggregation, torch.device("cpu"), apart=apart)
        sizes = [int(c.mask.sum()) for c in batch.conversations]
        columns = (torch.split(x, sizes) for x in (batch.old_logprob, batch.advantage, batch.weight))
        rows = [
            _row(torch.from_numpy(c.ids).long(), torch.from_numpy(c.mask), values)
            for c, *values in zip(batch.conversations, *columns, strict=True)
        ]
        own = rows[self.accelerator.process_index :: self.accelerator.num_processes]
        filler = {**rows[0], "labels": torch.full_like(rows[0]["labels"], IGNORED)}
        micro = [
            own[first : first + self.micro_rows] or [filler]
            for first in range(0, self.args.gradient_accumulation_steps * self.micro_rows, self.micro_rows)
        ]
        return [self._padded(chosen) for chosen in micro]

    def _padded(self, rows: list[Micro]) -> Micro:
        padding = {"labels": IGNORED}
        batch = {
            name: pad_sequence([row[name] for row in rows], batch_first=True, padding_value=padding.get(name, 0))
            for name in rows[0]
        }
        return {name: tensor.to(self.accelerator.device) for name, tensor in batch.items()}

    # ------------------------------------------------------------------------------------------------------- the loss
    def _statistics(self, model: Any, batch: Micro) -> tuple[Tensor, Tensor | None]:
        """Log-probabilities and entropies (nats) of the sampled tokens, ``[tokens]``."""
        with self.accelerator.autocast():
            output = model(
                input_ids=batch["input_ids"],
                attention_mask=batch["attention_mask"],
                labels=batch["labels"],
                fused_lm_head=True,
            )
        sampled = batch["labels"][:, 1:] != IGNORED
        entropy = None if output.entropy is None else output.entropy[sampled].float()
        return output.log_probs[sampled].float(), entropy

    @torch.no_grad()
    def _reference(self, batch: Micro) -> Tensor:
        """Log-probabilities under the warm start."""
        adapted = is_peft_model(self.accelerator.unwrap_model(self.model))
        with use_adapter(self.accelerator.unwrap_model(self.model), None) if adapted else nullcontext():
            logprob, _ = self._statistics(self.model if adapted else self.ref_model, batch)
        return logprob

    def _compute_loss(self, model: Any, inputs: Micro) -> Tensor:
        """The loss of a micro-batch, as :func:`empg.training.update.accumulate_gradients` has it.

        Gradients of processes are averaged, so the loss is multiplied by their number.
        """
        method = self.run.method
        sampled = inputs["labels"] != IGNORED
        old, advantage, weight = (inputs[name][sampled] for name in ("old", "advantage", "weight"))
        logprob, entropy = self._statistics(model, inputs)
        assert entropy is not None
        clip = {"clip_low": method.clip_low, "clip_high": method.clip_high}
        loss = policy_loss(logprob, old, advantage, weight, **clip)
        kl = torch.zeros((), device=loss.device)
        if method.kl_coef > 0:
            kl = (weight * kl_k3(logprob, self._reference(inputs))).sum()
            loss = loss + method.kl_coef * kl
        if method.entropy_coef:
            loss = loss + entropy_bonus(entropy, weight, coef=method.entropy_coef)
        clipped = clipped_tokens(logprob, old, advantage, **clip).sum()
        parts = (loss, kl, clipped, torch.tensor(len(old), device=loss.device))
        self._sums += torch.stack([part.detach().double() for part in parts])
        processes: int = self.accelerator.num_processes
        return loss * processes

    # ---------------------------------------------------------------------------------------------------- the schedule
    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The native engine's: the learning rate is constant and falls to 0 over the last share of iterations."""
        train = self.run.train

        def factor(step: int) -> float:
            return learning_rate_factor(step // train.updates / train.iterations, warmup=0.0, decay=train.decay)

        self.lr_scheduler = LambdaLR(optimizer or self.optimizer, factor)
        return self.lr_scheduler

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Called after each update, by every process."""
        if "grad_norm" not in logs:  # the summary at the end
            return
        loss, kl, clipped, tokens = self.accelerator.reduce(self._sums, reduction="sum").tolist()
        self._sums.zero_()
        self._metrics["train"].clear()
        norm = float(logs["grad_norm"])
        if not np.isfinite(loss + norm):
            raise DivergenceError(f"update: expected a finite loss and gradient norm, found {loss} and {norm}")
        self._updates.append({"loss": loss, "kl": kl, "clip_fraction": clipped / tokens, "grad_norm": norm})
        if len(self._updates) == self.run.train.updates:
            means: Metrics = {name: float(np.mean([u[name] for u in self._updates])) for name in self._updates[0]}
            if self.run.method.kl_coef == 0:
                means["kl"] = None
            self._updates = []
            self.ended(self.state.global_step // self.run.train.updates - 1, means)

    def floating_point_ops(self, inputs: Any) -> int:
        """Not counted."""
        return 0


def _row(ids: Tensor, mask: Tensor, values: Sequence[Tensor]) -> Micro:
    """A conversation, ``[tokens]`` each; what belongs to sampled tokens is 0 elsewhere."""
    row = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "labels": torch.where(mask, ids, IGNORED),
    }
    for name, value in zip(("old", "advantage", "weight"), values, strict=True):
        row[name] = torch.zeros(len(ids)).masked_scatter(mask, value)
    return row
