"""What has been sent and is not yet acknowledged, as references to the records, never as bytes.

The encoder made messages of the front of some runs; a part of the window is those runs and, for
each message, where its rows end. Acknowledgements count messages and may fall inside a part. What
has to be sent again is encoded again.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from ingestor.model.blocks import Frames, Int64s, Runs


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

    def message(self, index: int) -> Runs:
        """Return the rows of one message."""
        return self.runs.part(self.rows_before(index), self.rows_before(index + 1))

    def rows_before(self, messages: int) -> int:
        """Number of rows in the first `messages` messages."""
        return int(self.rows_stop[messages - 1]) if messages else 0


class Window:
    """Unacknowledged messages in the order they were sent. Its user keeps it within bounds."""

    def __init__(self) -> None:
        self._parts: deque[Part] = deque()
        self._acked_of_first = 0
        self.messages = 0
        self.rows = 0
        self.size_bytes = 0
        """Bytes of the parts that are not wholly acknowledged."""
        self.acked_messages = 0
        self.acked_rows = 0
        self._newest: tuple[Part, int] | None = None

    @property
    def newest(self) -> Runs | None:
        """Rows of the newest acknowledged message, None where there is none."""
        return self._newest and self._newest[0].message(self._newest[1])

    def message(self, number: int) -> Runs:
        """Return the rows of an unacknowledged message, the oldest being number 0."""
        index = self._acked_of_first + number
        for part in self._parts:
            if index < part.messages:
                return part.message(index)
            index -= part.messages
        raise IndexError(number)

    def push(self, runs: Runs, frames: Frames) -> None:
        """Add what was just sent: `frames` carry exactly the rows of `runs`."""
        part = Part(runs, frames.rows_stop, frames.size_bytes)
        self._parts.append(part)
        self.messages += part.messages
        self.rows += len(runs)
        self.size_bytes += part.size_bytes

    def acknowledge(self, messages: int) -> int:
        """Drop the oldest messages; return their rows. Raises ValueError for too many."""
        if messages > self.messages:
            raise ValueError(f"{messages} messages acknowledged of {self.messages} sent")
        self.messages -= messages
        self.acked_messages += messages
        rows_before = self.acked_rows
        while messages:
            part, before = self._parts[0], self._acked_of_first
            after = min(part.messages, before + messages)
            rows = part.rows_before(after) - part.rows_before(before)
            self.rows -= rows
            self.acked_rows += rows
            self._acked_of_first = after
            messages -= after - before
            self._newest = (part, after - 1)
            if after == part.messages:
                self._drop_first()
        return self.acked_rows - rows_before

    def unacknowledged(self) -> list[Runs]:
        """Return the rows of all messages, oldest first; those of one part stay together."""
        runs = [part.runs for part in self._parts]
        if self._acked_of_first:
            _, runs[0] = runs[0].split(self._parts[0].rows_before(self._acked_of_first))
        return runs

    def take_back(self) -> list[Runs]:
        """Empty the window and return its rows, oldest first: they are to be sent again."""
        runs = self.unacknowledged()
        self._parts.clear()
        self._acked_of_first = 0
        self.messages = self.rows = self.size_bytes = 0
        return runs

    def _drop_first(self) -> None:
        self.size_bytes -= self._parts.popleft().size_bytes
        self._acked_of_first = 0
