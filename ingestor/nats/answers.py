"""What a stream answers to published messages, as typed values.

One JSON object per answer (ADR-50 of the NATS design records): a flow acknowledgement, the report
of a gap, an error that names its message, or a publish acknowledgement, which may hold an error
instead. Unknown fields are ignored; what no server would say is refused, for anybody who knows our
inbox can write to it.
"""

from __future__ import annotations

from typing import Final

import msgspec

from ingestor.model.bounds import printable
from ingestor.model.errors import StreamError

MAX_ANSWER_BYTES: Final = 16_384
"""Real ones have less than 500."""

MAX_SEQUENCE: Final = 2**53 - 1
"""A million messages a second reach it after 285 years."""

_SHOWN_CHARS: Final = 200


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


class Gap(msgspec.Struct, frozen=True):
    """Messages of the batch were lost on their way; in gap mode ``fail`` it ends."""


class PubAck(msgspec.Struct, frozen=True):
    """Stored, the last of `count` at stream sequence `stream_seq`; `batch` is empty outside one."""

    stream_seq: int
    batch: str
    count: int


class Refusal(msgspec.Struct, frozen=True):
    """Not stored, and why."""

    error: ApiError


Answer = FlowAck | Gap | PubAck | Refusal

NO_RESPONDERS: Final = Refusal(ApiError(503, 0, "no stream takes this subject"))
"""The client library's status 503: nobody listened."""


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
    if wire.error is not None:
        return Refusal(wire.error)
    if min(wire.seq, wire.msgs, wire.count) < 0 or max(wire.seq, wire.count) > MAX_SEQUENCE:
        raise _odd(data, "holds numbers that cannot be")
    if wire.type == "ack":
        return FlowAck(wire.seq, wire.msgs)
    if wire.type == "gap":
        return Gap()
    if wire.type or not wire.seq:
        raise _odd(data, "is of no known kind")
    return PubAck(wire.seq, wire.batch, wire.count)


def _decode(data: bytes) -> _Wire:
    if len(data) > MAX_ANSWER_BYTES:
        raise _odd(data, f"has {len(data)} bytes")
    try:
        return _DECODER.decode(data)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise _odd(data, f"cannot be read ({error})") from None


def _odd(data: bytes, why: str) -> StreamError:
    text = printable(data[:_SHOWN_CHARS].decode(errors="replace"), _SHOWN_CHARS)
    return StreamError(f"the stream's answer {why}: {text}")
