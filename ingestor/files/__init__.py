"""Reading what lies on a disk: small files within a bound, plain and compressed streams."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from ingestor.model.errors import ConfigurationError


def read_small_file(what: str, path: Path, limit_bytes: int) -> bytes:
    """Return a regular file of at most `limit_bytes`; `what` opens an error's sentence.

    Raises `ConfigurationError` naming `what` and the path: nothing there, a folder, a pipe (which
    could block forever), too large.
    """
    try:
        # Without O_NONBLOCK opening a pipe that nobody writes to does not return.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise ConfigurationError(f"{what} {path} is no regular file")
            # One more than allowed tells, without asking for a size that may change meanwhile.
            data = file.read(limit_bytes + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigurationError(f"{what} {path} cannot be read: {reason}") from None
    if len(data) > limit_bytes:
        raise ConfigurationError(f"{what} {path} is larger than {limit_bytes} bytes")
    return data


def others_may_read(path: Path) -> bool:
    """Whether every user of this machine may read the file, as far as its own mode says."""
    try:
        return bool(path.stat().st_mode & stat.S_IROTH)
    except OSError:
        return False
