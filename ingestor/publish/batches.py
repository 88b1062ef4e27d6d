"""Batches: numbered messages under one reply prefix, and what the stream said about them.

A batch is the unit in which order is guarded: its messages are numbered from 1, the stream's
answers name those numbers, and the next batch opens only when this one is wholly acknowledged or
settled. There are two kinds. `FastBatch` is fast ingest in gap mode ``fail``: stored in order or
not at all, few answers. `AckBatch` is for servers without it: one answer per message.

No I/O here: bytes to send are returned, answers are handed in.

Reply subjects: ``<prefix>.<flow>.fail.<sequence>.<operation>.$FI`` and ``<prefix>.<sequence>``.
"""

from __future__ import annotations

import sys
from typing import Final, Protocol

from ingestor.blocks import SEQUENCE_DIGITS, Reply
from ingestor.publish.answers import Answer, ApiError, FlowAck, Gap, PubAck

FLOW_MESSAGES: Final = 500
"""Messages between two flow acknowledgements that we ask for; the server's own limit."""

OUTSTANDING: Final = 16
"""Flow acknowledgements under way at most. Two would do for a server that has nothing else to do;
where it shares its CPUs with us, it goes on working from what is under way while we wait for ours:
0.82, 0.87 and 0.93 of what it can take were measured with 4, 8 and 16."""

OPENING_MESSAGES: Final = 64
"""May be sent before the first flow acknowledgement of a batch, once fast ingest is proven."""

ACK_WINDOW_MESSAGES: Final = 2_000
"""Messages under way without fast ingest."""

A_WHOLE_WRITE: Final = sys.maxsize
"""The room of a window that is not full: a write is never cut to fit, since cutting costs us more
than one write beyond the window costs the server."""

_START, _APPEND, _STORE_AND_COMMIT, _COMMIT = range(4)
_REFUSE_ME: Final = b"NATS/1.0\r\nNats-Expected-Stream: .\r\n\r\n"
"""No stream can have this name: a server that would store the message refuses it instead."""


class Batch(Protocol):
    """What the publisher knows of either kind."""

    prefix: str
    flow: int
    """The stream acknowledges by itself after this many messages, or fewer."""
    sent: int
    acked: int
    last_seq: int | None
    """Stream sequence of the last acknowledged message, where the stream has told it."""
    refusal: ApiError | None
    """The first reason given against a message."""
    broken: bool
    """No more of it may be sent: what is stored has to be found out."""
    ended: bool
    """The stream has closed the batch, and said how much of it is stored."""
    torn: bool
    """A message was refused and one after it stored."""
    fenced: bool
    """Whatever was sent is dealt with: nothing of it will be stored from now on."""
    committing: bool
    """The fence was sent because the batch is complete."""

    @property
    def room(self) -> int:
        """Messages that may be sent now: none, one, or `A_WHOLE_WRITE`."""
        ...

    @property
    def reply(self) -> Reply:
        """Reply subject of the next messages."""
        ...

    @property
    def can_commit(self) -> bool:
        """Whether the fence would end the batch and tell exactly what is stored."""
        ...

    def fence(self, subject: str) -> bytes:
        """Return a command whose answer comes after those to all messages sent before."""
        ...

    def receive(self, tail: str, answer: Answer) -> None:
        """Take an answer; `tail` is its subject after the prefix and a dot."""
        ...


class _State:
    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.sent = 0
        self.acked = 0
        self.last_seq: int | None = None
        self.refusal: ApiError | None = None
        self.broken = False
        self.ended = False
        self.torn = False
        self.fenced = False
        self.committing = False

    def _break(self, error: ApiError | None) -> None:
        self.broken = True
        self.refusal = self.refusal or error

    def _store(self, acked: int, seq: int) -> None:
        self.acked = acked
        self.last_seq = seq

    def _room(self, limit: int) -> int:
        return A_WHOLE_WRITE if self.sent < limit else 0


class FastBatch(_State):
    """One batch of fast ingest.

    `flow` is how many messages between flow acknowledgements we ask for. `proof` makes it a batch
    of a single message, which is committed with it: the answer proves that the server knows fast
    ingest, and tells the message's stream sequence.
    """

    def __init__(
        self,
        inbox: str,
        batch_id: str,
        *,
        proof: bool = False,
        flow: int = FLOW_MESSAGES,
    ) -> None:
        super().__init__(f"{inbox}.{batch_id}")
        self.flow = flow
        self._id = batch_id
        self._proof = proof
        self._limit = OPENING_MESSAGES
        self.fast_ingest = True
        """False when the proof was stored as an ordinary message."""
        self._head = f"{self.prefix}.{flow}.fail.".encode()
        self._append = self._reply(_APPEND)

    @property
    def room(self) -> int:
        """Messages that may be sent now; the first goes alone, for it has its own operation."""
        if self.broken or self.ended or self.committing:
            return 0
        if not self.sent:
            return 1
        return 0 if self._proof else self._room(self._limit)

    @property
    def reply(self) -> Reply:
        """Reply subject of the next messages."""
        if self.sent:
            return self._append
        return self._reply(_STORE_AND_COMMIT if self._proof else _START)

    @property
    def can_commit(self) -> bool:
        """Whether it has messages and is still open; a proof is committed with its message."""
        closed = self._proof or self.committing or self.ended or self.broken
        return bool(self.sent) and not closed

    def fence(self, subject: str) -> bytes:
        """Return the commit without a message; `subject` must be one of the stream's."""
        sequence = max(self.sent + 1, 2)
        reply = b"%b%0*d.%d.$FI" % (self._head, SEQUENCE_DIGITS, sequence, _COMMIT)
        return _refused_message(subject, reply)

    def receive(self, tail: str, answer: Answer) -> None:
        """Take an answer; see `Batch`."""
        if isinstance(answer, FlowAck):
            self.acked = max(self.acked, min(answer.sequence, self.sent))
            self._limit = self.acked + max(answer.messages, 1) * OUTSTANDING
            return
        to_fence = tail.endswith(f".{_COMMIT}.$FI")
        if isinstance(answer, PubAck):
            self._end(answer)
        else:
            self._break(None if to_fence or isinstance(answer, Gap) else answer.error)
        self.fenced = self.fenced or self.ended or to_fence

    def _end(self, ack: PubAck) -> None:
        self.fast_ingest = ack.batch == self._id
        if not self.fast_ingest and not self._proof:
            # The stream has moved to a server that stores each message by itself.
            self._break(None)
            return
        self.ended = True
        self._store(min(ack.count, self.sent) if self.fast_ingest else 1, ack.stream_seq)
        self.broken = self.broken or self.acked < self.sent

    def _reply(self, operation: int) -> Reply:
        return Reply(self._head, b".%d.$FI" % operation)


class AckBatch(_State):
    """Messages that are acknowledged one by one, a bounded number of them under way."""

    def __init__(self, inbox: str, batch_id: str, *, window: int = ACK_WINDOW_MESSAGES) -> None:
        super().__init__(f"{inbox}.{batch_id}")
        self.flow = 1
        self._window = window
        self._reply = Reply(f"{self.prefix}.".encode(), b"")

    @property
    def room(self) -> int:
        """Messages that may be sent now."""
        return 0 if self.broken else self._room(self.acked + self._window)

    @property
    def reply(self) -> Reply:
        """Reply subject of the next messages."""
        return self._reply

    @property
    def can_commit(self) -> bool:
        """Never: every message is answered by itself."""
        return False

    def fence(self, subject: str) -> bytes:
        """Return a message that the stream is bound to refuse, after all before it."""
        return _refused_message(subject, f"{self.prefix}.fence".encode())

    def receive(self, tail: str, answer: Answer) -> None:
        """Take an answer; see `Batch`. Answers come in the order of the messages."""
        if tail == "fence":
            self.fenced = True
        elif not isinstance(answer, PubAck):
            self._break(None if isinstance(answer, (FlowAck, Gap)) else answer.error)
        elif int(tail) == self.acked + 1 and not self.broken:
            self._store(self.acked + 1, answer.stream_seq)
        else:
            self.torn = self.torn or self.refusal is not None
            self._break(None)


def _refused_message(subject: str, reply: bytes) -> bytes:
    size = len(_REFUSE_ME)
    return b"HPUB %b %b %d %d\r\n%b\r\n" % (subject.encode(), reply, size, size, _REFUSE_ME)
