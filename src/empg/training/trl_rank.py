"""One of the processes of a training run by TRL: ``python -m empg.training.trl_rank JOB``.

:mod:`empg.training.trl_launch` starts them. The first process writes the files of the stage. All of them end when the
process of the stage does.
"""

from __future__ import annotations

import math
import sys
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoTokenizer, TrainerCallback
from trl import GRPOConfig

from empg.config import PretrainedPolicy, TrainRun
from empg.environments.datasets import open_dataset
from empg.environments.prompts import turns_apart
from empg.files import atomic_directory
from empg.processes.job import COMPLETE, Job
from empg.processes.rank import check_count, main
from empg.rollouts.collect import make_sampler
from empg.rollouts.episodes import Trajectory
from empg.schema import CREDITED_STEPS, write_table
from empg.training.batches import Batches
from empg.training.credit import Credit
from empg.training.metrics import Metrics, batch_metrics
from empg.training.trl_policy import TrainedPolicy, sharded
from empg.training.trl_trainer import Shared, StudyTrainer
from empg.training.update import credit_of
from empg.training.writer import credited_table, rollouts_file


class Complete(TrainerCallback):
    """Marks a checkpoint that every process has written its part of."""

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        args.distributed_state.wait_for_everyone()
        if args.should_save:
            (Path(args.output_dir) / f"checkpoint-{state.global_step}" / COMPLETE).touch()


class Rank:
    """A process of the run: its share of the episodes, and, in the first one, the files."""

    def __init__(self, job: Job) -> None:
        config = job.config
        assert isinstance(config, TrainRun)
        self.job, self.config = job, config
        args = settings_of_trl(self.config, job.folder)
        check_count(config, args.world_size)
        assert isinstance(config.policy, PretrainedPolicy)
        self.policy = TrainedPolicy.load(
            config.policy,
            Path(job.model),
            config.system,
            sharded=sharded(args.deepspeed_plugin),
            device=str(args.device),
        )
        self.trainer = StudyTrainer(
            self.policy.model,
            reward_funcs=lambda completions, **_: [0.0] * len(completions),  # TRL wants one; credit is ours
            args=args,
            train_dataset=Dataset.from_list([{"prompt": ""}] * 2),  # TRL wants one; batches are ours
            processing_class=AutoTokenizer.from_pretrained(job.model),
            callbacks=[Complete()],
            run=self.config,
            collect=self.collect,
            ended=self.ended,
            micro_rows=micro_rows(self.config),
        )
        self.is_first = self.trainer.accelerator.is_main_process
        dataset = open_dataset(self.config.data, Path(job.data), self.config.interface)
        sampler = make_sampler(self.policy.played, self.config.sampling, dataset, self.config.max_steps)
        accelerator = self.trainer.accelerator
        shared = Shared(sampler, accelerator.process_index, accelerator.num_processes)
        self.batches = Batches.open(self.config, shared, dataset.tasks("train"), Path(job.rollouts))
        self.metrics: Metrics = {}
        self.clock: list[float] = []

    def collect(self, iteration: int) -> tuple[list[Trajectory], Credit]:
        """The trajectories of an iteration, from all processes, and their credit, which each computes for itself."""
        self.clock = [time.process_time()]
        self.policy.refresh(self.trainer.accelerator.unwrap_model(self.trainer.model_wrapped))
        collected = self.batches.collect(iteration)
        self.clock.append(time.process_time())
        credit = self.credit(collected.kept)
        self.metrics = batch_metrics(*collected, credit)
        if self.is_first:
            table = credited_table(iteration, iteration * self.config.train.updates, collected, credit)
            write_table(table, CREDITED_STEPS, Path(self.job.out) / rollouts_file(iteration))
        self.clock.append(time.process_time())
        return collected.kept, credit

    def credit(self, kept: list[Trajectory]) -> Credit:
        return credit_of(self.config, self.policy.played.network, kept)

    def ended(self, iteration: int, updates: Metrics) -> None:
        """An iteration has ended: add its line, with the CPU seconds of all processes."""
        start, collected, credited = self.clock
        accelerator = self.trainer.accelerator
        own = [collected - start, time.process_time() - credited, credited - collected]
        parts = torch.tensor(own, dtype=torch.float32, device=accelerator.device)
        seconds = dict(
            zip(("collect", "update", "write"), accelerator.reduce(parts, reduction="sum").tolist(), strict=True)
        )
        if self.is_first:
            self.job.ended({"iteration": iteration, **self.metrics, **updates}, seconds)

    def run(self) -> None:
        """Train, from the job's checkpoint if it has one, and write the model."""
        self.trainer.train(resume_from_checkpoint=self.job.resume or None)
        self.policy.refresh(self.trainer.accelerator.unwrap_model(self.trainer.model_wrapped))
        if self.is_first:
            with atomic_directory(Path(self.job.out) / "model") as folder:
                self.policy.played.save(folder)
        self.trainer.accelerator.wait_for_everyone()


def micro_rows(config: TrainRun) -> int:
    """Conversations in a micro-batch: as many as surely have ``micro_batch_tokens`` tokens, and one at least."""
    return max(1, config.train.micro_batch_tokens // config.sampling.max_context)


def settings_of_trl(config: TrainRun, folder: Path) -> GRPOConfig:
    """The stage's settings in TRL's words. What TRL would sample, score and group by is not used."""
    train, optimiser, policy = config.train, config.train.optimiser, config.policy
    assert isinstance(policy, PretrainedPolicy)
    rows = math.ceil(train.groups * train.group_size / train.updates)
    if turns_apart(config.interface):  # each turn may be a conversation
        rows *= config.max_steps
    rows = math.ceil(rows / config.processes)
    parts = math.ceil(rows / micro_rows(config))
    return GRPOConfig(
        str(folder),
        per_device_train_batch_size=2,
        num_generations=2,
        gradient_accumulation_steps=parts,
        steps_per_generation=parts * train.updates,
        max_steps=train.iterations * train.updates,
        learning_rate=optimiser.lr,
        adam_beta1=0.9,
        adam_beta2=0.95,
        weight_decay=optimiser.weight_decay,
        max_grad_norm=optimiser.max_grad_norm,
        temperature=config.sampling.temperature,
        beta=config.method.kl_coef if policy.lora is None else 0.0,  # without its adapters the policy is the reference
        bf16=policy.dtype == "bfloat16" and policy.lora is None,
        gradient_checkpointing=policy.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        disable_dropout=True,
        ddp_find_unused_parameters=False,
        save_steps=train.checkpoint_every * train.updates,
        save_total_limit=2,
        ignore_data_skip=True,
        logging_steps=1,
        logging_nan_inf_filter=False,
        report_to="none",
        disable_tqdm=True,
        seed=config.seed,
        use_cpu=not torch.cuda.is_available(),
    )


if __name__ == "__main__":
    sys.exit(main(lambda job: Rank(job).run()))
