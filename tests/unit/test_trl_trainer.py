"""EMPGTrainer: what it refuses, and an episode of an environment of ours through TRL's own tool loop."""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path
from random import Random

import pytest
import torch
import trl
from datasets import Dataset
from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM
from trl import GRPOConfig

from empg.environments import data as data_stage
from empg.environments.alfworld.registration import AlfworldData
from empg.environments.datasets import open_dataset
from empg.integrations.trl import EMPGTrainer, environment, prompts
from empg.policy.tokenizer import train_tokenizer

# transformers tells TRL that two of its names are old.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")
QUIET = {"use_cpu": True, "bf16": False, "report_to": "none", "save_strategy": "no", "disable_tqdm": True}
TEMPLATE = Path(trl.__file__).parent / "chat_templates/qwen2_5.jinja"


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """A tiny network and its tokenizer, with the chat template of Qwen2.5."""
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(["go to shelf 1"], 262).save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = TEMPLATE.read_text()
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=8192,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    return Qwen2ForCausalLM(config), tokenizer


def make(parts, tmp_path, settings=None, **options):
    model, tokenizer = parts
    options = {"reward_funcs": lambda completions, **_: [0.0] * len(completions)} | options
    rows = options.pop("train_dataset", Dataset.from_list([{"prompt": "go"}] * 4))
    return EMPGTrainer(
        model,
        args=GRPOConfig(str(tmp_path), **(QUIET | {"gradient_checkpointing": False} | (settings or {}))),
        train_dataset=rows,
        processing_class=tokenizer,
        **options,
    )


@pytest.mark.parametrize(
    ("settings", "options", "message"),
    [
        ({"loss_type": "vespo"}, {}, "loss_type: expected any but vespo, which weighs a whole sequence"),
        ({"off_policy_mask_threshold": 0.5}, {}, "off_policy_mask_threshold: expected None, found 0.5; the mask"),
        ({}, {"k": -1.0}, "k: expected a finite number ≥ 0"),
        ({}, {"k_future": -1.0}, "k_future: expected a finite number ≥ 0"),
        ({}, {"zeta": float("nan")}, "zeta: expected a finite number"),
    ],
)
def test_what_cannot_work_is_refused_with_a_reason(parts, tmp_path, settings, options, message):
    with pytest.raises(ValueError, match=message):
        make(parts, tmp_path, settings, **options)


def test_the_asynchronous_trainer_is_refused(parts, tmp_path):
    from trl.experimental.async_grpo import AsyncGRPOConfig, AsyncGRPOTrainer  # warns unless it is silenced

    class Both(EMPGTrainer, AsyncGRPOTrainer):
        pass

    message = "asynchronous trainer, which takes one advantage for each sample"
    with pytest.raises(ValueError, match=message):
        EMPGTrainer(parts[0], args=AsyncGRPOConfig(str(tmp_path), use_cpu=True, bf16=False))
    with pytest.raises(ValueError, match=message):
        Both(parts[0])


class Scripted(EMPGTrainer):
    """Even rows play the expert's actions and close with a text; odd rows look once and close."""

    def _generate_single_turn(self, prompt_ids, images, multimodal_fields, num_generations, has_tool_images=False):
        if not hasattr(self, "turn"):
            self.turn, self.alive = 0, list(range(len(prompt_ids)))
        assert len(prompt_ids) == len(self.alive)
        texts, closing = [], set()
        for row in self.alive:
            actions = self.script[row]
            if self.turn < len(actions):
                call = json.dumps({"name": "act", "arguments": {"text": actions[self.turn]}})
                texts.append(f"<tool_call>\n{call}\n</tool_call>")
            else:
                texts.append("I am done.")
                closing.add(row)
        self.alive = [row for row in self.alive if row not in closing]
        self.turn += 1
        end = self.processing_class.eos_token_id
        return [[*self.processing_class.encode(text), end] for text in texts], None

    def _generate_and_score_completions(self, inputs):
        self.script = [self.plays[row["id"]] if i % 2 == 0 else ["look"] for i, row in enumerate(inputs)]
        self.batch = super()._generate_and_score_completions(inputs)
        return dict(self.batch)


def test_episodes_of_an_environment_in_the_tool_loop(parts, tmp_path):
    config = AlfworldData.model_validate({"sizes": {"train": 2, "valid_seen": 1, "valid_unseen": 1, "tune": 1}})
    data_stage.run(config, tmp_path / "data")
    dataset = open_dataset(config, tmp_path / "data")
    settings = {
        "num_generations": 2,
        "per_device_train_batch_size": 4,
        "max_completion_length": 6000,
        "max_steps": 1,
        "temperature": 0.7,
    }
    model, tokenizer = parts
    trainer = Scripted(
        model,
        args=GRPOConfig(str(tmp_path), **(QUIET | {"gradient_checkpointing": False} | settings)),
        train_dataset=prompts(dataset, system="You are in a household."),
        processing_class=tokenizer,
        environment_factory=environment(dataset),
    )
    trainer.plays = {
        number: [step.action for step in dataset.demonstrate(number, Random(0), max_steps=50)] for number in range(2)
    }
    trainer.train()
    assert trainer._group_rewards.flatten().tolist() == [1.0, 0.0, 1.0, 0.0]
    mask = (trainer.batch["completion_mask"] * trainer.batch["tool_mask"]).bool()
    for row, actions in enumerate(trainer.script):
        bits = mask[row].tolist()
        steps = [list(run) for sampled, run in groupby(range(len(bits)), key=bits.__getitem__) if sampled]
        assert len(steps) == len(actions) + 1  # the closing text is a step
        values = [{round(trainer.batch["advantages"][row][t].item(), 6) for t in step} for step in steps]
        assert all(len(value) == 1 for value in values)
        assert len(set.union(*values)) > 1
    assert not trainer.batch["advantages"][~mask].any()
    log = trainer.state.log_history[-1]
    assert log["empg/steps"] == sum(len(actions) + 1 for actions in trainer.script)
    assert log["tools/failure_frequency"] == 0
