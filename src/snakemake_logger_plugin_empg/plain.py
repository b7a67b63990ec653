"""The display where the output is no terminal: whole lines, no control codes."""

from __future__ import annotations

import time
from collections.abc import Mapping
from logging import INFO, LogRecord
from pathlib import Path
from typing import Any, TextIO

from snakemake_interface_logger_plugins.common import LogEvent
from snakemake_interface_logger_plugins.settings import OutputSettingsLoggerInterface

from snakemake_logger_plugin_empg import words
from snakemake_logger_plugin_empg.study import Job, Study


class Plain:
    """One line when a job starts and one when it ends. A dry run lists the jobs with the reason for each."""

    def __init__(self, study: Study, stream: TextIO, settings: OutputSettingsLoggerInterface) -> None:
        self.study, self.stream, self.settings = study, stream, settings
        self.closed = False
        self.ends: list[tuple[str, str]] = []  # commands that failed, each with its exit status

    # ---------------------------------------------------------------------------------------------------------- output
    def write(self, text: str, style: str = "") -> None:
        """Write whole lines; ``style`` is for terminals."""
        self.stream.write(f"{text}\n")
        self.stream.flush()

    def stop(self) -> None:
        """Give the output back: what a terminal draws ends here."""

    def close(self) -> None:
        """Say how the run ended; once."""
        if not self.closed and not self.settings.dryrun:
            self.closed = True
            for line in words.end(self.study, time.time()):
                self.write(line)

    # ---------------------------------------------------------------------------------------------------------- events
    def handle(self, record: LogRecord) -> None:
        """Show one of Snakemake's events."""
        fields: Mapping[str, Any] = vars(record)
        match fields.get("event"):
            case LogEvent.RUN_INFO:
                self.study.plan(fields["stats"], record.created)
            case LogEvent.JOB_INFO:
                self._begun(fields)
            case LogEvent.JOB_FINISHED:
                if job := self.study.finish(fields["job_id"], record.created):
                    self.on_finish(job, record.created)
            case LogEvent.JOB_ERROR:
                self._failed(fields)
            case LogEvent.SHELLCMD if fields.get("shellcmd") or fields.get("cmd"):
                self.write(f"    {fields.get('shellcmd') or fields['cmd']}")
            case LogEvent.GROUP_INFO | LogEvent.GROUP_ERROR | LogEvent.ERROR | LogEvent.DEBUG_DAG | None:
                self._message(record)
            case _:  # progress, resources, the start of the run: said elsewhere or of no use to the reader
                pass

    def _begun(self, fields: Mapping[str, Any]) -> None:
        if not fields.get("shellcmd"):
            return  # the target rule
        name = words.what(fields["rule_msg"], fields["rule_name"], fields["wildcards"])
        if self.settings.dryrun:
            self.write(f"{name}: {words.reason(fields['reason'])}")
            return
        log = Path(fields["log"][0]) if fields["log"] else None
        job = Job(fields["jobid"], fields["rule_name"], name, log, fields["created"])
        self.study.start(job)
        self.on_start(job)

    def _failed(self, fields: Mapping[str, Any]) -> None:
        job = self.study.fail(fields["jobid"])
        if job is None:
            return
        command = fields.get("shellcmd")
        status = next((status for text, status in reversed(self.ends) if command and command in text), None)
        self.write(words.failed(job, fields["created"], status), "bold red")
        for line in words.error([*fields["log"]], self.settings.show_failed_logs):
            self.write(f"    {line}")

    def _message(self, record: LogRecord) -> None:
        text = record.getMessage().strip("\n")
        if found := words.COMMAND_FAILED.search(text):
            self.ends.append((found[1], found[2]))
        elif self.settings.dryrun and text.startswith("This was a dry-run"):
            self.write(f"Dry run: {words.jobs(self.study.total)} to run.")
        elif words.FAILED in text or (record.levelno <= INFO and text.startswith(words.LEFT_OUT)):
            pass
        elif text and text != "None":
            self.write(text, "red" if record.levelno > INFO else "")

    # ----------------------------------------------------------------------------------- what a terminal does otherwise
    def on_start(self, job: Job) -> None:
        """A job begins."""
        self.write(f"{job.what}: started")

    def on_finish(self, job: Job, now: float) -> None:
        """A job has ended."""
        self.write(f"{words.finished(job, now)} ({words.of_all(self.study)})")
