"""One message to events, whichever way it is encoded, or the reason why it is none.

JSON is tried first, since it costs the most messages: a packed message fails at its first byte.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from enum import StrEnum
from functools import lru_cache
from typing import Any, Final

import msgspec

from ingestor.encode.packed import UnknownVersionError, decode_packed, is_packed
from ingestor.model import events
from ingestor.model.blocks import Block
from ingestor.model.bounds import is_symbol, printable
from ingestor.model.errors import BadDataError
from ingestor.model.events import Event, events_of
from ingestor.model.records import EVENT_TYPES, UNDEF_SEQUENCE, EventType, RType
from ingestor.model.symbols import OptionTicker, parse_option_ticker
from ingestor.model.units import PRICE_SCALE

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


class InvalidError(BadDataError):
    """JSON that is no event. In `BadMessageError` it has the cause `INVALID`."""


class NoRecordError(BadDataError):
    """An event that is no record. In `BadMessageError` it has the cause `NO_RECORD`."""


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


EVENT_TYPE_BY_SUBJECT: Final[dict[str, EventType]] = {kind.subject: kind for kind in EVENT_TYPES}

EVENT_CLASS: Final[dict[str, type[Event]]] = {
    kind.name: getattr(events, kind.name) for kind in EVENT_TYPES
}
"""Event class by the event type's name."""

_SYMBOLS_HELD: Final = 16_384
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
        if is_packed(message.payload):
            return _decode_packed(message)
        return [read_json(subject, message.payload)]
    except BadDataError as error:
        raise bad_message(subject, message.seq, error) from error


def read_json(subject: bytes, payload: bytes) -> Event:
    """Return the event of a JSON message. Raises `BadDataError`."""
    read = JSON_READ.get(subject)
    if read is None:
        raise BadDataError(_NOT_OURS)
    return read(payload)


def bad_message(subject: bytes, seq: int, error: BadDataError) -> BadMessageError:
    """Return what is wrong with a message as the error that names it."""
    text = subject.decode("utf-8", "replace")
    if text not in EVENT_TYPE_BY_SUBJECT:
        return UnknownSubjectError(text, seq, _NOT_OURS, Cause.UNKNOWN_SUBJECT)
    causes = (cause for kind, cause in _CAUSES if isinstance(error, kind))
    return BadMessageError(text, seq, str(error), next(causes, Cause.MALFORMED))


def check_subject(kind: EventType, subject: str) -> None:
    """Raise `BadDataError` when a packed message of `kind` came on another subject."""
    if kind.subject != subject:
        raise BadDataError(f"holds packed {kind.name} records, which belong on {kind.subject}")


_NOT_OURS: Final = f"no event type has this subject (known are {', '.join(EVENT_TYPE_BY_SUBJECT)})"


def _decode_packed(message: Message) -> list[Event]:
    packed = decode_packed(message.payload)
    check_subject(packed.event_type, message.subject)
    return list(events_of(Block(0, packed.records, packed.symbols, packed.source)))


def _json_reader(kind: EventType) -> Callable[[bytes], Event]:
    decode_json = msgspec.json.Decoder(EVENT_CLASS[kind.name]).decode
    check = _check_option if kind.rtype == RType.OPTION_TRADE else _check_symbol

    def read(payload: bytes) -> Event:
        try:
            if not payload.isascii():
                payload.decode()  # msgspec does not look into keys that it passes over
            event = decode_json(payload)
        except msgspec.ValidationError as error:
            raise InvalidError(f"no {kind.name}: {error}") from error
        # msgspec's own, of UTF-8, of a stack of brackets.
        except (ValueError, RecursionError) as error:
            raise BadDataError(f"no {kind.name}: {error}") from error
        check(event)
        return event

    return read


def _check_symbol(event: Any) -> None:
    if not _is_symbol(event.symbol):
        raise InvalidError(f"the symbol {event.symbol!r} is none")
    _check_seq(event)


def _check_option(event: Any) -> None:
    """A record holds nothing but the ticker: what a message says beside it must be the same."""
    ticker = _option_ticker(event.option_symbol)
    if ticker is None or not _is_symbol(event.underlying):
        raise InvalidError(f"the ticker {event.option_symbol!r} or its underlying is none")
    said = (event.right, event.exp_date, event.strike)
    if said != (ticker.right, ticker.expiry.isoformat(), ticker.strike_e9 / PRICE_SCALE):
        raise InvalidError(f"{said} is not what {event.option_symbol} says")
    _check_seq(event)


def _check_seq(event: Any) -> None:
    # msgspec knows no bounds beyond int64.
    if event.seq is not None and event.seq >= UNDEF_SEQUENCE:
        raise InvalidError(f"seq {event.seq} is beyond 64 bits")


_is_symbol: Final = lru_cache(_SYMBOLS_HELD)(is_symbol)


@lru_cache(_SYMBOLS_HELD)
def _option_ticker(text: str) -> OptionTicker | None:
    try:
        return parse_option_ticker(text)
    except BadDataError:
        return None


JSON_READ: Final = {kind.subject.encode(): _json_reader(kind) for kind in EVENT_TYPES}
"""Reader of one JSON message by subject, as it stands on the wire. Raises `BadDataError`."""
