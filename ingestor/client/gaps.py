"""What a stream dropped before it was read: limits of age or size that overtook a consumer.

A stream numbers its messages without a hole, so whoever reads all of its subjects sees what is
missing as a jump in the sequences. Whoever reads some of them sees jumps all the time; there the
stream is asked how far it has dropped its front, and what lies between is told as an upper bound.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from ingestor.client.connection import Connection
from ingestor.model.errors import StreamError
from ingestor.model.records import covers, overlap

ASK_AGAIN_S: Final = 1.0
"""How often a stream is asked, at most, where sequences jump because of a filter."""


@dataclass(frozen=True, slots=True)
class Gap:
    """Stream sequences that were gone before they could be read.

    All of them belong to the subscription if it is `exact`; else some or none of them may.
    """

    first_seq: int
    last_seq: int
    exact: bool

    @property
    def messages(self) -> int:
        """How many they are."""
        return self.last_seq - self.first_seq + 1

    def __str__(self) -> str:
        """Say it in a sentence."""
        most = "" if self.exact else "up to "
        return (
            f"the stream dropped {most}{self.messages:,} messages before they were read:"
            f" sequences {self.first_seq} to {self.last_seq}"
        )


OnGap = Callable[[Gap], Any]

log = logging.getLogger(__name__)


class OvertakenError(StreamError):
    """The stream dropped messages before they were read; `gap` says which.

    The iteration that raises it is continued, after the gap, by the next one.
    """

    def __init__(self, gap: Gap) -> None:
        super().__init__(str(gap))
        self.gap = gap


def raise_overtaken(gap: Gap) -> None:
    """Raise `OvertakenError`: an `on_gap` for consumers that must not miss anything."""
    raise OvertakenError(gap)


class _Config(msgspec.Struct, frozen=True):
    subjects: list[str] = []
    mirror: Any = None
    sources: Any = None
    subject_transform: Any = None


class _State(msgspec.Struct, frozen=True):
    first_seq: int


class _Info(msgspec.Struct, frozen=True):
    config: _Config
    state: _State


class GapWatch:
    """Counts and tells what is missing; `subject` is what the subscription asks for.

    `count` is how many gaps there were, `messages` how many messages are missing at most.
    """

    def __init__(
        self, connection: Connection, stream: str, subject: str, on_gap: OnGap | None
    ) -> None:
        self.count = 0
        self.messages = 0
        self._on_gap = on_gap
        self._connection = connection
        self._stream = stream
        self._subject = subject
        self._sees_all = False
        self._asked_s = -ASK_AGAIN_S

    async def open(self) -> None:
        """Look at the stream. Raises StreamError if no subject of it can match."""
        config = (await self._info()).config
        if config.mirror or config.sources or config.subject_transform:
            return
        if not any(overlap(self._subject, subject) for subject in config.subjects):
            raise StreamError(
                f"stream {self._stream} has the subjects {', '.join(config.subjects)}: "
                f"none of them matches {self._subject}"
            )
        self._sees_all = all(covers(self._subject, subject) for subject in config.subjects)

    async def look(self, last_seq: int | None, seqs: Sequence[int]) -> None:
        """Look between `last_seq` (None at first) and messages that arrived together."""
        if last_seq is None or not seqs or seqs[-1] - last_seq == len(seqs):
            return
        for gap in await self._gaps(last_seq, seqs, asyncio.get_running_loop().time()):
            self.count += 1
            self.messages += gap.messages
            if self._on_gap is None:
                log.warning("stream %s: %s", self._stream, gap)
            else:
                self._on_gap(gap)

    async def _gaps(self, last_seq: int, seqs: Sequence[int], now_s: float) -> list[Gap]:
        if self._sees_all:
            pairs = zip([last_seq, *seqs], seqs, strict=False)
            return [Gap(one + 1, other - 1, True) for one, other in pairs if other > one + 1]
        if seqs[0] == last_seq + 1 or now_s - self._asked_s < ASK_AGAIN_S:
            return []
        self._asked_s = now_s
        dropped = min((await self._info()).state.first_seq, seqs[0]) - 1
        return [Gap(last_seq + 1, dropped, False)] if dropped > last_seq else []

    async def _info(self) -> _Info:
        what = f"stream {self._stream}"
        return await self._connection.api(what, f"STREAM.INFO.{self._stream}", _Info)
