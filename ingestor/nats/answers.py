"""What a stream answers to published messages, as typed values, and the errors of asking it.

One JSON object per answer (ADR-50 of the NATS design records): a flow acknowledgement, the report
of a gap, an error that names its message, or a publish acknowledgement, which may hold an error
instead. Unknown fields are ignored; impossible values are refused, since anyone who knows our
inbox can write to it.
"""

from __future__ import annotations

from typing import Final

import msgspec

from ingestor.model.bounds import printable
from ingestor.model.errors import IngestorError, NatsRefusedError, StreamError

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
