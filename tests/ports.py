"""Ports that a test may keep for itself while nothing listens on them yet, or for a moment."""

from __future__ import annotations

import itertools
import os
import random
import socket
from contextlib import suppress
from typing import Final

# Linux gives ports from 32768 on to whoever asks for any. One of those might go to a connection of
# another test between two starts of a server. Four workers have 5,000 each below that.
_FIRST: Final = 10_000
_EACH: Final = 5_000
_WORKER: Final = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 4
_numbers: Final = itertools.count(random.SystemRandom().randrange(_EACH))


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody uses, each time another."""
    for number in _numbers:
        port = _FIRST + _WORKER * _EACH + number % _EACH
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError
