"""How the command ends: one code for each kind of trouble, so that a script can tell them apart."""

from enum import IntEnum

import click
import msgspec
from llama_orch_adapter_api import (
    AdapterError,
    DeadlineUnmet,
    DecodeTimeout,
    Error,
    LaunchError,
    PoolUnavailable,
    WorkerError,
    WorkerReset,
)

from .._config import ConfigError
from .._plugins import NoAdapterError, UnknownEngineError


class Exit(IntEnum):
    """The exit codes."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NO_ADAPTER = 3
    UNKNOWN_ENGINE = 4
    CONFIG = 5
    BAD_REQUEST = 6
    NOT_UTF8 = 7
    UNKNOWN_POOL = 8
    UNREACHABLE = 9
    LOADING = 10
    UNAVAILABLE = 11
    CONTEXT_LENGTH = 12
    REFUSED = 13
    DEADLINE = 14
    TIMEOUT = 15
    RESET = 16
    ENGINE = 17
    LAUNCH = 18
    TAKEN = 19
    INTERRUPTED = 130


class BadRequestError(ValueError):
    """The task that was asked for cannot be sent to any engine."""


class NotUtf8Error(ValueError):
    """Input that is not text."""


class Interrupted(Exception):
    """Ctrl-C; the message says what it stopped."""


class OutputError(Exception):
    """What the command has to say cannot be written."""


class NotWrittenError(OutputError):
    """What the command was to make cannot be written."""


class TakenError(ValueError):
    """What the command was to make is there already."""


_DETAILS = {
    (PoolUnavailable, "unknown_pool"): Exit.UNKNOWN_POOL,
    (PoolUnavailable, "unreachable"): Exit.UNREACHABLE,
    (PoolUnavailable, "loading"): Exit.LOADING,
    (AdapterError, "address"): Exit.CONFIG,
    (AdapterError, "context_length"): Exit.CONTEXT_LENGTH,
    (AdapterError, "bad_request"): Exit.BAD_REQUEST,
    (AdapterError, "duplicate_task"): Exit.BAD_REQUEST,
    (AdapterError, "decode"): Exit.ENGINE,
    (AdapterError, "too_large"): Exit.ENGINE,
    (AdapterError, "encoding"): Exit.ENGINE,
    (AdapterError, "plugin"): Exit.ENGINE,
}
"""Details that have a code of their own, before that of their kind."""

_KINDS: tuple[tuple[type[Exception], Exit], ...] = (
    (PoolUnavailable, Exit.UNAVAILABLE),
    (AdapterError, Exit.REFUSED),
    (DeadlineUnmet, Exit.DEADLINE),
    (DecodeTimeout, Exit.TIMEOUT),
    (WorkerReset, Exit.RESET),
    (WorkerError, Exit.ENGINE),
    (LaunchError, Exit.LAUNCH),
    (NoAdapterError, Exit.NO_ADAPTER),
    (UnknownEngineError, Exit.UNKNOWN_ENGINE),
    (ConfigError, Exit.CONFIG),
    (NotUtf8Error, Exit.NOT_UTF8),
    (BadRequestError, Exit.BAD_REQUEST),
    (click.UsageError, Exit.USAGE),
    (TakenError, Exit.TAKEN),
    (NotWrittenError, Exit.FAILED),
    (Interrupted, Exit.INTERRUPTED),
)

EXPECTED = tuple(kind for kind, _ in _KINDS)
"""All that a user's input or an engine can bring about: told in a sentence, without a traceback."""


def code_of(error: Exception) -> Exit:
    """The exit code for an expected error."""
    if isinstance(error, WorkerError) and (type(error), error.detail) in _DETAILS:
        return _DETAILS[type(error), error.detail]
    return next((code for kind, code in _KINDS if isinstance(error, kind)), Exit.FAILED)


class Failure(Error, frozen=True, tag_field="kind", tag="error", kw_only=True):
    """Why a command failed: an `Error` and the exit code, whose name is its `code` where no `WorkerError` gave one."""

    exit_code: int

    @classmethod
    def of(cls, error: Exception) -> "Failure":
        """The failure that an error is; each problem of a configuration is a line of its message."""
        code = code_of(error)
        if isinstance(error, WorkerError):
            return cls(**msgspec.structs.asdict(Error.of(error)), exit_code=code)
        return cls(code.name, _message(error), engine=None, retriable=False, exit_code=code)


def _message(error: Exception) -> str:
    if isinstance(error, ConfigError):
        told = "\n".join(error.problems)
    else:
        told = error.format_message() if isinstance(error, click.UsageError) else str(error)
    return told.encode(errors="backslashreplace").decode()  # arguments that are no UTF-8 may be quoted in it
