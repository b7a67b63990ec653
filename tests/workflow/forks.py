"""A process that holds Snakemake's libraries and forks for each run: to import them is most of what a plan costs.

It imports nothing of this project. It reads a request a line, as JSON, and answers with the exit code of
``python -m snakemake`` in the folder and the environment that the request names.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import subprocess
import sys
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

OWN = ("empg", "snakemake_logger_plugin_")
LIBRARIES = (
    "snakemake.cli",
    "snakemake.profiles",
    "snakemake.storage",
    "smart_open",
    "requests",
    "grimp",
    "pydantic",
    "psutil",
)


class Forks:
    """The process as seen by the tests. It starts with the first run."""

    @cached_property
    def _process(self) -> subprocess.Popen[str]:
        env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        return subprocess.Popen([sys.executable, __file__], env=env, **pipes)

    def snakemake(self, folder: Path, env: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
        """What ``python -m snakemake`` prints and returns in this folder and environment."""
        with TemporaryDirectory() as place:
            printed = [Path(place, name) for name in ("stdout", "stderr")]
            request = {"folder": str(folder), "env": env, "arguments": arguments, "printed": [*map(str, printed)]}
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            print(json.dumps(request), file=self._process.stdin, flush=True)
            code = int(self._process.stdout.readline())
            stdout, stderr = (path.read_text(encoding="utf-8") for path in printed)
        return subprocess.CompletedProcess(["snakemake", *arguments], code, stdout, stderr)

    def close(self) -> None:
        """End the process, if it has started."""
        if "_process" in vars(self):
            self._process.communicate()


def serve() -> None:
    """Answer requests until there are no more."""
    path = sys.path[1:]  # without the folder of this file
    for library in LIBRARIES:
        importlib.import_module(library)
    assert not [name for name in sys.modules if name.startswith(OWN)], "a run takes them from its own project"
    gc.freeze()  # a fork copies no page of memory to look for garbage in it
    for line in sys.stdin:
        if child := os.fork():
            _, status = os.waitpid(child, 0)
            print(os.waitstatus_to_exitcode(status), flush=True)
        else:
            return become_snakemake(json.loads(line), path)


def become_snakemake(request: dict[str, Any], path: list[str]) -> None:
    """What a new interpreter would do: output, folder, environment and path of modules; then Snakemake."""
    for stream, name in enumerate([os.devnull, *request["printed"]]):
        file = os.open(name, os.O_RDWR | os.O_CREAT)
        os.dup2(file, stream)
        os.close(file)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["env"])
    sys.path[:] = [request["folder"], *filter(None, request["env"].get("PYTHONPATH", "").split(os.pathsep)), *path]
    sys.argv = ["snakemake", *request["arguments"]]
    runpy.run_module("snakemake", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    serve()
