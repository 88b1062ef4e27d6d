"""One message to events, in either encoding, or the reason it is invalid."""

from __future__ import annotations

import logging
from collections import Counter
from enum import StrEnum
from typing import Final

import msgspec

from ingestor.encode.json_records import NoRecordError
from ingestor.encode.packed import UnknownVersionError, decode_packed, is_packed
from ingestor.model.blocks import Block
from ingestor.model.bounds import printable
from ingestor.model.errors import BadDataError
from ingestor.model.events import NO_SUBJECT_OF_OURS, Event, InvalidError, events_of, read_json
from ingestor.model.records import EVENT_TYPES, EventType

log = logging.getLogger(__name__)


class Cause(StrEnum):
    """Why a message is skipped; each is counted apart (`Subscription.skipped`)."""

    UNKNOWN_SUBJECT = "unknown_subject"
    """No event type has its subject: it is not ours, or of a later version of this program."""
    UNKNOWN_VERSION = "unknown_version"
    """It is packed in a version, with a schema or of an rtype that is not known."""
    MALFORMED = "malformed"
    """It is neither whole JSON nor a whole packed message; an empty one is this, too."""
    INVALID = "invalid"
    """It is JSON, but no event: a key is missing, of another type or out of its bounds."""
    NO_RECORD = "no_record"
    """It is an event, but no record: a future's ``seq`` is null. Only of `Subscription.batches`."""
    NO_STATUS = "no_status"
    """It is no status of a feed. Only of `Client.statuses`."""


class BadMessageError(BadDataError):
    """A message is not what its subject promises; names the subject, stream sequence and cause."""

    def __init__(self, subject: str, seq: int, reason: str, cause: Cause = Cause.MALFORMED) -> None:
        super().__init__(f"message {seq} on {printable(subject)}: {printable(reason)}")
        self.subject = subject
        self.seq = seq
        self.reason = reason
        self.cause = cause


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


class Skips:
    """Counts the messages that are passed over, by cause, and tells the first of each cause."""

    def __init__(self, within: Skips | None = None) -> None:
        """What is counted here is also counted `within`."""
        self.counts: Counter[Cause] = Counter()
        self._within = within

    def add(self, bad: BadMessageError) -> None:
        """Count a message that is passed over."""
        if not self.counts[bad.cause]:
            log.warning(
                "%s; it is skipped, and more of the kind (%s) are only counted", bad, bad.cause
            )
        skips: Skips | None = self
        while skips is not None:
            skips.counts[bad.cause] += 1
            skips = skips._within


SUBJECTS: Final = {kind.subject: kind for kind in EVENT_TYPES}

_CAUSES: Final[tuple[tuple[type[BadDataError], Cause], ...]] = (
    (UnknownVersionError, Cause.UNKNOWN_VERSION),
    (InvalidError, Cause.INVALID),
    (NoRecordError, Cause.NO_RECORD),
)


def decode(message: Message) -> list[Event]:
    """Return the events of a message: one of JSON, any number of packed.

    Raises `BadMessageError`, and of its kind `UnknownSubjectError`; nothing else, whatever the
    bytes are.
    """
    subject = message.subject.encode("utf-8", "replace")
    try:
        if not is_packed(message.payload):
            return [read_json(subject, message.payload)]
        packed = decode_packed(message.payload)
        check_subject(packed.event_type, message.subject)
        return list(events_of(Block(0, packed.records, packed.symbols, packed.source)))
    except BadDataError as error:
        raise bad_message(subject, message.seq, error) from error


def bad_message(subject: bytes, seq: int, error: BadDataError) -> BadMessageError:
    """Return what is wrong with a message as the error that names it."""
    text = subject.decode("utf-8", "replace")
    if text not in SUBJECTS:
        return UnknownSubjectError(text, seq, NO_SUBJECT_OF_OURS, Cause.UNKNOWN_SUBJECT)
    cause = next((cause for kind, cause in _CAUSES if isinstance(error, kind)), Cause.MALFORMED)
    return BadMessageError(text, seq, str(error), cause)


def check_subject(kind: EventType, subject: str) -> None:
    """Raise `BadDataError` when a packed message of `kind` came on another subject."""
    if kind.subject != subject:
        raise BadDataError(f"holds packed {kind.name} records, which belong on {kind.subject}")
