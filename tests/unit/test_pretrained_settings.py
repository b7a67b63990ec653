"""A pretrained policy has defaults of its own, and what cannot work is refused with file, key, expected and found."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig

from empg.config import EnvironmentStudy, PretrainedPolicy, WarmStart, load_environments, load_study, parse
from empg.config.environments import ENVIRONMENTS
from empg.config.pretrained import DEFAULTS
from empg.environments.base import DemonstrationStep
from empg.environments.text import format_step
from empg.errors import ConfigError, DataError
from empg.policy import memory
from empg.policy.chat import Chat
from empg.policy.policy import Policy
from empg.policy.tokenizer import train_tokenizer
from empg.training.demonstrations import check_responses

ROOT = Path(__file__).parents[2]
DATA = {"alfworld": ENVIRONMENTS["alfworld"].data()}
PRETRAINED = {"type": "pretrained", "model": "maker/model"}


def settings(**keys: object) -> EnvironmentStudy:
    return parse(EnvironmentStudy, {"policy": PRETRAINED, **keys}, "here")


def read(tmp_path: Path, entry: dict[str, object]) -> EnvironmentStudy:
    """The entry as an environment of a study in a file, with the repository's bases."""
    study = {"seeds": [1], "methods": {"grpo": {"advantage": "grpo"}}, "environments": {"alfworld": entry}}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    bases = load_environments(ROOT / "config/environments.yaml")
    return load_study(tmp_path / "study.yaml", DATA, bases).environments["alfworld"]


def test_its_defaults_are_its_own_and_keys_replace_them_one_by_one():
    found = settings(train={"groups": 4, "optimiser": {"lr": 1e-5}}, sampling={"temperature": 0.7})
    dumped = found.model_dump()
    for section, values in DEFAULTS.items():
        for key, value in values.items():
            if (section, key) not in (("train", "groups"), ("train", "optimiser")):
                part = dumped[section][key]
                assert (part if not isinstance(value, dict) else {k: part[k] for k in value}) == value, (section, key)
    assert (found.train.groups, found.train.optimiser.lr, found.train.optimiser.muon_lr) == (4, 1e-5, 0.0)
    assert (found.sampling.temperature, found.sampling.max_response) == (0.7, 64)
    again = parse(EnvironmentStudy, json.loads(found.model_dump_json()), "here")
    assert again == found
    assert parse(EnvironmentStudy, {}, "here").warmstart == WarmStart()


def test_the_readme_lists_them():
    text = (ROOT / "config/README.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| (\w+) \| `(\w+: .*)` \|$", text, flags=re.MULTILINE))
    assert {name: yaml.safe_load("{" + row + "}") for name, row in rows.items()} == DEFAULTS


def test_a_base_made_for_another_policy_gives_the_environments_settings_alone(tmp_path):
    found = read(tmp_path, {"base": "alfworld", "policy": PRETRAINED, "train": {"groups": 4}})
    base = load_environments(ROOT / "config/environments.yaml")["alfworld"]
    assert (found.max_steps, found.zeta, found.evaluate) == (base.max_steps, base.zeta, base.evaluate)
    assert found.train == settings(train={"groups": 4}).train
    assert found.warmstart == settings().warmstart
    assert read(tmp_path, {"base": "alfworld", "policy": {"layers": 2}}).train == base.train


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"train": {"optimiser": {"muon_lr": 1e-3}}},
            "train.optimiser.muon_lr: expected 0 with policy.dtype bfloat16, found 0.001",
        ),
        (
            {"sampling": {"max_response": 512, "max_context": 512}},
            "sampling.max_response: expected less than max_context, 512, found 512",
        ),
        ({"policy": PRETRAINED | {"lora": {"rank": 0}}}, "policy.pretrained.lora.rank: "),
        ({"policy": PRETRAINED | {"dtype": "float16"}}, "policy.pretrained.dtype: "),
    ],
)
def test_settings_that_cannot_work_are_refused(keys, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        settings(**keys)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A whole model folder."""
    target = tmp_path / "model"
    tokenizer = train_tokenizer(["<think>go on</think><action>look</action> you see a mug 1."] * 3, 300)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=512, **sizes)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(target)
    tokenizer.save_pretrained(target)
    return target


def change(folder: Path, **keys: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | keys))


def entry(folder: Path, **keys: object) -> dict[str, object]:
    return {"policy": PRETRAINED | {"model": str(folder)}, "sampling": {"max_context": 512}, **keys}


def test_a_folder_is_looked_into_when_the_study_is_read(folder, tmp_path):
    assert read(tmp_path, entry(folder)).sampling.max_context == 512
    with pytest.raises(ConfigError, match=r"max_context: expected at most the 512 positions .* found 2048"):
        read(tmp_path, {"policy": PRETRAINED | {"model": str(folder)}})
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(ConfigError, match=f"{folder}: expected a chat template in .*, found none"):
        read(tmp_path, entry(folder))
    change(folder, model_type=None)
    with pytest.raises(ConfigError, match=r"config.json: model_type: expected a family of `transformers`, found none"):
        read(tmp_path, entry(folder))


def test_a_config_that_is_no_object_is_refused(folder, tmp_path):
    (folder / "config.json").write_text("7")
    with pytest.raises(ConfigError, match=r"config\.json: expected settings by name, found 7"):
        read(tmp_path, entry(folder))
    with pytest.raises(DataError, match=r"config\.json: expected settings by name, found 7"):
        Policy.load(folder, "")


def test_an_architecture_that_nobody_knows_is_refused(folder):
    change(folder, model_type="perceptron")
    with pytest.raises(
        DataError, match=r"config\.json: model_type 'perceptron': expected a causal .* found ValueError: The check"
    ):
        Policy.load(folder, "")


def test_a_tokenizer_of_another_vocabulary_is_refused(folder):
    words = train_tokenizer([f"word{n} thing{n} and on" for n in range(60)] * 3, 700)
    words.save_pretrained(folder)
    message = rf"{folder}: vocab_size: expected at least the tokenizer's {len(words)} tokens, found \d+ in the network"
    with pytest.raises(DataError, match=message):
        Policy.load(folder, "")


def test_a_foreign_family_with_missing_or_bad_weights_is_refused(folder):
    config = MistralConfig(
        **{k: v for k, v in json.loads((folder / "config.json").read_text()).items() if k != "model_type"}
    )
    config.tie_word_embeddings = False
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.save_pretrained(folder)
    assert Policy.load(folder, "").network.max_positions == 512
    with torch.no_grad():
        model.model.norm.weight[3] = float("nan")
    model.save_pretrained(folder)
    with pytest.raises(DataError, match=r"tensor model\.norm\.weight: expected finite numbers, found NaN"):
        Policy.load(folder, "")
    state = {name: tensor for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    model.save_pretrained(folder, state_dict=state)
    with pytest.raises(DataError, match=r"expected all of a mistral model's, found missing_keys \['lm_head.weight'\]"):
        Policy.load(folder, "")


def test_what_does_not_fit_into_memory_is_refused_with_the_numbers(folder, monkeypatch):
    sizes = memory.Sizes.of(folder)
    stored = sum(p.numel() for p in AutoModelForCausalLM.from_pretrained(folder).parameters())
    assert abs(sizes.parameters - stored) < 500  # the file's header
    policy = PretrainedPolicy.model_validate(PRETRAINED)
    parts = memory.update_bytes(sizes, policy, 2048, 512)
    whole = policy.model_copy(update={"gradient_checkpointing": False, "freeze_embeddings": False, "dtype": "float32"})
    assert sum(parts.values()) < sum(memory.update_bytes(sizes, whole, 2048, 512).values())
    monkeypatch.setattr(memory, "available", lambda: 2**20)
    message = r"warmstart: expected to fit into 0\.0 GiB of memory, found about 0\.\d GiB \(weights .*\); use less"
    with pytest.raises(ConfigError, match=message):
        memory.require("warmstart", {**parts, "activations": 2**28}, "use less")
    monkeypatch.undo()
    memory.require("warmstart", parts, "use less")


def test_an_answer_longer_than_a_response_is_refused():
    chat = Chat(train_tokenizer(["<think>a</think><action>b</action>"], 270), "", "here")
    steps = [
        DemonstrationStep("You see a shelf 1.", "look", "go to shelf 1", False),
        DemonstrationStep("x", "y", "z", True),
    ]
    lengths = [len(chat.agent(format_step(s.thought, s.action))) for s in steps]
    check_responses([steps], chat, format_step, max(lengths))
    message = f"sampling.max_response: expected at least the {max(lengths)} tokens of .*, found {max(lengths) - 1}"
    with pytest.raises(ConfigError, match=message):
        check_responses([steps], chat, format_step, max(lengths) - 1)
