"""Trains a tiny Qwen2 with the real TRL on a toy task of several turns, and checks every batch against plain code.

``python toy.py OUT CASE…`` on one process, ``torchrun … toy.py OUT CASE…`` on several. The first process leaves
``OUT/CASE.json`` of each case and ``OUT/CASE.pt``, the trained weights.

The plain code runs every row alone and unpadded through the model's ordinary forward, takes the entropies from the
logits, finds the steps token by token, and calls ``modulate`` with all rows of all processes.
"""

from __future__ import annotations

import json
import sys
from itertools import groupby
from pathlib import Path

import torch
from accelerate.utils import gather_object
from datasets import Dataset
from peft import LoraConfig
from torch import Tensor
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM
from trl import GRPOConfig

from empg import modulate
from empg.integrations.trl import EMPGTrainer
from empg.policy.tokenizer import train_tokenizer

TURNS, TURN_TOKENS, OBSERVATION = 3, 5, [20, 21, 22]
STRENGTHS = {"k": 0.8, "k_future": 1.2, "zeta": 0.1}
TEMPERATURE = 0.9
PROMPTS = ("go", "to", "shelf", "on", "at", "in", "by", "up", "a", "be", "cat", "dog", "eve", "fig", "gum", "hut")
EQUAL = ("shelf", "on", "at")
BASE = {
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 2,
    "num_generations": 4,
    "max_completion_length": 64,
    "max_steps": 2,
    "learning_rate": 3e-3,
    "temperature": TEMPERATURE,
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": "none",
    "use_cpu": True,
    "bf16": False,
    "disable_tqdm": True,
    "seed": 3,
}
# Case → settings of GRPOConfig; names in capitals are this module's.
CASES = {
    "grpo": {"loss_type": "grpo"},
    "dapo": {"loss_type": "dapo"},
    "dr_grpo": {"loss_type": "dr_grpo"},
    "cispo": {"loss_type": "cispo", "epsilon_high": 5.0},
    "sapo": {"loss_type": "sapo"},
    "bonus": {"loss_type": "grpo", "SCALE": False},
    "beta": {"loss_type": "dapo", "beta": 0.1},
    "updates": {
        "loss_type": "grpo",
        "num_iterations": 2,
        "gradient_accumulation_steps": 1,
        "steps_per_generation": 2,
        "max_steps": 8,
    },
    "updates_dapo": {"loss_type": "dapo", "steps_per_generation": 4, "max_steps": 4},
    "drop": {"loss_type": "dapo", "DROP": True},
    "lora": {"loss_type": "dapo", "LORA": True, "learning_rate": 1e-2},
    "lora_beta": {"loss_type": "dapo", "beta": 0.1, "LORA": True, "num_iterations": 2},
    "evaluation": {"loss_type": "grpo", "eval_strategy": "steps", "eval_steps": 1, "per_device_eval_batch_size": 4},
    "whole": {"loss_type": "grpo", "max_steps": 4},
    "saved": {"loss_type": "grpo", "max_steps": 4, "save_strategy": "steps", "save_steps": 2, "RESUME": True},
    "saved_lora": {"loss_type": "grpo", "max_steps": 4, "save_strategy": "steps", "save_steps": 2, "LORA": True},
}


def reward(prompts: list[str], completion_ids: list[list[int]], **_: object) -> list[float]:
    """1 for more even ids than odd ones; always 0 for some prompts, whose groups so have equal rewards."""
    even = [sum(i % 2 == 0 for i in ids) > len(ids) / 2 for ids in completion_ids]
    return [float(more and prompt not in EQUAL) for prompt, more in zip(prompts, even, strict=True)]


def play(prompts: list, trainer: EMPGTrainer) -> dict[str, list]:
    """Turns of sampled tokens with an observation between two of them; rows have different numbers of turns."""
    first = [list(trainer.processing_class.encode(prompt)) for prompt in prompts]
    ids, masks = [list(row) for row in first], [[] for _ in first]
    for turn in range(TURNS):
        rows = [i for i in range(len(ids)) if turn <= i % TURNS]
        if not rows:
            break
        if turn:
            for i in rows:
                ids[i] += OBSERVATION
                masks[i] += [0] * len(OBSERVATION)
        sampled, _ = trainer._generate_single_turn([ids[i] for i in rows], None, {}, 1)
        for i, new in zip(rows, sampled, strict=True):
            ids[i] += new[:TURN_TOKENS]
            masks[i] += [1] * len(new[:TURN_TOKENS])
    completions = [row[len(start) :] for row, start in zip(ids, first, strict=True)]
    return {"prompt_ids": first, "completion_ids": completions, "logprobs": None, "env_mask": masks}


class Checked(EMPGTrainer):
    """Compares each batch with plain code."""

    differences: list[float]
    steps: list[int]

    def _generate_and_score_completions(self, inputs):
        model = self.accelerator.unwrap_model(self.model)
        batch = super()._generate_and_score_completions(inputs)
        if not self.model.training:
            assert batch["advantages"].dim() == 1, "evaluation keeps TRL's advantages"
            return batch
        rows = gather_object([plain_row(model, batch, row) for row in range(len(inputs))])
        rewards = self._group_rewards.sum(dim=1)
        expected = plain_advantages(rows, rewards, self._drop_equal, self.scale)
        first = self.accelerator.process_index * len(inputs)
        difference = 0.0
        for row in range(len(inputs)):
            found = batch["advantages"][row][: len(expected[first + row])].double()
            difference = max(difference, float((found - expected[first + row]).abs().max()))
            assert not batch["advantages"][row][len(expected[first + row]) :].any()
        self.differences += gather_object([difference])
        self.steps.append(sum(len(runs(mask)) for mask, _ in rows))
        return batch


def runs(mask: list[int]) -> list[list[int]]:
    """The positions of each run of ones."""
    return [list(run) for sampled, run in groupby(range(len(mask)), key=mask.__getitem__) if sampled]


@torch.no_grad()
def plain_row(model, batch, row: int) -> tuple[list[int], list[float]]:
    """The mask of the row's completion and its entropies, from the ordinary forward of the row alone."""
    prompt = batch["prompt_ids"][row][batch["prompt_mask"][row].bool()]
    completion = batch["completion_ids"][row][batch["completion_mask"][row].bool()]
    logits = model(input_ids=torch.cat([prompt, completion])[None]).logits[0, len(prompt) - 1 : -1]
    entropy = torch.distributions.Categorical(logits=logits.double() / TEMPERATURE).entropy()
    mask = [int(i % (TURN_TOKENS + len(OBSERVATION)) < TURN_TOKENS) for i in range(len(completion))]
    assert (completion[[i for i, bit in enumerate(mask) if not bit]].tolist()) == OBSERVATION * (mask.count(0) // 3)
    return mask, entropy.tolist()


def plain_advantages(rows: list, rewards: Tensor, drop: bool, scale: bool) -> list[Tensor]:
    """The advantages of all rows' tokens: TRL's outcome advantages, steps found token by token, ``modulate``."""
    groups = rewards.double().view(-1, BASE["num_generations"])
    outcome = ((groups - groups.mean(1, keepdim=True)) / (groups.std(1, keepdim=True) + 1e-4)).flatten()
    equal = (groups.amax(1) == groups.amin(1)).repeat_interleave(BASE["num_generations"])
    kept = [i for i in range(len(rows)) if not (drop and equal[i])]
    steps = [(i, run) for i in kept for run in runs(rows[i][0])]
    result = [torch.zeros(len(mask), dtype=torch.float64) for mask, _ in rows]
    if not steps:
        return result
    entropy = torch.tensor([sum(rows[i][1][t] for t in run) / len(run) for i, run in steps], dtype=torch.float64)
    owner = torch.tensor([kept.index(i) for i, _ in steps])
    modulation = modulate(outcome[kept], entropy, owner, scale=scale, **STRENGTHS)
    for value, (i, run) in zip(modulation.advantage, steps, strict=True):
        result[i][run] = value
    return result


def make_model(folder: Path) -> None:
    """A tiny Qwen2 with random weights, large enough that entropies vary; words of one byte."""
    torch.manual_seed(0)
    tokenizer = train_tokenizer(["go to shelf 1"], 262)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    special = {"bos_token_id": None, "eos_token_id": 2, "pad_token_id": 0}
    config = Qwen2Config(vocab_size=300, num_key_value_heads=2, max_position_embeddings=256, **sizes, **special)
    model = Qwen2ForCausalLM(config)
    with torch.no_grad():
        model.model.embed_tokens.weight.mul_(12)
        model.lm_head.weight.mul_(60)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def make_trainer(folder: Path, out: Path, case: str) -> Checked:
    """The trainer of a case."""
    from transformers import AutoTokenizer

    settings = BASE | CASES[case]
    own = {name: settings.pop(name) for name in list(settings) if name.isupper()}
    rows = Dataset.from_list([{"prompt": word} for word in PROMPTS])
    trainer = Checked(
        AutoModelForCausalLM.from_pretrained(folder),
        reward_funcs=reward,
        args=GRPOConfig(str(out / case), **settings),
        train_dataset=rows,
        eval_dataset=rows if case == "evaluation" else None,
        processing_class=AutoTokenizer.from_pretrained(folder),
        peft_config=LoraConfig(r=4, target_modules=["q_proj", "v_proj"]) if own.get("LORA") else None,
        rollout_func=play,
        drop_equal=own.get("DROP", False),
        scale=own.get("SCALE", True),
        **STRENGTHS,
    )
    trainer.scale = own.get("SCALE", True)
    trainer.differences, trainer.steps = [], []
    trainer.generation_config.max_new_tokens = trainer.generation_config.min_new_tokens = TURN_TOKENS
    return trainer


def run(folder: Path, out: Path, case: str, resume: Path | None = None) -> None:
    """Train a case and write what came of it."""
    trainer = make_trainer(folder, out, case)
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters() if p.requires_grad}
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    after = {name: p.detach() for name, p in trainer.model.named_parameters() if p.requires_grad}
    name = f"{case}_resumed" if resume else case
    if trainer.accelerator.is_main_process:
        torch.save(after, out / f"{name}.pt")
        result = {
            "processes": trainer.accelerator.num_processes,
            "differences": trainer.differences,
            "steps": trainer.steps,
            "moved": sum(float((after[key] - before[key]).norm()) for key in after),
            "log": trainer.state.log_history,
        }
        (out / f"{name}.json").write_text(json.dumps(result))
    trainer.accelerator.wait_for_everyone()


def main(out: Path, cases: list[str]) -> None:
    """Train the cases; ``saved`` also from its checkpoint after half of the steps."""
    folder = out / "model"
    for case in cases:
        run(folder, out, case)
        if case.startswith("saved"):
            run(folder, out, case, out / case / "checkpoint-2")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
