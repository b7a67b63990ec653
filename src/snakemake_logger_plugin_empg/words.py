"""What is said of an event, as text without control codes. No output."""

from __future__ import annotations

import re
from pathlib import Path

from empg.progress import Progress, clock, of_last_process
from snakemake_logger_plugin_empg.study import Job, Study

LINES_OF_A_LOG = 20  # of a failed job
# First words of Snakemake's messages that the displays leave out or replace.
LEFT_OUT = (
    "Assuming unrestricted shared filesystem usage",
    "Building DAG of jobs",
    "Complete log",
    "Conda environments: ignored",
    "Elapsed time",
    "Execute ",
    "Exiting because a job execution failed",
    "Provided cores",
    "Provided remote nodes",
    "Provided resources",
    "Reasons:",
    "Rules claiming more threads",
    "Select jobs to execute",
    "Some jobs were triggered by provenance information",
    "This was a dry-run",
    "Touching output file",
    "Using shell",
    "Workflow has started",
)
# Says how a job's command ended. It comes before the event of the job's failure, which does not say it.
COMMAND_FAILED = re.compile(r"Command '(.*)' (?:returned non-zero exit status|died with) ([^\n]+)\.", re.DOTALL)
FAILED = "At least one job did not complete successfully"  # part of Snakemake's last message of a run that failed
# Snakemake's reasons for a job, and what they mean to the reader of a study.
REASONS = {
    "Missing output files": "not done yet",
    "Incomplete output files": "was interrupted",
    "Updated input files": "changed: {files}",
    "Input files updated by another job": "an earlier job changes its input",
    "Set of input files has changed": "its list of inputs has changed",
    "Code has changed": "its rule has changed",
    "Params have changed": "its parameters have changed",
    "Software environment definition has changed": "its software environment has changed",
    "Forced execution": "forced",
}


def reason(text: str) -> str:
    """Why a job runs, from Snakemake's reason: no file names but those of inputs that have changed.

    That an earlier job changes the input is left out where there is another reason.
    """
    found = {}
    for part in re.split(r"; (?=[A-Z])", text):
        begin, _, files = part.partition(": ")
        known = next((known for known in REASONS if begin.startswith(known)), None)
        found[known or part] = REASONS[known].format(files=files) if known else part
    if len(found) > 1:
        found.pop("Input files updated by another job", None)
    return ", ".join(found.values())


def what(message: str | None, rule: str, wildcards: object) -> str:
    """What a job does: the rule's message, or else its name and wildcards."""
    if message:
        return message.rstrip(".")
    values = ", ".join(map(str, wildcards.values())) if isinstance(wildcards, dict) else ""
    return f"{rule} ({values})" if values else rule


def finished(job: Job, now: float) -> str:
    """A job has ended."""
    return f"{job.what}: done in {clock(now - job.started)}"


def failed(job: Job, now: float, status: str | None) -> str:
    """A job has failed; ``status`` is its command's exit status where that tells more than the log does."""
    killed = f" (exit status {status})" if status not in (None, "1", "2") else ""
    return f"{job.what}: failed after {clock(now - job.started)}{killed}"


def roughly(seconds: float) -> str:
    """An estimate, as exactly as it deserves: ``8:30``, ``61 min``, ``2.5 h``."""
    if seconds < 600:
        return clock(seconds)
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def jobs(count: int) -> str:
    """A number of jobs."""
    return f"{count} job" if count == 1 else f"{count} jobs"


def of_all(study: Study) -> str:
    """How many jobs are done."""
    return f"{study.done} of {study.total} jobs done"


def error(logs: list[str], show: bool) -> list[str]:
    """The error message in a failed job's log, and where the log is.

    That is what ``empg`` said, from ``empg: error:`` on; for an error in the program or in another one, the log's last
    lines. Lines of progress are left out.
    """
    if not logs:
        return ["It has no log."]
    where = f"Log: {logs[0]}"
    try:
        lines = Path(logs[0]).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ["It wrote no log.", where]
    lines = [line for line in of_last_process(lines) if line.strip() and Progress.parse(line) is None]
    if not lines:
        return ["It wrote no message. It may have been killed, for example because memory ran out.", where]
    begin = next((i for i, line in enumerate(lines) if line.startswith("empg: error:")), None)
    if not show:
        lines = lines[-1:]
    elif begin is None or "the traceback is above" in lines[begin]:
        lines = lines[-LINES_OF_A_LOG:]
    else:
        lines = lines[begin:]
    return [*lines, where]


def end(study: Study, now: float) -> list[str]:
    """The outcome of the run; nothing for one that ran nothing."""
    if study.started is None or not study.total:
        return []
    if study.done >= study.total:
        return [f"Done: {jobs(study.total)} in {clock(study.elapsed(now))}."]
    lines = [f"Stopped after {clock(study.elapsed(now))}: {of_all(study)}, {len(study.failed)} failed."]
    lines += [f"  failed: {name}" for name in study.failed.values()]
    return [*lines, "Run the same command again to continue from here."]
