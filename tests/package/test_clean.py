"""The wheel in clean virtual environments, installed by pip as a user would. Downloads gigabytes.

``TORCH_VERSIONS`` names the releases of torch, oldest first; any build that the index has serves.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

pytestmark = pytest.mark.longer
ROOT = Path(__file__).parents[2]
TORCH = os.environ.get("TORCH_VERSIONS", "2.5.0 2.14.1").split()
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
PAGE = (ROOT / "docs/package.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (file,) = folder.glob("*.whl")
    return file


class Clean:
    """A virtual environment of its own."""

    def __init__(self, folder: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        self.folder, self.python = folder, str(folder / "bin/python")

    def pip(self, *arguments: str) -> None:
        done = subprocess.run(
            [self.python, "-m", "pip", "install", "--quiet", *arguments], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]

    def run(self, code: str) -> str:
        env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        done = subprocess.run(
            [self.python, "-c", code], cwd=self.folder, env=env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    @property
    def packages(self) -> set[str]:
        listed = subprocess.run(
            [self.python, "-m", "pip", "list", "--format=json"], capture_output=True, text=True, check=True
        )
        return {entry["name"].lower() for entry in json.loads(listed.stdout)}


def examples() -> list[tuple[str, str]]:
    """The examples of docs/package.md and what they print."""
    return re.findall(r"^```python\n(.*?)^```\n\n```text\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("version", TORCH)
def test_the_base_with_an_old_and_a_new_torch(wheel: Path, tmp_path: Path, version: str):
    clean = Clean(tmp_path / "venv")
    clean.pip(f"torch=={version}")
    before = clean.packages
    clean.pip(str(wheel))
    assert clean.packages - before == {"empg"}
    for code, shown in examples():
        assert clean.run(code) == shown
    assert clean.run("import torch; print(torch.__version__)").startswith(version)


ENVIRONMENTS = """
import sys
from pathlib import Path
from empg.config import ENVIRONMENTS
from empg.environments import data
from empg.environments.datasets import open_dataset
for name in ENVIRONMENTS:
    splits = ("train", "tune", *ENVIRONMENTS[name].panels)
    config = ENVIRONMENTS[name].data.model_validate({"sizes": dict.fromkeys(splits, 2)})
    data.run(config, Path(name))
    dataset = open_dataset(config, Path(name))
    episode = dataset.arena(3).make()
    assert episode.reset(dataset.tasks("train")[0])
    assert episode.step("look").observation
    print(name)
assert "torch" not in sys.modules
"""


def test_the_environments_without_torch(wheel: Path, tmp_path: Path):
    """The recipe of docs/package.md, word by word."""
    clean = Clean(tmp_path / "venv")
    (recipe,) = re.findall(r"```sh\npip install --no-deps empg\npip install (.*)\n```", PAGE)
    clean.pip("--no-deps", str(wheel))
    clean.pip(*re.findall(r'"([^"]+)"', recipe))
    assert clean.run(ENVIRONMENTS).split() == ["alfworld", "deepsearch", "webshop"]
    assert "torch" not in clean.packages


TRL = """
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM
from trl import GRPOConfig
from empg.integrations.trl import EMPGTrainer

words = Tokenizer(models.WordLevel({"<pad>": 0, "<end>": 1, "go": 2, "to": 3}, unk_token="<pad>"))
words.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<end>")
sizes = dict(vocab_size=8, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
model = Qwen2ForCausalLM(Qwen2Config(num_key_value_heads=1, bos_token_id=None, eos_token_id=1, pad_token_id=0, **sizes))
config = GRPOConfig("out", use_cpu=True, bf16=False, num_generations=4, per_device_train_batch_size=8, max_steps=1,
                    max_completion_length=6, report_to="none", save_strategy="no")
trainer = EMPGTrainer(model, args=config, train_dataset=Dataset.from_list([{"prompt": "go"}, {"prompt": "to"}]),
                      reward_funcs=lambda completion_ids, **_: [float(len(i)) for i in completion_ids],
                      processing_class=tokenizer)
trainer.train()
print("steps", trainer.state.log_history[-1]["empg/steps"])
"""


def test_trl(wheel: Path, tmp_path: Path):
    clean = Clean(tmp_path / "venv")
    clean.pip("torch==2.13.0")
    clean.pip(f"{wheel}[trl]")
    assert "steps 8.0" in clean.run(TRL)
    assert not {"polars", "mlflow", "snakemake"} & clean.packages
