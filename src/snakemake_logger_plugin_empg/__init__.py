"""What people see while Snakemake runs a study: ``--logger empg``, which profiles/default/config.yaml chooses.

In a terminal each running job has a live line, and the whole study has one below them; elsewhere a job has a line when
it starts and one when it ends. ``--verbose``, ``--debug-dag`` and ``--quiet`` give Snakemake's own output. Nothing of
this decides what runs: no failure in here stops a run.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from logging import Handler, LogRecord

from snakemake_interface_logger_plugins.base import LogHandlerBase

from snakemake_logger_plugin_empg.plain import Plain
from snakemake_logger_plugin_empg.study import Study

__all__ = ["LogHandler"]


class LogHandler(LogHandlerBase):
    """Passes Snakemake's events on to the display that suits the output, and to a simpler one when that fails."""

    writes_to_stream = True
    writes_to_file = False
    has_filter = False  # Snakemake adds its own, which knows --quiet and --printshellcmds
    has_formatter = False
    needs_rulegraph = False

    def __post_init__(self) -> None:
        self._study = Study()
        self._display = self._choose()

    def emit(self, record: LogRecord) -> None:
        """Show an event."""
        try:
            self._display.handle(record)
        except Exception:
            self._simplify()
            with suppress(Exception):
                self._display.handle(record)

    def close(self) -> None:
        """End the display. Snakemake may call this more than once."""
        try:
            self._display.close()
        except Exception:
            self._simplify()
            with suppress(Exception):
                self._display.close()
        super().close()

    def _choose(self) -> Plain | Handler:
        settings = self.common_settings
        stream = sys.stdout if settings.stdout else sys.stderr
        quiet = {str(part) for part in settings.quiet or ()} - {"host", "reason"}
        if settings.verbose or settings.debug_dag or quiet:
            from snakemake.logging import ColorizingTextHandler, DefaultFormatter

            formatter = DefaultFormatter(settings.quiet, settings.show_failed_logs)
            own: Handler = ColorizingTextHandler(settings.nocolor, stream, formatter)
            return own
        if stream.isatty() and not settings.dryrun:
            with suppress(Exception):
                from snakemake_logger_plugin_empg.terminal import Terminal

                return Terminal(self._study, stream, settings)
        return Plain(self._study, stream, settings)

    def _simplify(self) -> None:
        """Plain lines from here on."""
        with suppress(Exception):
            if isinstance(self._display, Plain):
                self._display.stop()
        stream = sys.stdout if self.common_settings.stdout else sys.stderr
        self._display = Plain(self._study, stream, self.common_settings)
