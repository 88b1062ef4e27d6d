"""Waiting for processes that are not our children, or that somebody else reaps."""

from __future__ import annotations

import time
from typing import Final

import psutil

_TIMEOUT_S: Final = 10.0
_POLL_S: Final = 0.005


def ended(process: psutil.Process) -> bool:
    """Whether the process ends in time; one that nobody has reaped yet has ended."""
    deadline = time.monotonic() + _TIMEOUT_S
    while time.monotonic() < deadline:
        try:
            if process.status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(_POLL_S)
    return False
