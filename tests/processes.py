"""Waiting for processes that are not our children, or that somebody else reaps."""

from __future__ import annotations

import os
import select
from typing import Final

import psutil

_TIMEOUT_S: Final = 10.0


def ended(process: psutil.Process) -> bool:
    """Whether the process, with all its threads, ends in time; nobody need have reaped it."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], _TIMEOUT_S)[0])
    finally:
        os.close(descriptor)
