"""A real Slurm cluster on loopback, with its own folder, keys and ports; nothing of it outlives the process."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

# Nodes claim more memory and processors than there are, and a GPU that is /dev/null, so that jobs of any profile run.
CONFIG = """\
ClusterName=empg
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={root}/munge.socket
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool-%n
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SlurmdParameters=config_overrides
JobCompType=jobcomp/filetxt
JobCompLoc={root}/jobs.txt
GresTypes=gpu
NodeName=first NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=4 RealMemory=128000 Gres=gpu:1
NodeName=second NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=4 RealMemory=128000 Gres=gpu:1
PartitionName=main Nodes=first,second Default=YES MaxTime=INFINITE State=UP
"""
SECONDS = 60


class Cluster:
    """Two nodes on this machine, without an accounting database. ``env`` leads Slurm's commands to them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        path = os.pathsep.join([str(root / "bin"), os.environ["PATH"]])
        self.env = os.environ | {"SLURM_CONF": str(root / "slurm.conf"), "PATH": path}
        self._daemons = ExitStack()

    def __enter__(self) -> Cluster:
        if missing := [name for name in ("munged", "slurmctld", "slurmd", "sbatch") if not shutil.which(name)]:
            raise FileNotFoundError(f"expected Slurm and munge, found no {', '.join(missing)}: see `make test-slurm`")
        self._configure()
        with ExitStack() as daemons:
            socket_ = self.root / "munge.socket"
            files = [f"--{name}={self.root / name}" for name in ("key-file", "pid-file", "log-file", "seed-file")]
            self._start(daemons, "munged", "--foreground", "--force", f"--socket={socket_}", *files)
            wait(socket_.exists, "munged to open its socket")
            self._start(daemons, "slurmctld", "-D", "-c")
            for node in ("first", "second"):
                self._start(daemons, "slurmd", "-D", "-c", "-N", node)
            daemons.callback(self._cancel_all)
            wait(lambda: self.ask("sinfo", "-h", "-N", "-o", "%T", check=False) == ["idle"] * 2, "two idle nodes")
            self._daemons = daemons.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._daemons.close()

    def ask(self, *command: str, check: bool = True) -> list[str]:
        """The lines of the answer of one of Slurm's commands."""
        done = subprocess.run(command, env=self.env, capture_output=True, text=True, check=False, timeout=SECONDS)
        assert done.returncode == 0 or not check, done.stderr
        return done.stdout.splitlines()

    def jobs(self, rule: str = "") -> list[str]:
        """The numbers of the jobs that wait or run and whose comment names the rule."""
        lines = [line.partition(" ") for line in self.ask("squeue", "-h", "-o", "%A %k", check=False)]
        return [number for number, _, comment in lines if rule in comment]

    def cancel(self, *jobs: str) -> None:
        """End jobs as a node that fails does: by SIGKILL, without time to write anything."""
        self.ask("scancel", "--signal=KILL", "--full", *jobs, check=False)

    def finished(self) -> list[dict[str, str]]:
        """What Slurm noted down of each job that ended: ``JobState``, ``Tres`` and more."""
        log = self.root / "jobs.txt"
        lines = log.read_text().splitlines() if log.exists() else []
        return [dict(field.partition("=")[::2] for field in line.split()) for line in lines]

    def _configure(self) -> None:
        host = socket.gethostname().partition(".")[0]
        text = CONFIG.format(host=host, ports=_free_ports(3), user=getpass.getuser(), root=self.root)
        (self.root / "slurm.conf").write_text(text)
        (self.root / "gres.conf").write_text("NodeName=first,second Name=gpu File=/dev/null\n")
        key = self.root / "key-file"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        for name in ("state", "spool-first", "spool-second", "bin"):
            (self.root / name).mkdir()
        # Snakemake's executor drops SLURM_CONF inside a job. Where /etc/slurm has a cluster's file, nothing is missing.
        srun = self.root / "bin" / "srun"
        srun.write_text(f'#!/bin/sh\nSLURM_CONF={self.root}/slurm.conf exec {shutil.which("srun")} "$@"\n')
        srun.chmod(0o755)

    def _start(self, daemons: ExitStack, *command: str) -> None:
        """Start a daemon that the kernel ends with this process, whatever ends it."""
        with (self.root / f"{'-'.join([command[0], command[-1].strip('-')[:6]])}.out").open("w") as out:
            guarded = ["setpriv", "--pdeathsig", "TERM", *command]
            daemon = subprocess.Popen(guarded, env=self.env, stdout=out, stderr=subprocess.STDOUT)
        daemons.callback(_end, daemon)

    def _cancel_all(self) -> None:
        if jobs := self.jobs():
            self.cancel(*jobs)
            self.ask("scancel", *jobs, check=False)
            wait(lambda: not self.jobs(), "cancelled jobs to end")


def wait(holds, what: str, seconds: float = SECONDS) -> None:
    """Wait until ``holds()``, for at most so many seconds."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"waited {seconds} s for {what}"
        time.sleep(0.05)


def _end(daemon: subprocess.Popen) -> None:
    daemon.terminate()
    try:
        daemon.wait(20)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
