"""What to run first on a GPU machine: every path of the pipeline for minutes, and what holds.

    make gpu-check                                  # a made-up model
    make gpu-check ARGS="--model models/smollm2"    # a real one: a folder or a hub id
    make gpu-check ARGS=--cpu                       # on a machine without a GPU: what can run there

Each path is a warm start, a collection, two training iterations and an evaluation of a small ALFWorld study, by the
stages' own commands. A line says what holds: the files are whole, losses finite, weights have moved, and the comparison
that belongs to the path. The folder given by --out keeps all of it, with a log for each command.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import polars as pl
import torch
import yaml
from safetensors.torch import load_file

from empg.config import (
    Method,
    PretrainedPolicy,
    Study,
    TinyPolicy,
    evaluate_run,
    parse,
    rollouts_run,
    train_run,
    warmstart_run,
)
from empg.config import Optimiser as OptimiserSettings
from empg.environments import data as data_stage
from empg.environments.alfworld.demonstrations import demonstrate
from empg.environments.alfworld.environment import AlfworldEnvironment
from empg.environments.alfworld.registration import AlfworldData
from empg.environments.alfworld.tasks import GeneratedGames
from empg.environments.text import format_step
from empg.files import read_json, write_json
from empg.policy.chat import Chat
from empg.policy.memory import GIB, Sizes, update_bytes
from empg.policy.packing import Conversation
from empg.policy.policy import Policy, fetch
from empg.policy.tokenizer import train_tokenizer
from empg.rollouts.vllm_server import DEFAULT_PYTHON, PYTHON
from empg.training import warmstart
from empg.training.optimiser import Optimiser
from empg.training.update import TokenBatch, update

SIZES = {"train": 8, "valid_seen": 2, "valid_unseen": 2, "tune": 2}
DATA = {"alfworld": AlfworldData.model_validate({"sizes": SIZES})}
SYSTEM = "You act in a house. Answer with <think>a thought</think><action>one action</action>."
MICRO_BATCH = 2048
FSDP = {
    "compute_environment": "LOCAL_MACHINE",
    "distributed_type": "FSDP",
    "mixed_precision": "no",
    "num_machines": 1,
    "fsdp_config": {
        "fsdp_version": 2,
        "fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
        "fsdp_state_dict_type": "FULL_STATE_DICT",
        "fsdp_reshard_after_forward": True,
    },
}


@dataclass(frozen=True, slots=True)
class Check:
    """The folder of the check, its model, and how many processes train together."""

    out: Path
    model: Path
    processes: int

    def study(self, policy: dict[str, Any], sampling: dict[str, Any], engine: dict[str, Any]) -> Study:
        """A study of two iterations."""
        environment = {
            "max_steps": 4,
            "system": SYSTEM,
            "policy": {"type": "pretrained", "model": str(self.model), **policy},
            "sampling": {"max_response": 96, "max_context": 1024, "rows": 16, **sampling},
            "warmstart": {"tokens": 4000, "batch_tokens": MICRO_BATCH, "micro_batch_tokens": MICRO_BATCH},
            "rollouts": {"tasks": 4},
            "train": {"iterations": 2, "groups": 4, "group_size": 4, "micro_batch_tokens": MICRO_BATCH},
            **engine,
        }
        methods = {"grpo_empg": {"advantage": "grpo", "modulation": "empg"}}
        study = {"baseline": "grpo_empg", "seeds": [1], "methods": methods, "environments": {"alfworld": environment}}
        return parse(Study, study, "gpu-check")

    def run(self, name: str, study: Study, warm: Path | None = None) -> Path:
        """The stages of a study by their commands; those before training are left out where ``warm`` has them."""
        folder = self.out / name
        start, model = warm or folder, (warm or folder) / "warmstart/model"
        if warm is None:
            self.stage("warmstart", folder, warmstart_run(study, DATA, "alfworld"))
            self.stage("rollouts", folder, rollouts_run(study, DATA, "alfworld"), model=model)
        run = train_run(study, DATA, "alfworld", "grpo_empg", 1)
        self.stage("train", folder, run, model=model, rollouts=start / "rollouts")
        panel = evaluate_run(study, DATA, "alfworld", "grpo_empg", 1)
        self.stage("evaluate", folder, panel, model=folder / "train/model")
        return folder

    def stage(self, name: str, folder: Path, config: Any, **paths: Path) -> None:
        """Run one; raises ``RuntimeError`` with its last line if it fails."""
        file, log = folder / f"{name}.json", folder / f"{name}.log"
        write_json(file, config.model_dump(mode="json"))
        paths |= {"config": file, "data": self.out / "data", "out": folder / name}
        command = [sys.executable, "-m", "empg", name]
        for option, path in paths.items():
            command += [f"--{option}", str(path)]
        with log.open("w") as written:
            done = subprocess.run(command, stdout=written, stderr=subprocess.STDOUT, check=False)
        if done.returncode:
            lines = log.read_text().splitlines() or ["no message"]
            raise RuntimeError(f"{name}: {lines[-1]} ({log})")


def made_up_model(folder: Path, width: int = 256) -> None:
    """A Qwen2 of random weights that speaks ALFWorld's words; heads of 64, as kernels of GPUs want them."""
    games = GeneratedGames("small", 0)
    (task,) = games.tasks("train", range(1))
    shown = demonstrate(AlfworldEnvironment(games, 20), task, Random(0))
    tokenizer = train_tokenizer(list(warmstart.texts(shown, SYSTEM, format_step)), 500)
    sizes = TinyPolicy(width=width, heads=width // 64, kv_heads=width // 128, layers=2, mlp_width=2 * width)
    folder.mkdir(parents=True)
    warmstart.tiny_policy(sizes, Chat(tokenizer, "", "gpu-check"), 0).save(folder)


# ------------------------------------------------------------------------------------------------------- what holds
def held(folder: Path) -> str:
    """Finite losses, gradients and credit, weights that moved; raises ``RuntimeError`` otherwise."""
    metrics = pl.read_parquet(folder / "train/metrics.parquet")
    for name in ("loss", "grad_norm"):
        if not metrics[name].is_finite().all():
            raise RuntimeError(f"{name}: expected finite numbers, found {metrics[name].to_list()}")
    tuned = pl.read_parquet(folder / "warmstart/metrics.parquet") if (folder / "warmstart").exists() else None
    first = "" if tuned is None else f"warm start {tuned['loss'][0]:.2f} → {tuned['loss'][-1]:.2f} nats; "
    seconds = {name: read_json(folder / name / "timing.json")["wall_seconds"] for name in ("train", "evaluate")}
    return f"{first}gradients {metrics['grad_norm'][0]:.3g}; train {seconds['train']:.0f} s"


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a model folder, in float64."""
    return {n: t.double() for file in sorted(folder.glob("*.safetensors")) for n, t in load_file(file).items()}


def distance(one: Path, other: Path, start: Path) -> str:
    """How far two trained models are apart, as a share of how far the first has moved."""
    a, b, s = (weights(folder) for folder in (one, other, start))
    apart = sum(float((a[n] - b[n]).square().sum()) for n in a) ** 0.5
    moved = sum(float((a[n] - s[n]).square().sum()) for n in a) ** 0.5
    if moved == 0:
        raise RuntimeError("weights: expected some that moved, found none")
    return "equal to the last bit" if apart == 0 else f"apart by {apart / moved:.1e} of the movement"


# ------------------------------------------------------------------------------------------------------------- paths
def paths(check: Check) -> Iterator[tuple[str, Callable[[], str]]]:
    """Every path: its name, and what runs it and says what holds."""
    exact = {"dtype": "float32"}
    trl = {"engine": "trl", "processes": check.processes}
    native = check.out / "float32"

    def path(name: str, policy: dict[str, Any], sampling: dict[str, Any], engine: dict[str, Any]) -> Callable[[], str]:
        return lambda: held(check.run(name, check.study(policy, sampling, engine)))

    def again() -> str:
        folder = check.run("again", check.study(exact, {}, {}), warm=native)
        return distance(native / "train/model", folder / "train/model", native / "warmstart/model")

    def as_trl() -> str:
        folder = check.run("trl_from_native", check.study(exact, {}, trl), warm=native)
        first = "train/rollouts/iteration_0000.parquet"
        if not pl.read_parquet(native / first).equals(pl.read_parquet(folder / first)):
            raise RuntimeError("expected the native engine's credit of the first batch, found another")
        return "credit equal, weights " + distance(
            native / "train/model", folder / "train/model", native / "warmstart/model"
        )

    def sharded() -> str:
        file = check.out / "fsdp2.yaml"
        file.write_text(yaml.safe_dump(FSDP | {"num_processes": check.processes}))
        return path("fsdp2", {}, {}, trl | {"accelerate": str(file)})()

    yield "native, float32", path("float32", exact, {}, {})
    yield "the same training again", again
    yield "native, bfloat16", path("bfloat16", {}, {}, {})
    yield "native, LoRA", path("lora", {"lora": {"rank": 8}}, {}, {})
    yield f"trl, {check.processes} processes, from the native warm start", as_trl
    yield f"trl, {check.processes} processes, bfloat16, all stages", path("trl_bfloat16", {}, {}, trl)
    yield f"trl, {check.processes} processes, LoRA, all stages", path("trl_lora", {"lora": {"rank": 8}}, {}, trl)
    if torch.cuda.is_available():
        yield "trl, FSDP2", sharded if check.processes > 1 else _not_run("needs two GPUs")
        yield "memory of an update", lambda: memory_of_an_update(check.model)
    else:
        yield "trl, FSDP2", _not_run("needs GPUs")
        yield "memory of an update", _not_run("needs a GPU")
    python = Path(os.environ.get(PYTHON, DEFAULT_PYTHON))
    yield (
        "vLLM",
        path("vllm", exact, {"engine": "vllm"}, {})
        if python.exists()
        else _not_run(f"no vLLM at {python}; docs/vllm.md"),
    )


class NotRunError(Exception):
    """A path that this machine cannot run; the text says why."""


def _not_run(why: str) -> Callable[[], str]:
    def refuse() -> str:
        raise NotRunError(why)

    return refuse


def memory_of_an_update(folder: Path) -> str:
    """The estimate of an update in bfloat16, and the peak that the GPU's allocator saw."""
    settings = PretrainedPolicy(type="pretrained", model=str(folder))
    torch.cuda.reset_peak_memory_stats()
    policy = Policy.load_pretrained(settings, folder, SYSTEM)
    length, device = MICRO_BATCH // 2, policy.network.device
    ids = torch.randint(len(policy.chat.tokenizer), (2, length), generator=torch.Generator().manual_seed(0))
    mask = torch.arange(length) % 2 == 1
    targets = 2 * int(mask.sum())
    old, advantage, weight = (torch.full((targets,), value, device=device) for value in (-5.0, 1.0, 1 / targets))
    conversations = [Conversation(row.int().numpy(), mask.numpy()) for row in ids]
    batch = TokenBatch(conversations, old, advantage, weight)
    method = Method.model_validate({"advantage": "grpo"})
    optimiser = Optimiser(policy.network, OptimiserSettings(muon_lr=0.0))
    rates = {"temperature": 1.0, "micro_batch_tokens": MICRO_BATCH, "lr_factor": 1.0}
    update(policy.network, None, optimiser, batch, method, **rates)
    estimate = sum(update_bytes(Sizes.of(folder), settings, MICRO_BATCH, length).values())
    return f"estimated {estimate / GIB:.2f} GiB, measured {torch.cuda.max_memory_allocated() / GIB:.2f} GiB"


def machine() -> Iterator[str]:
    """What there is."""
    yield f"torch {torch.__version__}, CUDA {torch.version.cuda}, {os.cpu_count()} processors"
    for number in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(number)
        half = "bfloat16" if torch.cuda.is_bf16_supported() else "no bfloat16"
        yield f"GPU {number}: {about.name}, {about.total_memory / GIB:.0f} GiB, {half}"
    if torch.cuda.is_available():
        a, b = torch.randn(512, 512), torch.randn(512, 512)
        error = float(((a.cuda() @ b.cuda()).cpu() - a @ b).abs().max())
        yield f"a product of 512³ differs from the CPU's by {error:.1e}; NCCL {torch.distributed.is_nccl_available()}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all paths; 0 if none failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a folder or a hub id; without one, a made-up model")
    parser.add_argument("--cpu", action="store_true", help="go on without a GPU, with two processes")
    parser.add_argument("--only", default="", help="only paths with this text in their name, and the first")
    parser.add_argument("--out", type=Path, default=Path("results/gpu-check"))
    given = parser.parse_args(arguments)
    print("\n".join(machine()))
    gpus = torch.cuda.device_count()
    if not gpus:
        print("No GPU: torch finds none, so nothing here says how the pipeline runs on one.")
        if not given.cpu:
            print("Run with --cpu to check what can run without.")
            return 1
    out = given.out / time.strftime("%Y%m%d-%H%M%S")
    data_stage.run(DATA["alfworld"], out / "data")
    if given.model is None:
        made_up_model(out / "model")
    check = Check(out, fetch(given.model) if given.model else out / "model", gpus or 2)
    results = []
    for number, (name, run) in enumerate(paths(check)):
        if number and given.only not in name:
            continue
        start = time.monotonic()
        try:
            state, text = "holds", run()
        except NotRunError as why:
            state, text = "NOT RUN", str(why)
        except RuntimeError as error:
            state, text = "FAILS", str(error)
        results.append({"path": name, "state": state, "what": text, "seconds": round(time.monotonic() - start, 1)})
        print(f"{state:<8} {name:<48} {results[-1]['seconds']:>6.0f} s  {text}", flush=True)
    (out / "check.json").write_text(json.dumps({"machine": list(machine()), "paths": results}, indent=2) + "\n")
    print(f"{out / 'check.json'}: {sum(r['state'] == 'holds' for r in results)} of {len(results)} hold")
    return int(any(r["state"] == "FAILS" for r in results))


if __name__ == "__main__":
    sys.exit(main())
