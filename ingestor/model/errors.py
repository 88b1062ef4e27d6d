"""The one exception tree, and the exit code that each kind of failure ends the program with.

An exception means that something is broken. "Full", "empty" and "need more" are ordinary
answers and are returned, never raised. Every message is one sentence for the operator: it names
the path, key, record or server that it is about.
"""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar


class ExitCode(IntEnum):
    """What the process reports to its supervisor (docs/exit-codes.md)."""

    OK = 0
    INTERNAL = 1
    CONFIGURATION = 2
    NO_DATA = 3
    BAD_DATA = 4
    NATS_UNREACHABLE = 5
    NATS_REFUSED = 6
    STREAM = 7
    VENDOR_REFUSED = 8
    CHILD_FAILED = 9
    EMBEDDED_SERVER = 10
    STREAM_IN_USE = 11
    INTERRUPTED = 130
    HANDED_OVER = 138
    TERMINATED = 143


class IngestorError(Exception):
    """Root of everything this program raises on purpose."""

    exit_code: ClassVar[ExitCode] = ExitCode.INTERNAL


class ConfigurationError(IngestorError):
    """A flag, variable or key is unknown, of the wrong type or out of range."""

    exit_code = ExitCode.CONFIGURATION


class PlaceInUseError(ConfigurationError):
    """Another process has the folder or the port; it may let go of it."""


class NoDataError(IngestorError):
    """A folder or file that was asked for does not exist."""

    exit_code = ExitCode.NO_DATA


class BadDataError(IngestorError):
    """A file or a message is not what its name says, or ends too early."""

    exit_code = ExitCode.BAD_DATA


class NatsUnreachableError(IngestorError):
    """No server answers, or it stayed away past the limit; worth starting again later."""

    exit_code = ExitCode.NATS_UNREACHABLE


class NatsRefusedError(IngestorError):
    """The server answers and says no: credentials, permissions, TLS."""

    exit_code = ExitCode.NATS_REFUSED


class StreamError(IngestorError):
    """JetStream is off, or the stream cannot be made or does not take messages."""

    exit_code = ExitCode.STREAM


class VendorRefusedError(IngestorError):
    """The vendor refuses the key or the plan; trying again cannot help."""

    exit_code = ExitCode.VENDOR_REFUSED


class ChildFailedError(IngestorError):
    """A process of ours died or fell silent."""

    exit_code = ExitCode.CHILD_FAILED


class EmbeddedServerError(IngestorError):
    """The NATS server that we start ourselves did not start, or stopped by itself."""

    exit_code = ExitCode.EMBEDDED_SERVER


class StreamInUseError(IngestorError):
    """Another run writes the same subjects of the same stream."""

    exit_code = ExitCode.STREAM_IN_USE


class JobExistsError(StreamError):
    """The stream holds the job, or a part of it, and the run was told to refuse that."""
