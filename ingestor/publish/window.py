"""What has been sent and is not yet acknowledged, as references to the records, never as bytes.

The encoder made messages of the front of some runs; a part of the window is those runs and, for
each message, where its rows end. Acknowledgements count messages and may fall inside a part,
which is then split. What has to be sent again is encoded again.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass

from ingestor.blocks import Frames, Int64s, Runs


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Runs in one or more messages; `rows_stop` as in `Frames`, `size_bytes` of the frames."""

    runs: Runs
    rows_stop: Int64s
    size_bytes: int

    @property
    def messages(self) -> int:
        """Number of messages."""
        return len(self.rows_stop)

    def split(self, messages: int) -> tuple[Part, Part]:
        """Cut after `messages` messages, of which there must be more."""
        rows = int(self.rows_stop[messages - 1])
        size_bytes = self.size_bytes * messages // self.messages
        front, rest = self.runs.split(rows)
        return (
            Part(front, self.rows_stop[:messages], size_bytes),
            Part(rest, self.rows_stop[messages:] - rows, self.size_bytes - size_bytes),
        )


class Window:
    """Unacknowledged messages in the order they were sent. Its user keeps it within bounds."""

    def __init__(self) -> None:
        self._parts: deque[Part] = deque()
        self._rows_by_rtype: Counter[int] = Counter()
        self.messages = 0
        self.rows = 0
        self.size_bytes = 0
        self.acked_messages = 0
        self.acked_rows = 0

    @property
    def parts(self) -> tuple[Part, ...]:
        """What is unacknowledged, oldest first."""
        return tuple(self._parts)

    @property
    def acked_rows_by_rtype(self) -> dict[int, int]:
        """Acknowledged rows of each rtype."""
        return dict(self._rows_by_rtype)

    def push(self, runs: Runs, frames: Frames) -> None:
        """Add what was just sent: `frames` carry exactly the rows of `runs`."""
        part = Part(runs, frames.rows_stop, len(frames.data))
        self._parts.append(part)
        self._count(part, 1)

    def acknowledge(self, messages: int) -> list[Runs]:
        """Drop the oldest messages and return their rows. Raises ValueError for too many."""
        if messages > self.messages:
            raise ValueError(f"{messages} messages acknowledged of {self.messages} sent")
        acked = []
        while messages:
            part = self._parts.popleft()
            if part.messages > messages:
                part, rest = part.split(messages)
                self._parts.appendleft(rest)
            messages -= part.messages
            self._count(part, -1)
            self._count_acked(part)
            acked.append(part.runs)
        return acked

    def take_back(self) -> list[Runs]:
        """Empty the window and return its rows, oldest first: they are to be sent again."""
        runs = [part.runs for part in self._parts]
        self._parts.clear()
        self.messages = self.rows = self.size_bytes = 0
        return runs

    def _count(self, part: Part, sign: int) -> None:
        self.messages += sign * part.messages
        self.rows += sign * len(part.runs)
        self.size_bytes += sign * part.size_bytes

    def _count_acked(self, part: Part) -> None:
        self.acked_messages += part.messages
        self.acked_rows += len(part.runs)
        self._rows_by_rtype.update(part.runs.counts_by_rtype())
