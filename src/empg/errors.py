"""Errors, typed by boundary. Every message says where, what was expected and what was found."""

from __future__ import annotations


class EmpgError(Exception):
    """Base of the errors that this package raises on purpose. ``exit_code`` is what the command line returns."""

    exit_code = 1


class UserError(EmpgError):
    """Something that the user gave is wrong: configuration, a path, a file's content."""

    exit_code = 2


class ConfigError(UserError):
    """An unknown key, a wrong type or an impossible value in the configuration."""


class DataError(UserError):
    """A missing, truncated or malformed data file: task data, rollouts, a checkpoint, a model folder."""


class StorageError(EmpgError, OSError):
    """A file could not be written: the disk is full, read-only or the like. What was written before is whole."""


class EnvironmentStateError(EmpgError):
    """An environment was used out of order, for example stepped after its episode had ended."""


class DivergenceError(EmpgError):
    """Training met a loss, gradient or weight that is not finite; the last good checkpoint is kept."""


class AuditError(EmpgError):
    """Results differ from what was recorded of them."""
