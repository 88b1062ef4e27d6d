"""Logging of one process: lines on standard error, with the process's name in each.

Standard output is kept for results. Every process of a run configures logging for itself, since
handlers do not survive into a child in a defined state.
"""

from __future__ import annotations

import logging
import sys
import time
from typing import Final

_FORMAT: Final = "%(asctime)s.%(msecs)03dZ %(levelname)-7s %(process_label)s: %(message)s"


class _Labelled(logging.Formatter):
    """Times in UTC, and the label of the process that speaks."""

    def __init__(self, label: str) -> None:
        super().__init__(_FORMAT, datefmt="%Y-%m-%dT%H:%M:%S")
        self.converter = time.gmtime
        self._label = label

    def format(self, record: logging.LogRecord) -> str:
        record.process_label = self._label
        return super().format(record)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (logging's own name)
        """Leave out the name with which a feed begins what it says: its process has it too."""
        record.message = record.message.removeprefix(f"{self._label}: ")
        return super().formatMessage(record)


def configure(label: str, level: str) -> None:
    """Send this process's log to standard error; `level` is a name such as ``INFO``."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Labelled(label))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("nats").setLevel(logging.CRITICAL)
    logging.getLogger("websockets").setLevel(logging.WARNING)
