"""One message to events, whichever way it is encoded.

JSON is tried first, since it costs the most messages: a packed message fails at its first byte.
"""

from __future__ import annotations

from typing import Final

import msgspec

from ingestor import events
from ingestor.blocks import Block
from ingestor.encode.packed import decode_packed, is_packed
from ingestor.errors import BadDataError
from ingestor.events import Event, events_of
from ingestor.records import EVENT_TYPES, EventType


class BadMessageError(BadDataError):
    """A message is not what its subject promises; names the subject and the stream sequence."""

    def __init__(self, subject: str, seq: int, reason: str) -> None:
        super().__init__(f"message {seq} on {subject}: {reason}")
        self.subject = subject
        self.seq = seq
        self.reason = reason


class UnknownSubjectError(BadMessageError):
    """No event type belongs to the message's subject."""


class Message(msgspec.Struct, frozen=True, gc=False):
    """A message as it stands in the stream: its sequence, and when the server stored it.

    `stored_ns` is int nanoseconds UTC by the server's clock, 0 where nobody told.
    """

    subject: str
    seq: int
    payload: bytes
    stored_ns: int = 0


EVENT_TYPE_BY_SUBJECT: Final[dict[str, EventType]] = {kind.subject: kind for kind in EVENT_TYPES}

EVENT_CLASS: Final[dict[str, type[Event]]] = {
    kind.name: getattr(events, kind.name) for kind in EVENT_TYPES
}
"""Event class by the event type's name."""

JSON_DECODE: Final = {
    kind.subject.encode(): msgspec.json.Decoder(EVENT_CLASS[kind.name]).decode
    for kind in EVENT_TYPES
}
"""Decoder of one JSON message by subject, as it stands on the wire."""


def decode(message: Message) -> list[Event]:
    """Return the events of a message: one of JSON, any number of packed.

    Raises `BadMessageError`, and of its kind `UnknownSubjectError`.
    """
    try:
        return [JSON_DECODE[message.subject.encode()](message.payload)]
    except (KeyError, msgspec.MsgspecError) as error:
        return _decode_other(message, error)


def event_type_of(message: Message) -> EventType:
    """Return the event type of a message's subject. Raises `UnknownSubjectError`."""
    kind = EVENT_TYPE_BY_SUBJECT.get(message.subject)
    if kind is None:
        known = ", ".join(EVENT_TYPE_BY_SUBJECT)
        raise UnknownSubjectError(
            message.subject, message.seq, f"no event type has this subject (known are {known})"
        )
    return kind


def check_subject(kind: EventType, subject: str) -> None:
    """Raise `BadDataError` when a packed message of `kind` came on another subject."""
    if kind.subject != subject:
        raise BadDataError(f"holds packed {kind.name} records, which belong on {kind.subject}")


def _decode_other(message: Message, error: Exception) -> list[Event]:
    kind = event_type_of(message)
    if not is_packed(message.payload):
        raise BadMessageError(message.subject, message.seq, f"no {kind.name}: {error}") from error
    try:
        packed = decode_packed(message.payload)
        check_subject(packed.event_type, message.subject)
        block = Block(0, packed.records, packed.symbols, packed.source)
        return list(events_of(block))
    except BadDataError as bad:
        raise BadMessageError(message.subject, message.seq, str(bad)) from bad
