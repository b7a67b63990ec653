"""verifiers' own evaluation of registered environments, against a server that speaks OpenAI's protocol."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import verifiers.v1 as vf
from verifiers.v1.utils.loaders import environment_class, load_taskset, resolve_env_config

from empg.errors import ConfigError
from empg.integrations.splits import Split, open_dataset
from empg.integrations.verifiers import SYSTEM, EpisodeEnv, EpisodesConfig, EpisodeTaskset, _told_by_tags

from .conftest import PLAYERS

Say = Callable[[list[dict[str, str]]], str]


class Model(ThreadingHTTPServer):
    """A server whose model answers a conversation as ``say`` does. It keeps the conversations."""

    def __init__(self, say: Say) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.say = say
        self.asked: list[list[dict[str, str]]] = []
        Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    """Answers POST /v1/chat/completions."""

    server: Model
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.asked.append(body["messages"])
        try:
            assert self.path == "/v1/chat/completions"
            message = {"role": "assistant", "content": self.server.say(body["messages"])}
            choice = {"index": 0, "finish_reason": "stop", "message": message}
            usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
            made = {"id": "1", "object": "chat.completion", "created": 0, "model": body["model"]}
            self._send(200, made | {"choices": [choice], "usage": usage})
        except Exception as error:
            self._send(400, {"error": {"message": repr(error), "type": "invalid_request_error"}})

    def _send(self, status: int, value: dict[str, Any]) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture
def serve() -> Iterator[Callable[[Say], Model]]:
    """Starts servers, and stops them after the test."""
    models: list[Model] = []

    def started(say: Say) -> Model:
        models.append(Model(say))
        return models[-1]

    yield started
    for model in models:
        model.shutdown()
        model.server_close()


def expert(name: str) -> Say:
    """A model that plays as the expert does, from the conversation alone."""

    def say(messages: list[dict[str, str]]) -> str:
        player, told = PLAYERS[name].expert(), [m["content"] for m in messages if m["role"] == "user"]
        return [PLAYERS[name].format_step(*player.act(text)) for text in told][-1]

    return say


def evaluate(model: Model, out: Path, *options: str, tasks: int = 3) -> tuple[str, list[dict[str, Any]]]:
    """Run ``vf-eval`` in a process of its own: what it printed, and the traces that it wrote, by task."""
    command = [str(Path(sys.executable).with_name("vf-eval")), "empg-verifiers", "-n", str(tasks), "-m", "scripted"]
    served = ["--client.base-url", model.url, "--client.api-key-var", "NO_KEY", "--no-push", "--no-rich"]
    done = subprocess.run(
        [*command, *served, "-o", str(out), "--run.name", "run", *options],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    traces = out / "run/traces.jsonl"
    lines = traces.read_text().splitlines() if traces.exists() else []
    found = [trace for line in lines for trace in json.loads(line)["traces"]]
    return done.stdout + done.stderr, sorted(found, key=lambda trace: trace["task"]["data"]["number"])


def said(trace: dict[str, Any], role: str) -> list[str]:
    """The messages of a role."""
    return [node["message"]["content"] for node in trace["nodes"] if node["message"]["role"] == role]


@pytest.mark.parametrize("name", PLAYERS)
def test_an_expert_behind_the_server_wins_the_same_episodes(serve, tmp_path, name):
    output, traces = evaluate(serve(expert(name)), tmp_path, "--env.taskset.environment", name)
    assert len(traces) == 3, output
    split = Split(open_dataset(name), "train", 50)
    for task, trace in zip(split.tasks, traces, strict=False):
        environment, player = split.arena.make(), PLAYERS[name].expert()
        observations, responses, done = [environment.reset(task)], [], False
        while not done:
            thought, action = player.act(observations[-1])
            responses.append(PLAYERS[name].format_step(thought, action))
            result = environment.step(action)
            observations.append(result.observation)
            done = result.done
        assert said(trace, "user") == observations[:-1]
        assert said(trace, "assistant") == responses
        assert said(trace, "system") == [SYSTEM[name]]
        assert trace["errors"] == []
        assert trace["rewards"] == {"outcome": {"score": 1.0, "weight": 1.0}}
        counts = {"success": 1.0, "score": 1.0, "steps": float(len(responses)), "invalid": 0.0}
        assert trace["metrics"] == counts | environment.metrics
        identity = {"environment": name, "split": "train", "id": task.id}
        assert trace["info"] == {"task": identity, "stop_reason": "success"}


def test_the_example_of_the_page(serve, tmp_path, monkeypatch, capsys):
    page = (Path(__file__).parents[2] / "docs/gymnasium.md").read_text(encoding="utf-8")
    shown = re.search(r"```bash\n(vf-eval.*?)```\n\n```python\n(.*?)```", page, flags=re.DOTALL)
    assert shown is not None
    command = shown[1].replace("http://127.0.0.1:8000/v1", serve(expert("webshop")).url).replace("\\\n", " ")
    assert "127.0.0.1:8000" not in command
    program, *options = shlex.split(command)
    monkeypatch.chdir(tmp_path)
    subprocess.run([Path(sys.executable).with_name(program), *options], check=True, capture_output=True, timeout=300)
    exec(shown[2], {})
    printed = capsys.readouterr().out
    assert sorted(re.findall(r"webshop test (\d) 1.0 success", printed)) == ["0", "1", "2"]
    assert printed.count("'r_type': 1.0") == 3


def test_settings_reach_the_episode(serve, tmp_path):
    model = serve(lambda messages: "<think>Hm.</think><answer>a b c</answer>")
    options = [
        "environment",
        "deepsearch",
        "split",
        "ood",
        "reward",
        "score",
        "system",
        "Answer.",
        "settings.seed",
        "3",
    ]
    pairs = zip(options[::2], options[1::2], strict=True)
    output, traces = evaluate(model, tmp_path, *(part for k, v in pairs for part in (f"--env.taskset.{k}", v)))
    assert len(traces) == 3, output
    questions = Split(open_dataset("deepsearch", settings={"seed": 3}), "ood", 50)
    for task, trace in zip(questions.tasks, traces, strict=False):
        assert said(trace, "user") == [questions.arena.make().reset(task)]
        assert said(trace, "system") == ["Answer."]
        assert trace["rewards"]["score"]["score"] == trace["metrics"]["f1"]
        assert trace["info"]["stop_reason"] == "failure"


def test_limits_of_environment_and_agent_end_an_episode(serve, tmp_path):
    model = serve(lambda messages: "I do not know.")
    _, traces = evaluate(model, tmp_path / "steps", "--env.taskset.max-steps", "3")
    assert [trace["info"]["stop_reason"] for trace in traces] == ["step_limit"] * 3
    assert [(t["metrics"]["steps"], t["metrics"]["invalid"]) for t in traces] == [(3.0, 3.0)] * 3
    _, traces = evaluate(model, tmp_path / "turns", "--env.agent.max-turns", "2")
    assert [trace["info"]["stop_reason"] for trace in traces] == ["agent_stopped"] * 3
    assert [trace["metrics"]["steps"] for trace in traces] == [2.0] * 3
    assert all(trace["rewards"]["outcome"]["score"] == 0.0 for trace in traces)


def test_an_error_of_the_server_is_no_failure_of_the_agent(serve, tmp_path):
    def broken(messages: list[dict[str, str]]) -> str:
        if len(messages) > 3:
            raise RuntimeError("out of memory")
        return expert("alfworld")(messages)

    output, traces = evaluate(serve(broken), tmp_path)
    assert len(traces) == 3, output
    for trace in traces:
        assert "out of memory" in json.dumps(trace["errors"])
        assert trace["rewards"] == {}


def test_a_wrong_name_is_one_message(serve, tmp_path):
    output, traces = evaluate(serve(expert("alfworld")), tmp_path, "--env.taskset.environment", "alfwrld")
    assert "environment: expected one of alfworld, deepsearch, webshop, found 'alfwrld'; did you mean" in output
    assert traces == []


def test_verifiers_finds_the_parts_and_no_torch():
    assert environment_class("empg-verifiers") is EpisodeEnv
    config = resolve_env_config({"taskset": {"id": "empg-verifiers", "split": "valid", "environment": "webshop"}})
    taskset = load_taskset(config.taskset)
    assert isinstance(taskset, EpisodeTaskset)
    tasks = list(taskset.take(4))
    assert [task.data.id for task in tasks] == [f"webshop/valid/{i}" for i in range(4)]
    assert all(isinstance(task, vf.Task) for task in tasks)
    assert "torch" not in sys.modules
    with pytest.raises(ConfigError, match="settings of alfworld: profile"):
        EpisodeTaskset(EpisodesConfig(settings={"profile": "huge"}))


def test_an_unknown_environment_is_explained_by_its_tags():
    assert "<action>" in _told_by_tags(("think", "action"))
    assert "<move>, <look>" in _told_by_tags(("move", "look"))
