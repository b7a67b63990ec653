"""The stages with a server: training through new weights and a crash, and the server that a stage starts itself."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import httpx
import polars as pl
import pytest
import torch
from safetensors.torch import load_file

from empg.config import EvaluateRun, RolloutsRun, Sampling, Study, TrainRun, parse
from empg.environments import data as data_stage
from empg.environments.alfworld.registration import AlfworldData
from empg.errors import ConfigError
from empg.rollouts import collect, evaluate, vllm_client
from empg.rollouts.vllm_client import ServerError
from empg.rollouts.vllm_server import PYTHON, Server, serving
from empg.schema import CREDITED_STEPS, read_table
from empg.training import rl

DATA = AlfworldData.model_validate({"sizes": {"train": 4, "valid_seen": 1, "valid_unseen": 1, "tune": 1}})
ITERATIONS = 3


@pytest.fixture(autouse=True)
def _hurried(monkeypatch):
    monkeypatch.setattr(vllm_client, "BACKOFF_SECONDS", 0.001)


@pytest.fixture
def root(make_policy, tmp_path):
    """A data set and a model folder."""
    data_stage.run(DATA, tmp_path / "data")
    (tmp_path / "model").mkdir()
    make_policy("qwen2").save(tmp_path / "model")
    return tmp_path


def config(model, url: str, **values: object):
    common = {
        "environment": "alfworld",
        "data": DATA.model_dump(),
        "max_steps": 2,
        "system": "",
        "interface": {},
        "sampling": {"engine": "vllm", "url": url, "max_response": 8, "max_context": 512},
    }
    return parse(model, common | values, "test")


def train(root: Path, url: str, out: Path) -> None:
    run = config(
        TrainRun,
        url,
        policy={"type": "tiny"},
        train={"iterations": ITERATIONS, "groups": 2, "group_size": 2, "checkpoint_every": 1},
        method_name="m",
        method={"advantage": "grpo", "modulation": "empg", "zeta": 0.5},
        seed=0,
    )
    silent = {"on_metrics": lambda *_: None, "progress": lambda *_: None}
    rl.run(run, root / "data", root / "model", root / "rollouts", out, **silent)


def test_stages_play_train_and_survive_a_dead_server(root, make_policy, fake_vllm):
    fake = fake_vllm(make_policy("qwen2"))
    run = config(RolloutsRun, fake.url, rollouts={"tasks": 2}, group_size=2)
    collect.run(run, root / "data", root / "model", root / "rollouts", progress=lambda *_: None)
    train(root, fake.url, root / "whole")
    files = sorted((root / "whole/rollouts").glob("*.parquet"))
    assert len(files) == ITERATIONS
    for file in files:
        steps = read_table(file, CREDITED_STEPS)
        assert (steps["sampler_logprobs"].list.len() == steps["response_ids"].list.len()).all()
    metrics = pl.read_parquet(root / "whole/metrics.parquet")
    assert metrics["importance_ratio_mean"].to_list() == pytest.approx([1.0] * ITERATIONS, abs=1e-4)
    assert (metrics["importance_ratio_missing"] == 0).all()
    paths = [body["kwargs"]["weights_path"] for path, body in fake.asked if path == "/collective_rpc"]
    assert len(set(paths)) == len(paths) == 1 + ITERATIONS - 1, "the collection's, then each iteration's own weights"
    assert not (root / "whole/.vllm").exists()

    fake.answers["/v1/completions"] = (500, "out of order")
    fake.on_completion = lambda: None
    with pytest.raises(ServerError, match="out of order"):
        train(root, fake.url, root / "cut")
    assert (root / "cut/checkpoint/000001").is_dir(), "what was finished is kept"
    assert not (root / "cut/manifest.json").exists()
    fake.answers.clear()
    train(root, fake.url, root / "cut")
    weights = [load_file(root / run / "model/model.safetensors") for run in ("whole", "cut")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])

    run = config(EvaluateRun, fake.url, evaluate={"splits": ["valid_seen"], "episodes": 2}, method_name="m", seed=0)
    before = len([path for path, _ in fake.asked if path == "/collective_rpc"])
    evaluate.run(run, root / "data", root / "whole/model", root / "evaluation", progress=lambda *_: None)
    assert len(pl.read_parquet(root / "evaluation/episodes.parquet")) == 3
    assert len([path for path, _ in fake.asked if path == "/collective_rpc"]) == before + 1, "one load for both modes"


# ------------------------------------------------------------------------------------------------------ our own server
STAND_IN = """
import json, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
arguments = dict(zip(sys.argv[1:], sys.argv[2:]))
print(json.dumps(sys.argv[1:]), flush=True)
if "--fail" in sys.argv:
    raise RuntimeError("no memory for the cache")
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        content = json.dumps({"data": [{"id": arguments["--served-model-name"], "max_model_len": 512}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
    def log_message(self, *_):
        pass
HTTPServer(("127.0.0.1", int(arguments["--port"])), Handler).serve_forever()
"""
POLICY = SimpleNamespace(network=SimpleNamespace(dtype=torch.bfloat16, device=torch.device("cpu")))


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """An interpreter whose vLLM is a small server."""
    package = tmp_path / "site/vllm/entrypoints/openai"
    package.mkdir(parents=True)
    (package / "api_server.py").write_text(STAND_IN)
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={tmp_path}/site exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    monkeypatch.setenv(PYTHON, str(python))
    return tmp_path


def is_up(url: str) -> bool:
    try:
        return httpx.get(f"{url}/v1/models", trust_env=False, timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def goes_down(url: str) -> bool:
    end = time.monotonic() + 20
    while is_up(url) and time.monotonic() < end:
        time.sleep(0.02)
    return not is_up(url)


def test_a_stage_starts_one_server_on_the_loopback_and_ends_it(stand_in):
    sampling = Sampling(engine="vllm", max_context=512, rows=7, serve=("--enable-prefix-caching",))
    with serving(sampling, stand_in / "model", stand_in / "out") as server:
        (stand_in / "out").mkdir(exist_ok=True)
        url = server.url(POLICY)
        assert is_up(url)
        assert server.url(POLICY) == url
        said = (stand_in / "out/.vllm.log").read_text()
        for words in ('"--host", "127.0.0.1"', '"--dtype", "bfloat16"', '"--max-num-seqs", "7"', "processed_logprobs"):
            assert words in said
        assert "--enable-prefix-caching" in said
    assert goes_down(url)


def test_a_killed_stage_leaves_no_server(stand_in):
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()

    def stage() -> None:
        theirs.send(Server(Sampling(engine="vllm"), stand_in, stand_in / "out/.vllm").url(POLICY))
        time.sleep(60)

    (stand_in / "out").mkdir()
    process = context.Process(target=stage)
    process.start()
    url = ours.recv()
    assert is_up(url)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert goes_down(url)


def test_a_server_that_does_not_start_is_said_with_its_own_words(stand_in):
    (stand_in / "out").mkdir()
    with (
        pytest.raises(ServerError, match=r"ended with 1: RuntimeError: no memory for the cache; see .*\.vllm\.log"),
        serving(Sampling(engine="vllm", serve=("--fail",)), stand_in, stand_in / "out") as server,
    ):
        server.url(POLICY)


def test_an_environment_without_vllm_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv(PYTHON, str(tmp_path / "none"))
    with pytest.raises(ConfigError, match=r"expected an environment with vLLM at .*none .*make test-vllm"):
        Server(Sampling(engine="vllm"), tmp_path, tmp_path / ".vllm").url(POLICY)


# ------------------------------------------------------------------------------------------------------- configuration
@pytest.mark.parametrize(
    ("sampling", "message"),
    [
        ({"url": "http://127.0.0.1:8000"}, "url and serve: expected none with engine native"),
        ({"engine": "vllm", "url": "127.0.0.1:8000"}, r"sampling\.url: "),
        ({"engine": "vllm", "url": "http://127.0.0.1:8000", "serve": ["-x"]}, "serve: expected none with url"),
        ({"engine": "vllm"}, r"sampling\.engine: expected native with policy\.type tiny, found vllm"),
    ],
)
def test_settings_that_no_server_can_have_are_refused(sampling, message):
    methods = {"grpo": {"advantage": "grpo"}}
    study = {"seeds": [1], "methods": methods, "environments": {"alfworld": {"sampling": sampling}}}
    with pytest.raises(ConfigError, match=message):
        parse(Study, study, "study")
