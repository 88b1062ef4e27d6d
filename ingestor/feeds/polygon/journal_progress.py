"""How far a journal has been read, and what it held that was not passed on."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ingestor.feeds.polygon.decode import Decoded

MISSING: Final = "frame_not_in_journal"
"""Counts frames that were received and are not there: never recorded, damaged, or cut off."""

REPEATED: Final = "frame_repeated"
"""Counts frames that another segment held already, as a copy of one does."""

MAX_DAMAGES_TOLD: Final = 100
"""Damages that are logged; those after them are only counted."""

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class JournalProgress:
    """Counts of one run over a journal, updated with every block.

    Attributes:
        bytes_total: Bytes on disk of the segments to read.
        bytes_read: Bytes of them read so far.
        frames: Frames decoded.
        records: Records yielded.
        filtered: Records outside the time windows or of other symbols.
        skipped: What was left out, by cause, as the decoder names it; and `MISSING`.
        late: Records yielded that step back in time.
        damaged: Where bytes were passed over, in words; the first of them.
        damages: How many such places there are.
    """

    bytes_total: int = 0
    bytes_read: int = 0
    frames: int = 0
    records: int = 0
    filtered: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    late: int = 0
    damaged: str | None = None
    damages: int = 0

    def count(self, decoded: Decoded, missing: int) -> None:
        """Add what a frame held beside its records, and say what is news.

        `missing` frames should have been between it and the frame before.
        """
        self.frames += 1
        self.count_missing(missing)
        for cause, count in decoded.skipped.items():
            self.skipped[cause.value] += count
        for notice in decoded.notices:
            logger.warning("%s", notice.text)

    def count_missing(self, missing: int) -> None:
        """Add frames that should have been there."""
        if missing:
            self.skipped[MISSING] += missing

    def damage(self, path: Path, what: str) -> None:
        """Note and log bytes that were passed over."""
        if self.damages < MAX_DAMAGES_TOLD:
            logger.error("%s %s", path, what)
        self.damages += 1
        self.damaged = self.damaged or f"{path} {what}"
