r"""What a NATS server sends: messages cut out of its bytes, and a stream's answers as typed values.

Theory of cutting. nats-py takes a message apart, wraps it in an object and hands it through a queue
and a task: six to thirty microseconds each. Here the messages of chosen subscriptions are cut out
of the bytes with one match each, many at a time, and everything else is given back as whole
commands, for nats-py to handle. A command is one line, and for ``MSG`` and ``HMSG`` as many bytes
of headers and payload after it as the line's last number says; each part ends in ``\r\n``::

    MSG <subject> <sid> [reply] <payload bytes>
    HMSG <subject> <sid> [reply] <header bytes> <header and payload bytes>

A message without reply and payload whose header opens with a number, ``NATS/1.0 408 Request
Timeout``, is JetStream speaking about a request (a `Status`).

An answer to published messages is one JSON object (ADR-50 of the NATS design records): a flow
acknowledgement, the report of a gap, an error that names its message, or a publish acknowledgement,
which may hold an error instead. Unknown fields are ignored; impossible values are refused, since
anyone who knows our inbox can write to it. The errors of asking are here too.
"""

from __future__ import annotations

import re
from collections.abc import Container
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import msgspec

from ingestor.model.bounds import MAX_PAYLOAD_BYTES, printable
from ingestor.model.errors import BadDataError, IngestorError, NatsRefusedError, StreamError

MAX_LINE_BYTES: Final = 1024 * 1024
"""Longest line; a cluster's ``INFO`` with all its addresses, some ten KiB, is the longest."""

_MESSAGE: Final = re.compile(rb"MSG ([^ ]+) (\d+) (?:([^ ]+) )?(\d+)\r\n").match
_STATUS: Final = re.compile(rb"NATS/1\.0 +(\d{3}) *([^\r]*)").match
_END: Final = b"\r\n"
_SIZES: Final = {b"MSG": 1, b"HMSG": 2}
"""Command to how many numbers end its line."""

_MAX_WORDS: Final = 6
"""After the command; a line of more is no message."""

Frame = tuple[bytes, bytes, bytes]
"""One message: subject, reply (empty where there is none), payload."""


class Status(NamedTuple):
    """What JetStream says on the subject that a request named."""

    subject: str
    code: int
    text: str


@dataclass(slots=True)
class Cut:
    """What one piece of the stream held: by subscription what was asked for, and the rest."""

    frames: dict[bytes, list[Frame]] = field(default_factory=dict)
    statuses: list[tuple[bytes, Status]] = field(default_factory=list)
    others: list[bytes] = field(default_factory=list)


class Splitter:
    """Cuts the stream of one connection; `taps` holds the ids of the subscriptions to cut out.

    What it keeps between calls is at most one unfinished command.
    """

    def __init__(self, taps: Container[bytes]) -> None:
        self._taps = taps
        self._parts: list[bytes] = []
        self._size = 0
        self._needed = 0
        self.nonsense: BadDataError | None = None
        """Why nothing more can be cut."""

    def feed(self, data: bytes) -> Cut:
        """Return every command that `data` completes.

        Raises `BadDataError` for what makes no sense; what came before it in the same piece is
        returned first, and `nonsense` is then set.
        """
        if self.nonsense is not None:
            raise self.nonsense
        cut = Cut()
        self._parts.append(data)
        self._size += len(data)
        # A long message comes in hundreds of pieces: they are joined once, when it is whole.
        if self._size < self._needed:
            return cut
        buffer = data if len(self._parts) == 1 else b"".join(self._parts)
        try:
            rest = self._cut(buffer, cut)
        except ValueError as error:  # a number that is none or too long, a subject that is no text
            self.nonsense = BadDataError(f"the NATS server sent what is no command: {error}")
        except BadDataError as error:
            self.nonsense = error
        else:
            self._parts = [buffer[rest:]] if rest < len(buffer) else []
            self._size = len(buffer) - rest
        if self.nonsense is not None and not (cut.frames or cut.statuses or cut.others):
            raise self.nonsense
        return cut

    def _cut(self, buffer: bytes, cut: Cut) -> int:
        """Return where the first unfinished command begins, `_needed` being its known size."""
        at = 0
        size = len(buffer)
        taps, frames = self._taps, cut.frames
        while at < size:
            message = _MESSAGE(buffer, at)
            if message is None:
                stop = self._cut_other(buffer, at, cut)
            else:
                subject, sid, reply, length = message.groups(b"")
                start = message.end()
                stop = start + _bounded(int(length)) + len(_END)
                if stop <= size and sid in taps:
                    frame = (subject, reply, buffer[start : stop - 2])
                    if sid in frames:
                        frames[sid].append(frame)
                    else:
                        frames[sid] = [frame]
                elif stop <= size:
                    cut.others.append(buffer[at:stop])
            # Unfinished: looked at again once this many bytes have come.
            if stop > size:
                self._needed = stop - at
                return at
            at = stop
        self._needed = 0
        return at

    def _cut_other(self, buffer: bytes, at: int, cut: Cut) -> int:
        """Handle a command that is no plain message; return where it ends, or beyond the buffer."""
        line_end = buffer.find(_END, at, at + MAX_LINE_BYTES)
        if line_end < 0:
            if len(buffer) - at >= MAX_LINE_BYTES:
                raise BadDataError(f"the NATS server sent a line over {MAX_LINE_BYTES} bytes")
            return len(buffer) + 1
        start = line_end + len(_END)
        head = _head(buffer[at:line_end])
        if head is None:
            cut.others.append(buffer[at:start])
            return start
        stop = start + _bounded(head.payload_bytes) + len(_END)
        if stop <= len(buffer):
            if head.header_bytes is not None and head.sid in self._taps:
                body = buffer[start : stop - 2]
                header, payload = body[: head.header_bytes], body[head.header_bytes :]
                status = _STATUS(header)
                # Publishers may write such a header too; a stream's messages have a reply.
                if status is not None and not payload and not head.reply:
                    text = status[2].decode("utf-8", "replace")
                    cut.statuses.append(
                        (head.sid, Status(head.subject.decode(), int(status[1]), text))
                    )
                else:
                    cut.frames.setdefault(head.sid, []).append((head.subject, head.reply, payload))
            else:
                cut.others.append(buffer[at:stop])
        return stop


def _bounded(payload_bytes: int) -> int:
    if not 0 <= payload_bytes <= MAX_PAYLOAD_BYTES:
        raise BadDataError(f"the NATS server announced a message of {payload_bytes} bytes")
    return payload_bytes


class _Head(NamedTuple):
    """The line of a message; `payload_bytes` with its headers, which a plain one has not."""

    subject: bytes
    sid: bytes
    reply: bytes
    header_bytes: int | None
    payload_bytes: int


def _head(line: bytes) -> _Head | None:
    """Read the line of a message; None for any other. Raises ValueError for a number that is none.

    By words: a pattern that allows for blanks and a missing reply tries every way to share a line
    of blanks between them, which takes hours.
    """
    # A bound, so that a line of a megabyte of blanks makes no million words.
    command, *words = line.split(None, _MAX_WORDS) or [b""]
    sizes = _SIZES.get(command, 0)
    if not sizes or not 2 + sizes <= len(words) <= 3 + sizes:
        return None
    subject, sid, *reply = words[:-sizes]
    headers = int(words[-2]) if sizes == 2 else None
    return _Head(subject, sid, b"".join(reply), headers, int(words[-1]))


MAX_ANSWER_BYTES: Final = 16_384
"""Real ones have less than 500."""

MAX_SEQUENCE: Final = 2**53 - 1
"""A million messages a second reach it after 285 years."""

_SHOWN_CHARS: Final = 200

# Numbers of JetStream's errors (`server/errors.json` of nats-server): all that this program knows.
UNAVAILABLE: Final = 503
STREAM_NOT_FOUND: Final = 10059
CONSUMER_NOT_FOUND: Final = 10014
MESSAGE_NOT_FOUND: Final = 10037
INVALID_JSON: Final = 10025
STREAM_EXISTS: Final = 10058
SUBJECTS_OVERLAP: Final = 10065
BATCH_UNKNOWN: Final = 10208

BUSY: Final = frozenset({UNAVAILABLE, 10008, 10009, 10167})
"""Over soon: nobody listens (just now), a stream without a leader, too many requests."""

WRONG_LAST_SEQUENCE: Final = frozenset({10071, 10164})
"""A guard held."""

NO_FAST_INGEST: Final = frozenset({10205, 10206})
"""Batch publish is disabled; its reply subject is not understood."""

TRANSIENT: Final = BUSY | NO_FAST_INGEST | WRONG_LAST_SEQUENCE | {BATCH_UNKNOWN, 10211}
"""Refusals that end a batch and not the run; also a batch unknown (it was silent for too long), and
too many batches."""

FULL: Final = frozenset({10077, 10023, 10047, 10028, 10002})
"""No room, which somebody may make: in the stream or on its disk, and the limits of server, file
storage, memory and account."""


class ApiError(msgspec.Struct, frozen=True):
    """Why the server refuses: HTTP-like code, JetStream's own code, a sentence."""

    code: int = 0
    err_code: int = 0
    description: str = ""

    @property
    def number(self) -> int:
        """JetStream's own code, or the other where there is none."""
        return self.err_code or self.code

    def __str__(self) -> str:
        return f"{printable(self.description, _SHOWN_CHARS)} (code {self.number})"


class FlowAck(msgspec.Struct, frozen=True):
    """Everything up to `sequence` is stored; the next answer comes `messages` further on."""

    sequence: int
    messages: int


class FlowGap(msgspec.Struct, frozen=True):
    """Messages of the batch were lost on their way; in gap mode ``fail`` it ends."""


class PubAck(msgspec.Struct, frozen=True):
    """Stored, the last of `count` at stream sequence `stream_seq`; `batch` is empty outside one."""

    stream_seq: int
    batch: str
    count: int


class Refusal(msgspec.Struct, frozen=True):
    """Not stored, and why."""

    error: ApiError


Answer = FlowAck | FlowGap | PubAck | Refusal

NO_RESPONDERS: Final = Refusal(ApiError(UNAVAILABLE, 0, "no stream takes this subject"))
"""The client library's status 503: nobody listened."""


class NotConnectedError(IngestorError):
    """A client is used outside of ``async with``, where it has no connection."""


class ForbiddenError(NatsRefusedError):
    """The server says that we may not ask on this subject."""


class NoAnswerError(StreamError, TimeoutError):
    """Nobody answered in time: JetStream is off, busy, or just coming up."""


class NobodyListensError(NoAnswerError):
    """Nobody takes requests on this subject."""


class CutOffError(NoAnswerError):
    """The connection was lost before an answer came."""


class RefusedError(StreamError):
    """JetStream answered with an error."""

    def __init__(self, what: str, error: ApiError) -> None:
        super().__init__(f"{what}: {error}")
        self.error = error

    @property
    def transient(self) -> bool:
        """Whether it may be over soon: a cluster without a leader, a server that starts."""
        return self.error.code == UNAVAILABLE


def nonsense(what: str, text: str) -> RefusedError:
    """Return an answer that nobody can read as one that may be better next time."""
    return RefusedError(what, ApiError(UNAVAILABLE, description=text))


class _Wire(msgspec.Struct, frozen=True):
    type: str = ""
    seq: int = 0
    msgs: int = 0
    batch: str = ""
    count: int = 0
    error: ApiError | None = None


_DECODER: Final = msgspec.json.Decoder(_Wire)


def parse_answer(data: bytes) -> Answer:
    """Read one answer. Raises StreamError when it is not one."""
    wire = _decode(data)
    # First: an error may come in any of the kinds, the publish acknowledgement among them.
    if wire.error is not None:
        return Refusal(wire.error)
    if min(wire.seq, wire.msgs, wire.count) < 0 or max(wire.seq, wire.count) > MAX_SEQUENCE:
        raise _odd(data, "holds numbers that cannot be")
    if wire.type == "ack":
        return FlowAck(wire.seq, wire.msgs)
    if wire.type == "gap":
        return FlowGap()
    if wire.type or not wire.seq:
        raise _odd(data, "is of no known kind")
    return PubAck(wire.seq, wire.batch, wire.count)


def _decode(data: bytes) -> _Wire:
    # Before it is parsed: what is nested a million deep costs more than it says.
    if len(data) > MAX_ANSWER_BYTES:
        raise _odd(data, f"has {len(data)} bytes")
    try:
        return _DECODER.decode(data)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise _odd(data, f"cannot be read ({error})") from None


def _odd(data: bytes, why: str) -> StreamError:
    text = printable(data[:_SHOWN_CHARS].decode(errors="replace"), _SHOWN_CHARS)
    return StreamError(f"the stream's answer {why}: {text}")
