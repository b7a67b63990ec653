"""The engine `trl` of a training stage: a tiny study through it and through the native engine, and what goes wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import psutil
import pytest
import torch
from safetensors.torch import load_file

from empg.audit.audit import Audit
from empg.config import PretrainedPolicy, Study, TrainRun, parse, rollouts_run, train_run, warmstart_run
from empg.environments import data as data_stage
from empg.environments.alfworld.registration import AlfworldData
from empg.errors import ConfigError, DivergenceError, EmpgError, StorageError
from empg.files import read_json, write_json
from empg.policy import memory
from empg.processes import launch
from empg.processes.job import COMPLETE, PARTS, Job
from empg.processes.rank import check_count
from empg.rollouts import collect
from empg.training import rl, warmstart
from empg.training.trl_policy import sharded

from ..workflow.test_pretrained import write_model

DATA = {"alfworld": AlfworldData.model_validate({"sizes": {"train": 4, "valid_seen": 1, "valid_unseen": 1, "tune": 1}})}
WARM = {"observation_weight": 0.1, "optimiser": {"lr": 3e-3, "muon_lr": 0}}
STATISTICS = ["logprobs", "entropies"]
ITERATION = "rollouts/iteration_{:04d}.parquet"
# The engines add the same numbers up in another order: gradient norms are about 1e-3, losses up to 3e-4.
ROUNDING = {"grad_norm": 1e-6, "loss": 1e-6, "kl": 1e-8, "clip_fraction": 0.0}


def settings(root: Path, *, policy: dict | None = None, train: dict | None = None, **engine: object) -> TrainRun:
    return train_run(study(root, policy=policy, train=train, **engine), DATA, "alfworld", "grpo", 1)


def study(
    root: Path,
    *,
    policy: dict | None = None,
    train: dict | None = None,
    sampling: dict | None = None,
    warmstart: dict | None = None,
    **engine: object,
) -> Study:
    environment = {
        "max_steps": 3,
        "policy": {"type": "pretrained", "model": str(root / "hub"), "dtype": "float32", **(policy or {})},
        "sampling": {"max_response": 6, "max_context": 512, **(sampling or {})},
        "warmstart": {"tokens": 0, "warmup": 0, "decay": 0, **(warmstart or {})},
        "rollouts": {"tasks": 4},
        "train": {"iterations": 2, "groups": 3, "group_size": 3, "checkpoint_every": 1, **(train or {})},
        **engine,
    }
    # The clarity bonus gives every step an advantage, so that an untrained policy's update moves it.
    methods = {"grpo": {"advantage": "grpo", "modulation": "empg"}}
    return parse(Study, {"seeds": [1], "methods": methods, "environments": {"alfworld": environment}}, "study")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, a model, its warm start of no tokens and the collection, in a study's layout."""
    root = tmp_path_factory.mktemp("engines") / "results/mini"
    data_stage.run(DATA["alfworld"], root / "data")
    write_model(root / "hub")
    plan, quiet = study(root), {"progress": lambda *_: None}
    folder = root / "alfworld"
    warmstart.run(
        warmstart_run(plan, DATA, "alfworld"), root / "data", folder / "warmstart", on_metrics=lambda *_: None, **quiet
    )
    collect.run(
        rollouts_run(plan, DATA, "alfworld"), root / "data", folder / "warmstart/model", folder / "rollouts", **quiet
    )
    return root


def train(root: Path, name: str, config: TrainRun) -> Path:
    """Train; the folder of the results, in which ``seen.json`` holds what live curves would show."""
    out, seen = root / "alfworld" / name / "seed1/train", []
    folder = root / "alfworld"
    rl.run(
        config,
        root / "data",
        folder / "warmstart/model",
        folder / "rollouts",
        out,
        on_metrics=lambda iteration, metrics: seen.append(iteration),
        progress=lambda *_: None,
    )
    assert seen == list(range(config.train.iterations))
    return out


@pytest.fixture(scope="module")
def native(root: Path) -> Path:
    return train(root, "native", settings(root))


@pytest.fixture(scope="module")
def trl(root: Path) -> Path:
    return train(root, "trl", settings(root, engine="trl"))


def compare(first: Path, other: Path) -> None:
    """Files, schemas and everything in the first iteration agree; so do metrics and weights, up to rounding."""
    files, others = (read_json(folder / "manifest.json") for folder in (first, other))
    # `transformers` writes its models with one file more, whichever engine trained them.
    assert set(others["outputs"]) - set(files["outputs"]) == {"model/generation_config.json"}
    assert set(files["outputs"]) <= set(others["outputs"])
    for name in (ITERATION.format(0), ITERATION.format(1), "metrics.parquet"):
        assert pl.read_parquet_schema(first / name) == pl.read_parquet_schema(other / name)
    assert pl.read_parquet(first / ITERATION.format(0)).equals(pl.read_parquet(other / ITERATION.format(0)))
    one, two = (pl.read_parquet(folder / "metrics.parquet") for folder in (first, other))
    assert one.drop(ROUNDING).row(0) == two.drop(ROUNDING).row(0)
    for name, tolerance in ROUNDING.items():
        assert two[name][0] == pytest.approx(one[name][0], abs=tolerance, rel=0)
    # Adam's first steps are as large for a tiny gradient as for a large one: rounding may turn the sign of one that is
    # nearly 0. The learning rate bounds that.
    start = load_file(first.parents[2] / "warmstart/model/model.safetensors")
    weights, again = (load_file(folder / "model/model.safetensors") for folder in (first, other))
    assert weights.keys() == again.keys()
    moved = sum(float((weights[name] - start[name]).square().sum()) for name in weights)
    apart = sum(float((weights[name] - again[name]).square().sum()) for name in weights)
    assert moved > 0
    assert apart < 1e-5 * moved


def test_one_process_agrees_with_the_native_engine(native, trl):
    compare(native, trl)
    assert {"trl", "accelerate", "peft"} <= set(read_json(trl / "manifest.json")["versions"])
    assert not (trl / "checkpoint").exists()
    assert len(read_json(trl / "timing.json")["iterations"]) == 2


def test_the_audit_recomputes_every_number(root, trl):
    write_json(root / "config/study.json", study(root, engine="trl").model_dump(mode="json"))
    audit = Audit(root, trl)
    checks = list(audit.checks(read_json(trl / "manifest.json")))
    wrong = [check for check in checks if check.differences and not check.what.startswith("input data")]
    assert not wrong
    assert sum("every step" in check.what for check in checks) == 6


def stages(root: Path, name: str, **engine: object) -> tuple[Path, Path]:
    """A warm start, and the collection from the native engine's warm start: their folders."""
    settings = {"tokens": 8000, "batch_tokens": 1200, "micro_batch_tokens": 1000, **WARM}
    plan = study(root, warmstart=settings, sampling={"max_response": 100, "max_context": 800}, **engine)
    warm, collected, seen = root / name / "warmstart", root / name / "rollouts", []
    warmstart.run(
        warmstart_run(plan, DATA, "alfworld"),
        root / "data",
        warm,
        on_metrics=lambda step, metrics: seen.append(step),
        progress=lambda *_: None,
    )
    assert seen == list(range(len(pl.read_parquet(warm / "metrics.parquet"))))
    done = []
    collect.run(
        rollouts_run(plan, DATA, "alfworld"),
        root / "data",
        root / "by_native/warmstart/model",
        collected,
        progress=lambda *count: done.append(count),
    )
    assert done[-1] == (12, 12)
    assert not (warm / "checkpoint").exists()
    assert not (collected / "checkpoint").exists()
    return warm, collected


@pytest.fixture(scope="module")
def by_native(root: Path) -> tuple[Path, Path]:
    return stages(root, "by_native")


@pytest.mark.longer
@pytest.mark.parametrize("processes", [1, 2])
def test_warm_start_and_collection_agree_with_the_native_engine(root, by_native, processes):
    """Of one model the episodes are equal. Where a process plays fewer at once, sums round in another order.

    So they do in fine-tuning.
    """
    (warm, collected), (other, again) = by_native, stages(root, f"by_{processes}", engine="trl", processes=processes)
    first, second = (pl.read_parquet(folder / "rollouts.parquet") for folder in (collected, again))
    assert first.drop(STATISTICS).equals(second.drop(STATISTICS))
    for name in STATISTICS:
        values, others = (frame[name].explode() for frame in (first, second))
        assert (values - others).abs().max() <= (0 if processes == 1 else 1e-5)  # entropies are about 6 nats
    assert (collected / "difficulty.parquet").read_bytes() == (again / "difficulty.parquet").read_bytes()
    summaries = [read_json(folder / "manifest.json")["summary"] for folder in (collected, again)]
    assert summaries[0] == summaries[1]
    one, two = (pl.read_parquet(folder / "metrics.parquet") for folder in (warm, other))
    assert len(one) > 4
    assert one.schema == two.schema
    assert one.drop("loss", "grad_norm").equals(two.drop("loss", "grad_norm"))
    for name in ("loss", "grad_norm"):  # about 6 and 0.4
        assert (one[name] - two[name]).abs().max() < 5e-6
    start = load_file(root / "hub/model.safetensors")
    weights, others = (load_file(folder / "model/model.safetensors") for folder in (warm, other))
    moved, apart = moves(start, weights), moves(weights, others)
    assert moved > 0
    assert apart < 1e-10 * moved


@pytest.mark.longer
@pytest.mark.parametrize("policy", [{"lora": {"rank": 2}}, {"dtype": "bfloat16"}, {"freeze_embeddings": False}])
def test_warm_starts_of_every_kind_learn(root, by_native, policy):
    warm, _ = stages(root, "_".join(policy), engine="trl", policy=policy)
    losses = pl.read_parquet(warm / "metrics.parquet")["loss"]
    assert losses[-1] < losses[0] - 0.02
    weights, start = load_file(warm / "model/model.safetensors"), load_file(root / "hub/model.safetensors")
    assert weights.keys() == start.keys()
    frozen = "freeze_embeddings" not in policy
    name = "model.embed_tokens.weight"
    assert weights[name].float().equal(start[name].to(weights[name].dtype).float()) == frozen


def moves(start: dict, weights: dict) -> float:
    return sum(float((weights[name].double() - start[name].double()).square().sum()) for name in start)


@pytest.mark.longer
def test_two_processes_agree_with_one(root, native):
    """The first batch is the collection; the second is sampled by both, each a half of the episodes."""
    two = train(root, "two", settings(root, engine="trl", processes=2))
    compare(native, two)


@pytest.mark.longer
@pytest.mark.parametrize("case", ["lora", "bfloat16", "updates", "history"])
def test_what_a_study_may_ask_for(root, case):
    cases = {
        "lora": {"policy": {"lora": {"rank": 2}}},
        "bfloat16": {"policy": {"dtype": "bfloat16"}},
        "history": {"interface": {"history": 1}, "sampling": {"max_context": 1024}},
        "updates": {"train": {"updates": 2, "micro_batch_tokens": 1024}},
    }
    out = train(root, case, settings(root, engine="trl", **cases[case]))
    start, end = (load_file(f / "model/model.safetensors") for f in (root / "alfworld/warmstart", out))
    assert start.keys() == end.keys()
    assert any(not start[name].equal(end[name].float()) for name in start)
    norms = pl.read_parquet(out / "metrics.parquet")["grad_norm"]
    assert norms.is_finite().all()
    assert norms.min() > 0


def start(root: Path, name: str, config: TrainRun, folder: Path) -> tuple[subprocess.Popen, Path, Path]:
    """A stage in a process of its own, once it has written a checkpoint; its results and its log."""
    write_json(folder / "train.json", config.model_dump(mode="json"))
    out, log, environment = root / "alfworld" / name / "seed1/train", folder / "stage.log", root / "alfworld"
    command = [sys.executable, "-m", "empg", "train", "--config", str(folder / "train.json")]
    command += ["--data", str(root / "data"), "--model", str(environment / "warmstart/model")]
    command += ["--rollouts", str(environment / "rollouts"), "--out", str(out)]
    with log.open("w") as file:
        stage = subprocess.Popen(command, env=os.environ, stderr=file)
    while not list((out / "checkpoint").glob(f"checkpoint-*/{COMPLETE}")):
        assert stage.poll() is None, log.read_text()[-2000:]
        time.sleep(0.05)
    return stage, out, log


@pytest.mark.longer
def test_a_killed_run_resumes_to_the_same_weights(root, tmp_path):
    """The stage is killed, its processes end by themselves, and the next stage goes on from the last checkpoint."""
    config = settings(root, engine="trl", train={"iterations": 6})
    whole = train(root, "whole", config)
    stage, out, _ = start(root, "killed", config, tmp_path)
    stage.send_signal(signal.SIGKILL)
    stage.wait()
    time.sleep(2)
    ended = len((out / "checkpoint" / PARTS).read_text().splitlines())
    time.sleep(2)
    assert ended == len((out / "checkpoint" / PARTS).read_text().splitlines()) < 6
    assert train(root, "killed", config) == out
    one, two = (load_file(f / "model/model.safetensors") for f in (whole, out))
    assert all(one[name].equal(two[name]) for name in one)
    assert pl.read_parquet(whole / "metrics.parquet").equals(pl.read_parquet(out / "metrics.parquet"))


@pytest.mark.longer
def test_a_rank_that_dies_ends_the_stage_with_one_message(root, tmp_path):
    config = settings(root, engine="trl", processes=2, train={"iterations": 30})
    stage, out, log = start(root, "dies", config, tmp_path)
    ranks = [p for p in psutil.Process(stage.pid).children(recursive=True) if p.environ().get("RANK") == "1"]
    ranks[0].kill()
    assert stage.wait(60) == 1
    last = log.read_text().splitlines()[-1]
    assert last.startswith(
        f"empg: error: {out}: expected 2 processes of trl to end well, found exit code 1 in iteration"
    )
    assert list((out / "checkpoint").glob(f"checkpoint-*/{COMPLETE}"))


@pytest.mark.longer
def test_a_config_file_of_accelerate_starts_the_processes(root, native, tmp_path):
    file = tmp_path / "accelerate.yaml"
    file.write_text("{compute_environment: LOCAL_MACHINE, distributed_type: 'NO', use_cpu: true, num_processes: 1}")
    compare(native, train(root, "accelerated", settings(root, engine="trl", accelerate=str(file))))


def test_the_error_of_a_process_is_one_message(root, monkeypatch):
    """A process that cannot go on leaves its error; the stage raises it with the iteration and keeps the checkpoint."""
    program = (
        "import sys; from pathlib import Path; from empg.errors import DivergenceError\n"
        "from empg.processes.job import Job\n"
        "Job.read(Path(sys.argv[1])).fail(1, DivergenceError('update: expected a finite loss, found nan')); sys.exit(1)"
    )
    monkeypatch.setattr(
        launch, "command", lambda config, job, module: [sys.executable, "-c", program, str(job.folder / "job.json")]
    )
    with pytest.raises(DivergenceError, match="iteration 0: update: expected a finite loss, found nan; the last check"):
        train(root, "diverged", settings(root, engine="trl"))


def test_a_process_that_dies_is_one_message(root, monkeypatch):
    monkeypatch.setattr(launch, "command", lambda config, job, module: [sys.executable, "-c", "import os; os._exit(7)"])
    with pytest.raises(Exception, match="expected 2 processes of trl to end well, found exit code 7 in iteration 0"):
        train(root, "dead", settings(root, engine="trl", processes=2))


@pytest.mark.parametrize("stage", ["update", "part"])
def test_a_process_of_an_earlier_stage_that_dies_is_one_message(root, monkeypatch, tmp_path, stage):
    monkeypatch.setattr(launch, "command", lambda config, job, module: [sys.executable, "-c", "import os; os._exit(7)"])
    plan, quiet = study(root, engine="trl", processes=2), {"progress": lambda *_: None}
    warm, collection = warmstart_run(plan, DATA, "alfworld"), rollouts_run(plan, DATA, "alfworld")
    run = {
        "update": lambda: warmstart.run(warm, root / "data", tmp_path, on_metrics=lambda *_: None, **quiet),
        "part": lambda: collect.run(collection, root / "data", root / "alfworld/warmstart/model", tmp_path, **quiet),
    }
    with pytest.raises(EmpgError, match=f"{tmp_path}: expected 2 processes .* exit code 7 in {stage} 0; what they pri"):
        run[stage]()
    assert not (tmp_path / "manifest.json").exists()


def test_processes_that_do_not_fit_into_memory_are_refused_with_the_numbers(root, monkeypatch):
    """Without GPUs they share the machine's memory."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    needed = {"weights": 1.0 * memory.GIB, "activations": 2.0 * memory.GIB}
    monkeypatch.setattr(memory, "available", lambda: 5 * memory.GIB)
    memory.require("train", needed, "lower it", 1)
    message = r"train: expected to fit into 5.0 GiB of memory, found about 6.0 GiB \(weights 2.0, activations 4.0\)"
    with pytest.raises(ConfigError, match=message):
        memory.require("train", needed, "lower it", 2)
    monkeypatch.setattr(memory, "available", lambda: 1000)
    with pytest.raises(ConfigError, match=r"train: expected to fit .* lower train.micro_batch_tokens"):
        train(root, "large", settings(root, engine="trl"))
    plan = study(root, engine="trl", warmstart={"tokens": 100, "optimiser": {"muon_lr": 0}})
    with pytest.raises(ConfigError, match=r"warmstart: expected to fit .* lower its micro_batch_tokens"):
        warmstart.run(
            warmstart_run(plan, DATA, "alfworld"),
            root / "data",
            root / "large",
            on_metrics=lambda *_: None,
            progress=lambda *_: None,
        )


@pytest.mark.parametrize(
    ("policy", "shards", "weights", "trained"),
    [
        ({"dtype": "float32"}, 1, 4 * 1000, 12 * 900),
        ({"dtype": "bfloat16"}, 1, (4 + 2) * 1000, 12 * 900),  # trained in float32, and a copy that plays
        ({"dtype": "bfloat16", "freeze_embeddings": False}, 4, (1 + 2) * 1000, 3 * 1000),
        ({"dtype": "bfloat16", "lora": {"rank": 1}}, 1, 2 * 1000, 12 * 232),
    ],
)
def test_an_estimate_of_what_a_process_holds(policy, shards, weights, trained):
    """By hand: adapters have 2·(4·8 + 2·8 + 2·4 + 3·(8 + 12)) parameters, and frozen embeddings are not trained."""
    sizes = memory.Sizes(1000, 100, 50, 8, 2, 2, 1, 4, 12)
    settings = PretrainedPolicy(type="pretrained", model="", **policy)
    parts = memory.trl_update_bytes(sizes, settings, 64, 32, shards=shards)
    assert parts["weights"] == weights
    assert parts["gradients and optimiser"] == trained


@pytest.mark.parametrize(
    ("environment", "stage", "message"),
    [
        ({"ACCELERATE_USE_FSDP": "true"}, None, "fsdp_config.fsdp_version: expected 2, found 1"),
        ({}, 3, "deepspeed_config.zero_stage: expected at most 2, or FSDP2, found 3"),
    ],
)
def test_ways_to_split_weights_that_cannot_play(monkeypatch, environment, stage, message):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=message):
        sharded(stage and SimpleNamespace(zero_stage=stage))


def test_another_number_of_processes_is_refused(root, tmp_path):
    config = settings(root, engine="trl", processes=2, accelerate=str(tmp_path / "accelerate.yaml"))
    check_count(config, 2)
    with pytest.raises(ConfigError, match=r"processes: expected 2, found 3 from .*accelerate.yaml"):
        check_count(config, 3)


FULL = """
import sys
from empg.processes.rank import main

def work(job):
    (job.folder / "checkpoint-1").mkdir()
    raise Exception("No space left on device (os error 28)")

sys.exit(main(work))
"""


def test_a_full_disk_is_one_message(root, monkeypatch, capfd):
    """The unfinished checkpoint makes room for the message, and for the next run."""
    monkeypatch.setattr(
        launch, "command", lambda config, job, module: [sys.executable, "-c", FULL, str(job.folder / "job.json")]
    )
    with pytest.raises(StorageError, match="checkpoint: expected room to write, found a full disk"):
        train(root, "full", settings(root, engine="trl"))
    assert "Traceback" not in capfd.readouterr().err
    assert not (root / "alfworld/full/seed1/train/checkpoint/checkpoint-1").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("num_processes: 4", "num_processes: expected 2, found 4"),
        ("num_machines: 3", "num_machines: expected 1, found 3"),
        ("distributed_type: MULTI_CPU", "distributed_type: expected one that starts 2 processes, found MULTI_CPU"),
        ("[]", "expected the settings of `accelerate config`"),
    ],
)
def test_a_config_of_accelerate_that_does_not_match(root, tmp_path, content, message):
    file = tmp_path / "accelerate.yaml"
    file.write_text(content)
    with pytest.raises(ConfigError, match=message):
        launch.check(settings(root, engine="trl", processes=2, accelerate=str(file)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"processes": 2}, "processes: expected none with engine native"),
        ({"engine": "trl", "sampling": {"engine": "vllm"}}, "sampling.engine: expected native with engine trl"),
        ({"engine": "trl", "train": {"updates": 4}}, "train.updates: expected at most the group_size, 3"),
        ({"engine": "trl", "train": {"optimiser": {"muon_lr": 1e-3}}}, "train.optimiser.muon_lr: expected 0 with"),
        ({"engine": "trl", "warmstart": {"optimiser": {"muon_lr": 1e-3}}}, "warmstart.optimiser.muon_lr: expected 0"),
    ],
)
def test_settings_that_an_engine_cannot_follow(tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        study(tmp_path, **options)


def test_a_job_resumes_from_whole_checkpoints_only(tmp_path):
    config = settings(tmp_path, engine="trl")
    paths = {name: tmp_path / name for name in ("data", "model", "rollouts", "out")}
    job = Job.prepare(config, "digest", 1, **paths)
    for step in (1, 2):
        (job.folder / f"checkpoint-{step}").mkdir()
        job.ended({"iteration": step - 1}, {})
    (job.folder / "checkpoint-1" / COMPLETE).touch()
    again = Job.prepare(config, "digest", 2, **paths)
    assert again.resume == str(job.folder / "checkpoint-1")
    assert [line["metrics"]["iteration"] for line in again.parts()] == [0]
    assert not (job.folder / "checkpoint-2").exists()
    assert Job.prepare(config, "another", 3, **paths).resume == ""
    assert json.loads((job.folder / "job.json").read_text())["digest"] == "another"


def test_weight_decay_is_of_all_parameters_as_in_the_native_engine():
    from empg.training.trl_trainer import StudyTrainer

    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.LayerNorm(2))
    names = StudyTrainer.get_decay_parameter_names(StudyTrainer.__new__(StudyTrainer), model)
    assert names == [name for name, _ in model.named_parameters()]
