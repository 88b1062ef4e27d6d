"""How far a run has come, and what a file held that was not passed on."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ingestor.model.bounds import printable

logger = logging.getLogger(__name__)

TEXTS_TOLD: Final = 10
"""Of a gateway's errors, and of its other messages, this many are shown for each file."""


@dataclass(slots=True)
class Progress:
    """Counts of one run, updated with every block.

    Every record found is in exactly one of `records`, `filtered`, `skipped` and `control`.

    Attributes:
        files_total: Files of the run.
        files_done: Files read to their end.
        bytes_total: Bytes of these files on disk.
        bytes_read: Bytes of them read so far.
        records: Records yielded.
        filtered: Records outside the time windows, of other symbols or of another feed.
        skipped: Cause to number of records left out because they are of no use.
        control: What a gateway says between the data: no data, so nothing is lost with it.
        late: Records yielded that step back in time in their file.
        path: The file being read, or the last one.
    """

    files_total: int = 0
    files_done: int = 0
    bytes_total: int = 0
    bytes_read: int = 0
    records: int = 0
    filtered: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    control: int = 0
    late: int = 0
    path: Path | None = None


@dataclass(slots=True)
class FileIssues:
    """What is wrong or odd in one file: each cause, its count and the first record it concerns."""

    path: Path
    _skipped: dict[str, tuple[int, int]] = field(default_factory=dict)
    _late: tuple[int, int] = (0, 0)
    _texts: Counter[int] = field(default_factory=Counter)

    def skipped(self, cause: str, count: int, first: int) -> None:
        """Note records left out; `first` is the number (from 0) of the first of them."""
        before, earliest = self._skipped.get(cause, (0, first))
        self._skipped[cause] = (before + count, min(earliest, first))

    def late(self, count: int, first: int) -> None:
        """Note records that step back in time."""
        before, earliest = self._late
        self._late = (before + count, earliest if before else first)

    def told(self, level: int, text: str, number: int) -> None:
        """Log what the vendor's gateway says in record `number` (from 0), `TEXTS_TOLD` times."""
        self._texts[level] += 1
        if self._texts[level] <= TEXTS_TOLD:
            logger.log(
                level,
                '%s: record number %d (from 0) is a message of the gateway: "%s"',
                self.path,
                number,
                printable(text),
            )

    def log(self) -> None:
        """Say each cause once."""
        for level, count in self._texts.items():
            if count > TEXTS_TOLD:
                logger.log(
                    level,
                    "%s: more messages of the gateway, which are not shown: %d",
                    self.path,
                    count - TEXTS_TOLD,
                )
        for cause, (count, first) in self._skipped.items():
            logger.warning(
                "%s: records skipped: %d, the first is number %d (from 0): %s",
                self.path,
                count,
                first,
                cause,
            )
        count, first = self._late
        if count:
            logger.warning(
                "%s: records that step back in time: %d, the first is number %d (from 0); "
                "they keep their place",
                self.path,
                count,
                first,
            )
