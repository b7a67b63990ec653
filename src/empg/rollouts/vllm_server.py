"""The vLLM server of a stage: the one that the configuration names, or one that the stage starts and ends."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from empg.config import Sampling
from empg.errors import ConfigError
from empg.policy.policy import Policy
from empg.rollouts.vllm_client import Client, ServerError

PYTHON = "EMPG_VLLM_PYTHON"  # names the interpreter of the environment that has vLLM
DEFAULT_PYTHON = ".venv-vllm/bin/python"
START_SECONDS = 900.0
REQUEST_SECONDS = 600.0
STOP_SECONDS = 20.0
BATCHED_TOKENS = 4096
# Linux ends the server with the stage, however the stage ends: prctl(PR_SET_PDEATHSIG, SIGTERM), which an exec keeps.
LAUNCH = (
    "import ctypes, os, sys; getattr(ctypes.CDLL(None), 'prctl', lambda *_: 0)(1, 15); "
    "os.execv(sys.executable, [sys.executable, '-m', *sys.argv[1:]])"
)


class Server:
    """A server and which weights it has. It is found, or started, when the first request needs it.

    Args:
        sampling: with the engine ``vllm``.
        model: the model folder that a server of our own starts with.
        scratch: where weights on their way to the server lie; the server must see the same folder.
    """

    def __init__(self, sampling: Sampling, model: Path, scratch: Path) -> None:
        self.sampling, self._model, self._scratch = sampling, model.resolve(), scratch.resolve()
        self._process: subprocess.Popen[bytes] | None = None
        self._url = sampling.url
        self._version = ""
        self.stale = True  # whether the policy has changed since its weights were loaded

    def url(self, policy: Policy) -> str:
        """The server's address. Starts one, in the policy's precision, if the configuration names none.

        Call it from the main thread: a server ends with the thread that started it.
        """
        if self._url is None:
            self._url = self._start(policy)
        self._check_alive()
        return self._url

    def connect(self, url: str) -> Client:
        """A client of the server, for one event loop."""
        return Client(url, connections=self.sampling.rows, timeout=REQUEST_SECONDS)

    async def has_current_weights(self, client: Client) -> bool:
        """Whether the server's weights are those that were loaded last, by us, from the policy as it is."""
        return not self.stale and await client.weight_version() == self._version

    async def load(self, client: Client, policy: Policy) -> None:
        """Give the server the policy's weights, by way of a folder."""
        self._version = f"empg-{secrets.token_hex(8)}"
        folder = self._scratch / self._version
        folder.mkdir(parents=True)
        try:
            policy.save(folder)
            await client.load_weights(folder, self._version)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        self.stale = False

    def close(self) -> None:
        """End the server if it is our own."""
        shutil.rmtree(self._scratch, ignore_errors=True)
        if self._process is None:
            return
        process, self._process = self._process, None
        for sign in (signal.SIGTERM, signal.SIGKILL):
            if process.poll() is None:
                os.killpg(process.pid, sign)
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                continue

    # ---------------------------------------------------------------------------------------------------- our own
    @property
    def _log(self) -> Path:
        return self._scratch.with_suffix(".log")  # hidden: it is no result

    def _start(self, policy: Policy) -> str:
        python = Path(os.environ.get(PYTHON, DEFAULT_PYTHON))
        if not python.exists():
            raise ConfigError(
                f"sampling.engine: expected an environment with vLLM at {python} (`make test-vllm` makes it; "
                f"{PYTHON} names another), or sampling.url, found neither"
            )
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            port = found.getsockname()[1]
        name = f"empg-{secrets.token_hex(8)}"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    str(python.absolute()),
                    "-c",
                    LAUNCH,
                    "vllm.entrypoints.openai.api_server",
                    *self._arguments(policy, port, name),
                ],
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        url = f"http://127.0.0.1:{port}"
        self._wait(url, name)
        return url

    def _arguments(self, policy: Policy, port: int, name: str) -> list[str]:
        sampling, dtype = self.sampling, str(policy.network.dtype).removeprefix("torch.")
        arguments = {
            "--model": self._model,
            "--served-model-name": name,  # so that an answer is known to be our own server's
            "--host": "127.0.0.1",
            "--port": port,
            "--dtype": dtype,
            "--max-model-len": sampling.max_context,
            "--max-num-seqs": sampling.rows,
            "--logprobs-mode": "processed_logprobs",  # those of the distribution at the sampling temperature
            "--generation-config": "vllm",  # and not the model's own sampling defaults
        }
        flags = [str(part) for pair in arguments.items() for part in pair]
        if policy.network.device.type == "cpu":
            # Chunked prefill and a seed end the engine on a CPU (vLLM 0.32).
            most = str(max(BATCHED_TOKENS, sampling.max_context))
            flags += ["--enforce-eager", "--no-enable-chunked-prefill", "--max-num-batched-tokens", most]
        return [*flags, *sampling.serve]

    def _wait(self, url: str, name: str) -> None:
        """Until the server answers under its name."""
        end = time.monotonic() + START_SECONDS
        with httpx.Client(timeout=5.0, trust_env=False) as http:
            while time.monotonic() < end:
                self._check_alive()
                try:
                    reply = http.get(f"{url}/v1/models")
                    if reply.status_code == 200 and [m["id"] for m in reply.json()["data"]] == [name]:
                        return
                except (httpx.TransportError, ValueError, KeyError, TypeError):
                    pass
                time.sleep(0.2)
        raise ServerError(f"{url}: expected a server within {START_SECONDS:g} s, found none; see {self._log}")

    def _check_alive(self) -> None:
        if self._process is not None and (status := self._process.poll()) is not None:
            lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
            why = next((line for line in reversed(lines) if "Error" in line), lines[-1] if lines else "an empty log")
            raise ServerError(
                f"vllm: expected a running server, found one that ended with {status}: {why}; see {self._log}"
            )


@contextmanager
def serving(sampling: Sampling, model: Path, out: Path) -> Iterator[Server | None]:
    """The stage's server while the block runs; None where the policy itself samples."""
    if sampling.engine == "native":
        yield None
        return
    server = Server(sampling, model, out / ".vllm")
    try:
        yield server
    finally:
        server.close()


def _environment() -> dict[str, str]:
    """The process's own, without what belongs to this interpreter, with what vLLM needs."""
    kept = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}
    defaults = {
        "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
    }
    return defaults | kept | {"VLLM_SERVER_DEV_MODE": "1"}
