"""The books of a publisher: the open batch, the window, and what they say of the stream.

No I/O: answers are handed in, and what may be sent is asked for. Everything unacknowledged belongs
to the open batch, since a batch is followed by another only when it is wholly acknowledged or
settled; so order in the stream is the order of sending.
"""

from __future__ import annotations

import secrets
from typing import Final

from ingestor.blocks import Frames, Runs
from ingestor.publish.answers import NO_RESPONDERS, ApiError, parse_answer
from ingestor.publish.batches import AckBatch, Batch, FastBatch
from ingestor.publish.readback import Stored
from ingestor.publish.stream import StreamState
from ingestor.publish.window import Window

MAX_UNACKED_BYTES: Final = 16 * 1024 * 1024
"""Bytes under way, give or take a message; the server drops what comes when 128 MiB wait."""

MAX_WRITE_BYTES: Final = 256 * 1024
"""Bytes encoded at a time, give or take a message."""

FIRST_GUESS_BYTES: Final = 1024
"""Size of a message before any has been seen."""

FAST_INGEST: Final = "fast_ingest"
ACK_WINDOW: Final = "ack_window"

_BATCH_ID_BYTES: Final = 8
_STATUS_NO_RESPONDERS: Final = "503"
_NO_FAST_INGEST: Final = frozenset({10205, 10206})
"""Batch publish is disabled; its reply subject is not understood."""

_TRANSIENT: Final = frozenset({503, 10008, 10009, 10167, 10208, 10211}) | _NO_FAST_INGEST
"""Refusals that end a batch and not the run: nobody listens (just now), no leader, too many
requests, batch unknown (it was silent for too long), too many batches."""


class Ledger:
    """Books over one stream and one inbox."""

    def __init__(self, inbox: str, state: StreamState) -> None:
        self._inbox = inbox
        self._fast_ingest = state.fast_ingest
        self._proven = False
        self._message_bytes = FIRST_GUESS_BYTES
        self._base_seq = state.last_seq
        self.window = Window()
        self.first_seq: int | None = None
        self.batch = self._new_batch()

    @property
    def mode(self) -> str:
        """How messages are published: `FAST_INGEST` or `ACK_WINDOW`."""
        return FAST_INGEST if self._fast_ingest else ACK_WINDOW

    @property
    def floor_seq(self) -> int:
        """Our last acknowledged message has this stream sequence, or a later one.

        Exact where no other publisher writes, and always where the stream told it.
        """
        return max(self._base_seq + self.batch.acked, self.batch.last_seq or 0)

    @property
    def fatal(self) -> ApiError | None:
        """The refusal that trying again cannot help."""
        refusal = self.batch.refusal
        if refusal is None or (refusal.err_code or refusal.code) in _TRANSIENT:
            return None
        return refusal

    @property
    def sent_messages(self) -> int:
        """Messages sent so far that are stored or may be."""
        return self.window.acked_messages + self.window.messages

    def room(self) -> int:
        """Messages to encode and send now; opens the next batch when this one is complete."""
        if self.batch.ended and not self.batch.broken:
            self._open()
        free_bytes = MAX_UNACKED_BYTES - self.window.size_bytes
        by_size = min(free_bytes, MAX_WRITE_BYTES) // self._message_bytes
        if free_bytes > 0:
            by_size = max(by_size, 1)
        return min(self.batch.room, by_size)

    def record(self, runs: Runs, frames: Frames) -> None:
        """Note that `frames`, which carry exactly `runs`, are on their way."""
        self.window.push(runs, frames)
        self.batch.sent += frames.messages
        self._message_bytes = max(1, len(frames.data) // frames.messages)

    def receive(self, subject: str, data: bytes, status: str | None) -> None:
        """Take an answer from the inbox; those to batches of the past are ignored.

        Raises StreamError when it cannot be read.
        """
        batch = self.batch
        if not subject.startswith(f"{batch.prefix}."):
            return
        nobody = status == _STATUS_NO_RESPONDERS and not data
        answer = NO_RESPONDERS if nobody else parse_answer(data)
        acked = batch.acked
        batch.receive(subject[len(batch.prefix) + 1 :], answer)
        self._advance(batch.acked - acked)
        if batch.ended and isinstance(batch, FastBatch):
            self._fast_ingest = self._proven = batch.fast_ingest

    def settle(self, stored: Stored) -> None:
        """Note what the stream holds of the unacknowledged messages."""
        self.batch.acked += stored.count
        self.batch.last_seq = stored.last_seq or self.batch.last_seq
        if self.first_seq is None:
            self.first_seq = stored.first_seq
        self._advance(stored.count)

    def restart(self) -> list[Runs]:
        """Open a batch anew, and return the rows that have to be sent again, oldest first."""
        refusal = self.batch.refusal
        if refusal is not None and refusal.err_code in _NO_FAST_INGEST:
            self._fast_ingest = False
        self._proven = False
        self._open()
        return self.window.take_back()

    def _open(self) -> None:
        self._base_seq = self.floor_seq
        self.batch = self._new_batch()

    def _new_batch(self) -> Batch:
        batch_id = secrets.token_hex(_BATCH_ID_BYTES)
        if self._fast_ingest:
            return FastBatch(self._inbox, batch_id, proof=not self._proven)
        return AckBatch(self._inbox, batch_id)

    def _advance(self, messages: int) -> None:
        self.window.acknowledge(messages)
        if self.first_seq is None and self.batch.acked == 1:
            self.first_seq = self.batch.last_seq
