"""The training step beside TRL's ``GRPOTrainer``, and with shared beginnings beside without.

TRL replays the recorded conversations through its ``rollout_func``, so that a step of its ``train()`` has no sampling:
it pads, scores with the reference, takes the gradient and makes the optimiser step. Our step has the same parts:
credit, reference, gradient, optimiser. TRL has one micro-batch of all conversations, which was its fastest.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.measure import DefaultStudy, Line, in_turns, times
from empg.config import TrainRun, train_run
from empg.policy.packing import Conversation
from empg.policy.policy import Policy
from empg.rollouts.episodes import Trajectory
from empg.training.credit import credit_batch
from empg.training.optimiser import Optimiser
from empg.training.update import TokenBatch, accumulate_gradients, token_batch, update

CPU = torch.device("cpu")
KL_COEF = 0.01
REPEATS = 5


class OurStep:
    """One update on a batch, from trajectories to new weights."""

    def __init__(self, config: TrainRun, model: Path) -> None:
        self.network, self.reference = (Policy.load(model, config.system).network for _ in range(2))
        self.config, self.method = config, config.method.model_copy(update={"kl_coef": KL_COEF})
        self.optimiser = Optimiser(self.network, config.train.optimiser)

    def batch(self, trajectories: list[Trajectory]) -> TokenBatch:
        """The batch with its advantages."""
        credit = credit_batch(trajectories, self.method, self.config.sampling.max_response, self.config.train.reward)
        return token_batch(trajectories, credit.token_advantage, self.method.aggregation, CPU)

    def __call__(self, trajectories: list[Trajectory]) -> None:
        update(
            self.network,
            self.reference,
            self.optimiser,
            self.batch(trajectories),
            self.method,
            temperature=self.config.sampling.temperature,
            micro_batch_tokens=self.config.train.micro_batch_tokens,
            lr_factor=1e-3,  # the weights stay those that sampled, about
        )

    def gradient(self, batch: TokenBatch) -> None:
        """The gradient of the policy and the forward pass of the reference, without an optimiser step."""
        self.network.zero_grad()
        accumulate_gradients(
            self.network,
            self.reference,
            batch,
            self.method,
            temperature=self.config.sampling.temperature,
            micro_batch_tokens=self.config.train.micro_batch_tokens,
        )


def replayed(trajectories: list[Trajectory]) -> dict[str, Any]:
    """What a ``rollout_func`` gives: token ids, and which of them the policy sampled."""
    rows = [[part for s in t.steps for part in (s.prompt_ids, s.response_ids)] for t in trajectories]
    return {
        "prompt_ids": [row[0].tolist() for row in rows],
        "completion_ids": [[i for part in row[1:] for i in part.tolist()] for row in rows],
        "env_mask": [[j % 2 for j, part in enumerate(row) if j for _ in part] for row in rows],
        "logprobs": None,
    }


def against_trl(study: DefaultStudy) -> list[Line]:
    """Tokens that the policy sampled and trains on, per CPU second, on ALFWorld's recorded batches."""
    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    config = train_run(study.study, dict(study.data_sets), "alfworld", study.study.baseline, study.study.seeds[0])
    batches, model = study.batches("alfworld"), study.model("alfworld")
    trajectories, step = list(batches.values()), OurStep(config, model)
    rows = [replayed(batch) for batch in trajectories]
    taken = np.zeros((2, 1 + REPEATS, len(rows)))  # ours and theirs

    class Turns(TrainerCallback):
        """Measures TRL's step, then makes and measures ours."""

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.start = time.process_time()

        def on_step_end(self, _: Any, state: Any, *__: Any, **___: Any) -> None:
            ended = time.process_time()
            turn, number = divmod(state.global_step - 1, len(rows))
            step(trajectories[number])
            taken[:, turn, number] = time.process_time() - ended, ended - self.start
            self.start = time.process_time()

    with tempfile.TemporaryDirectory() as folder:
        settings = GRPOConfig(
            folder,
            num_generations=config.train.group_size,
            max_completion_length=config.sampling.max_context,
            per_device_train_batch_size=config.train.groups * config.train.group_size,
            beta=KL_COEF,
            loss_type="grpo",
            max_steps=taken[0].size,
            shuffle_dataset=False,
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=True,
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
        )
        trainer = GRPOTrainer(
            AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32),
            reward_funcs=lambda completions, **_: [
                t.reward for t in trajectories[trainer.state.global_step % len(rows)]
            ],
            args=settings,
            train_dataset=Dataset.from_list([{"prompt": str(group)} for group in range(config.train.groups)]),
            processing_class=AutoTokenizer.from_pretrained(model),
            rollout_func=lambda _, trainer: rows[trainer.state.global_step % len(rows)],
            callbacks=[Turns()],
        )
        trainer.train()
    ours, theirs = taken[:, 1:]
    tokens = [sum(len(s.response_ids) for t in batch for s in t.steps) for batch in trajectories]
    return [
        Line(
            f"training step, {len(batch)} ALFWorld conversations, {name} iteration (tokens per CPU second)",
            f"{n / np.median(ours[:, i]):,.0f}",
            f"TRL's GRPOTrainer {n / np.median(theirs[:, i]):,.0f}",
            times(theirs[:, i], ours[:, i]),
            target=3.0,
        )
        for i, ((name, batch), n) in enumerate(zip(batches.items(), tokens, strict=True))
    ]


def apart(batch: TokenBatch) -> TokenBatch:
    """The same conversations, each with another first token: none has a beginning in common with another."""
    conversations = [
        Conversation(np.concatenate([[number], c.ids[1:]]).astype(np.int32), c.mask)
        for number, c in enumerate(batch.conversations)
    ]
    return TokenBatch(conversations, batch.old_logprob, batch.advantage, batch.weight)


def against_no_sharing(study: DefaultStudy) -> Iterator[Line]:
    """The gradient and the reference's pass of each environment's recorded batches, with shared beginnings."""
    for environment, target in (("alfworld", 1.25), ("webshop", 1.1), ("deepsearch", 1.25)):
        seed, method = study.study.seeds[0], study.study.baseline
        config = train_run(study.study, dict(study.data_sets), environment, method, seed)
        step = OurStep(config, study.model(environment))
        for name, trajectories in study.batches(environment).items():
            shared = step.batch(trajectories)
            sides = {"with": shared, "without": apart(shared)}
            taken = in_turns({side: partial(step.gradient, batch) for side, batch in sides.items()}, REPEATS)
            tokens = sum(len(c.ids) for c in shared.conversations)
            yield Line(
                f"gradient with shared beginnings, {environment}, {name} iteration (tokens per CPU second)",
                f"{tokens / np.median(taken['with']):,.0f}",
                f"without {tokens / np.median(taken['without']):,.0f}",
                times(taken["without"], taken["with"]),
                target=target if name == "middle" else None,
            )
