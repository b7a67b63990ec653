"""``empg serve-retriever`` as a process: it prints its address, answers there, and ends on request."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import httpx


def test_a_corpus_is_served_over_http(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.jsonl"
    pages = [
        {"id": "0", "contents": '"Lima"\nThe capital of Peru.'},
        {"id": "1", "contents": '"Oslo"\nA city in Norway.'},
    ]
    corpus.write_text("".join(f"{json.dumps(page)}\n" for page in pages))
    command = [
        sys.executable,
        "-m",
        "empg",
        "serve-retriever",
        "--corpus",
        str(corpus),
        "--index",
        str(tmp_path / "index"),
        "--port",
        "0",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert "built first" in process.stdout.readline()
            assert process.stdout.readline() == f"{tmp_path / 'index'}: 2 passages\n"
            url = process.stdout.readline().removeprefix("answers at ").strip()
            assert url.startswith("http://127.0.0.1:")
            reply = httpx.post(url, json={"queries": ["capital of Peru"], "topk": 1, "return_scores": True})
            assert reply.json()["result"][0][0]["document"] == pages[0]
        finally:
            process.send_signal(signal.SIGINT)
    assert process.returncode in (0, 130, -signal.SIGINT)


def test_a_broken_corpus_is_the_users_mistake(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("no JSON\n")
    command = [sys.executable, "-m", "empg", "serve-retriever", "--corpus", str(corpus), "--index", str(tmp_path / "i")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "corpus.jsonl" in result.stderr
