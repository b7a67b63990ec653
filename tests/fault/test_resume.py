"""A training run that is killed, damaged or poisoned goes on bit for bit, or says what is wrong and keeps the rest."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import shutil
import subprocess
import time
from pathlib import Path
from random import Random

import pytest
import torch
from safetensors.torch import load_file, save_file

from empg import cli
from empg.config import Study, TrainRun, parse, rollouts_run, train_run, warmstart_run
from empg.environments import data as data_stage
from empg.environments.alfworld.registration import AlfworldData
from empg.training import rl

ITERATIONS = 6
STUDY = {
    "seeds": [3],
    "methods": {"grpo_empg": {"advantage": "grpo", "modulation": "empg"}},
    "baseline": "grpo_empg",
    "environments": {
        "alfworld": {
            "max_steps": 4,
            "policy": {"type": "tiny", "width": 32, "layers": 1, "mlp_width": 32, "vocab_size": 400},
            "warmstart": {"tokens": 12_000, "batch_tokens": 4000},
            "rollouts": {"tasks": 4},
            "train": {"iterations": ITERATIONS, "groups": 2, "group_size": 2, "checkpoint_every": 2},
        }
    },
}
DATA = {"type": "alfworld", "sizes": {"train": 12, "valid_seen": 1, "valid_unseen": 1, "tune": 1}}


class Run:
    """``empg train`` with fixed inputs, on the command line of this process or another one."""

    def __init__(self, root: Path, out: Path, config: TrainRun | None = None) -> None:
        self.root, self.out = root, out
        self.config = root / "train.json"
        if config is not None:
            self.config = out.with_suffix(".json")
            self.config.write_text(config.model_dump_json())

    @property
    def arguments(self) -> list[str]:
        paths = {
            "config": self.config,
            "data": self.root / "data",
            "model": self.root / "warmstart" / "model",
            "rollouts": self.root / "rollouts",
            "out": self.out,
        }
        return ["train", *(word for name, path in paths.items() for word in (f"--{name}", str(path)))]

    def finish(self) -> None:
        assert cli.main(self.arguments) == 0

    def interrupt(self, iterations: int) -> None:
        """Run in this process until so many iterations are done."""
        config = parse(TrainRun, json.loads(self.config.read_text()), "train.json")

        def stop(iteration: int, metrics: object) -> None:
            if iteration + 1 == iterations:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            rl.run(
                config,
                self.root / "data",
                self.root / "warmstart" / "model",
                self.root / "rollouts",
                self.out,
                on_metrics=stop,
                progress=lambda done, total: None,
            )

    def results(self) -> dict[str, bytes]:
        """Everything but the timing, which differs from run to run."""
        files = {path.relative_to(self.out): path for path in self.out.rglob("*") if path.is_file()}
        hidden = {name for name in files if any(part.startswith(".") for part in name.parts)}  # locks, records of time
        own = hidden | {Path("timing.json")}
        return {str(name): path.read_bytes() for name, path in files.items() if name not in own}

    @property
    def checkpoints(self) -> list[Path]:
        return sorted((self.out / "checkpoint").glob("[0-9]*"))


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    monkeypatch.setattr(os, "environ", dict(os.environ))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A data set, a policy warm-started on a few tokens and its rollouts, made by the command line."""
    root = tmp_path_factory.mktemp("resume")
    study, sets = parse(Study, STUDY, "STUDY"), {"alfworld": parse(AlfworldData, DATA, "DATA")}
    data_stage.run(sets["alfworld"], root / "data")
    (root / "warmstart.json").write_text(warmstart_run(study, sets, "alfworld").model_dump_json())
    (root / "rollouts.json").write_text(rollouts_run(study, sets, "alfworld").model_dump_json())
    (root / "train.json").write_text(train_run(study, sets, "alfworld", "grpo_empg", 3).model_dump_json())
    environment = dict(os.environ)
    common = ["--data", str(root / "data"), "--out"]
    assert cli.main(["warmstart", "--config", str(root / "warmstart.json"), *common, str(root / "warmstart")]) == 0
    model = ["--model", str(root / "warmstart" / "model")]
    assert cli.main(["rollouts", "--config", str(root / "rollouts.json"), *model, *common, str(root / "rollouts")]) == 0
    os.environ.clear()
    os.environ.update(environment)
    return root


@pytest.fixture(scope="module")
def uninterrupted(root):
    """The results of a run that nothing happened to."""
    run = Run(root, root / "uninterrupted")
    run.finish()
    return run.results()


def test_a_run_leaves_what_it_declares(uninterrupted):
    rollouts = {f"rollouts/iteration_{i:04d}.parquet" for i in range(ITERATIONS)}
    files = ("config.json", "model.safetensors", "tokenizer.json")
    model = {f"{folder}/{name}" for folder in ("model", "halfway") for name in files}
    assert {"metrics.parquet", "manifest.json", *rollouts, *model} <= set(uninterrupted)
    assert not any(name.startswith("checkpoint") for name in uninterrupted)


def test_the_policy_learns_something(root, uninterrupted):
    """Otherwise equal weights would say nothing."""
    before = load_file(root / "warmstart" / "model" / "model.safetensors")
    after = load_file(root / "uninterrupted" / "model" / "model.safetensors")
    assert all(not torch.equal(before[name], after[name]) for name in before)


def test_the_policy_of_half_way_is_that_after_half_of_the_iterations(root, uninterrupted, tmp_path):
    early = Run(root, tmp_path / "early")
    early.interrupt(ITERATIONS // 2 - 1)
    assert not (early.out / "halfway").exists()
    run = Run(root, tmp_path / "half")
    run.interrupt(ITERATIONS // 2)
    weights = (run.out / "halfway/model.safetensors").read_bytes()
    assert weights == (root / "uninterrupted/halfway/model.safetensors").read_bytes()
    assert weights != (root / "uninterrupted/model/model.safetensors").read_bytes()


def test_the_same_run_again_is_bit_identical(root, uninterrupted, tmp_path):
    again = Run(root, tmp_path / "again")
    again.finish()
    assert again.results() == uninterrupted


@pytest.mark.parametrize("seed", range(3))
def test_a_killed_run_goes_on_bit_identically(root, uninterrupted, tmp_path, monkeypatch, seed):
    """SIGKILL at random moments: before the first checkpoint, and twice after later ones."""
    random = Random(seed)
    run = Run(root, tmp_path / "killed")
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["empg.training.rl", "torch._dynamo"])  # imported once, for all
    for checkpoints in (0, 2, 4):
        process = processes.Process(target=cli.main, args=(run.arguments,))
        process.start()
        while process.is_alive() and not (run.out / "checkpoint" / f"{checkpoints:06d}").exists() and checkpoints:
            time.sleep(0.002)
        time.sleep(random.uniform(0.0, 0.1 if checkpoints else 0.4))
        process.kill()
        process.join()
    resumed_at = int(run.checkpoints[-1].name) if run.checkpoints else 0
    played = []
    iterate = rl.Loop.iterate
    monkeypatch.setattr(rl.Loop, "iterate", lambda loop: played.append(1) or iterate(loop))
    run.finish()
    assert run.results() == uninterrupted
    assert len(played) == ITERATIONS - resumed_at, "it went on from its checkpoint"
    timing = json.loads((run.out / "timing.json").read_text())
    assert len(timing["iterations"]) == ITERATIONS
    assert timing["processes"] > 1
    assert timing["cpu_seconds"] > sum(sum(parts.values()) for parts in timing["iterations"])


DAMAGE = {
    "weights.safetensors": lambda file: file.write_bytes(file.read_bytes()[:-100]),
    "optimiser.pt": lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
    "state.json": lambda file: file.write_text('{"config": '),
}


@pytest.fixture(scope="module")
def interrupted(root):
    run = Run(root, root / "interrupted")
    run.interrupt(3)
    return run


@pytest.fixture
def stopped(root, interrupted, tmp_path):
    """A run that was cut off in its fourth iteration; its checkpoint is after the second."""
    run = Run(root, tmp_path / "stopped")
    shutil.copytree(interrupted.out, run.out)
    assert [path.name for path in run.checkpoints] == ["000002"]
    return run


@pytest.fixture
def disk(tmp_path):
    """A small file system of its own: its folder and a function that changes its size in kB."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(size, *options):
        command = ["mount", "-t", "tmpfs", "-o", ",".join([*options, f"size={size}k"]), "tmpfs", str(folder)]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    if not mount(4):
        pytest.skip("needs the right to mount a file system")
    yield folder, lambda size: mount(size, "remount")
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def check_refusal(message, out, found):
    """The last line names the file, what was expected and what was found."""
    line = message.splitlines()[-1]
    assert line.startswith(f"empg: error: {out}")
    assert "Traceback" not in message
    assert found in line


def test_a_run_on_a_full_disk_goes_on_once_there_is_room(root, uninterrupted, disk, capsys):
    folder, resize = disk
    run = Run(root, folder / "run")
    codes = []
    for size in range(32, 2000, 60):
        assert resize(size)
        codes.append(cli.main(run.arguments))
        if codes[-1] == 0:
            break
        check_refusal(capsys.readouterr().err, folder, "found a full disk")
    assert set(codes[:-1]) == {1}
    assert len(codes) > 3, "the disk was full at several moments"
    assert run.results() == uninterrupted


def test_a_run_whose_files_may_not_grow_says_so(root, stopped, uninterrupted, capsys):
    before, (soft, hard) = stopped.results(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        assert cli.main(stopped.arguments) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    check_refusal(capsys.readouterr().err, stopped.out, "found a limit on the size of files")
    assert {name: content for name, content in stopped.results().items() if name in before} == before
    stopped.finish()
    assert stopped.results() == uninterrupted


def test_a_read_only_folder_is_named(root, disk, capsys):
    folder, _ = disk
    run = Run(root, folder / "run")
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
    assert cli.main(run.arguments) == 1
    check_refusal(capsys.readouterr().err, folder, "Read-only file system")


def test_a_run_that_was_interrupted_goes_on(stopped, uninterrupted):
    stopped.finish()
    assert stopped.results() == uninterrupted


@pytest.mark.parametrize("name", DAMAGE)
@pytest.mark.parametrize("damage", ["damaged", "missing", "empty"])
def test_a_damaged_checkpoint_is_named_and_nothing_is_touched(stopped, name, damage, capsys):
    file = stopped.checkpoints[0] / name
    match damage:
        case "damaged":
            DAMAGE[name](file)
        case "missing":
            file.unlink()
        case "empty":
            file.write_bytes(b"")
    before = stopped.results()
    assert cli.main(stopped.arguments) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"empg: error: {stopped.checkpoints[0]}")
    assert "expected" in message
    assert "found" in message
    assert "Traceback" not in message
    assert stopped.results() == before


def test_a_checkpoint_with_code_in_it_is_not_run(stopped, tmp_path, capsys):
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "exploded",))

    torch.save({"optimiser": Bomb()}, stopped.checkpoints[0] / "optimiser.pt")
    assert cli.main(stopped.arguments) == 2
    assert str(stopped.checkpoints[0]) in capsys.readouterr().err
    assert not (tmp_path / "exploded").exists()


def test_a_checkpoint_of_another_configuration_is_not_used(root, stopped, tmp_path):
    config = parse(TrainRun, json.loads(stopped.config.read_text()), "train.json")
    other = config.model_copy(update={"train": config.train.model_copy(update={"iterations": 3, "groups": 1})})
    fresh = Run(root, tmp_path / "fresh", other)
    fresh.finish()
    changed = Run(root, stopped.out, other)
    changed.finish()
    assert changed.results() == fresh.results()


def test_weights_that_are_not_finite_are_refused(root, tmp_path, capsys):
    poisoned = tmp_path / "poisoned"
    shutil.copytree(root, poisoned, ignore=shutil.ignore_patterns("uninterrupted", "interrupted"))
    file = poisoned / "warmstart" / "model" / "model.safetensors"
    tensors = load_file(file)
    tensors["model.norm.weight"][0] = torch.nan
    save_file(tensors, file, metadata={"format": "pt"})
    run = Run(poisoned, tmp_path / "run")
    assert cli.main(run.arguments) == 2
    message = capsys.readouterr().err
    refusal = f"empg: error: {file.parent}: tensor model.norm.weight: expected finite numbers, found NaN or infinity"
    assert refusal in message
    assert "Traceback" not in message
    assert not (run.out / "manifest.json").exists()
    # The rollout stage refuses them too.
    arguments = [
        "rollouts",
        "--config",
        str(root / "rollouts.json"),
        "--data",
        str(root / "data"),
        "--model",
        str(file.parent),
        "--out",
        str(tmp_path / "rollouts"),
    ]
    assert cli.main(arguments) == 2
    assert refusal in capsys.readouterr().err


@pytest.mark.parametrize("where", ["the update", "the sampler"])
def test_a_run_that_diverges_keeps_its_last_checkpoint(stopped, uninterrupted, where, monkeypatch, capsys):
    play, update = rl.Loop.collect, rl.update

    def poison(network):
        with torch.no_grad():
            network.norm[0] = torch.nan

    def poisoned_collect(self, iteration):
        if iteration == 3:
            poison(self.policy.network)
        return play(self, iteration)

    def poisoned_update(network, *args, **options):
        poison(network)
        return update(network, *args, **options)

    with monkeypatch.context() as patch:
        if where == "the update":
            patch.setattr(rl, "update", poisoned_update)
        else:
            patch.setattr(rl.Loop, "collect", poisoned_collect)
        before = stopped.results()
        assert cli.main(stopped.arguments) == 1
        message = capsys.readouterr().err
        assert f"{stopped.out}: iteration {2 if where == 'the update' else 3}: {where[4:]}: expected" in message
        assert "the last checkpoint is kept" in message
        after = stopped.results()
        assert {name: content for name, content in after.items() if name in before} == before
    stopped.finish()
    assert stopped.results() == uninterrupted
