"""From the bytes of a frame to typed messages, whatever else is in there.

A sound frame costs one msgspec call. When that call refuses, the frame is taken apart and every
element read for itself, so a bad one costs nothing but itself; what is left out is tallied by
cause, and told once per kind with a sample. Elements read one by one are read leniently (``100.0``
or ``"100"`` for an int), which keeps a feed alive whose vendor changes the type of a field.

A refusal costs some microseconds, and a frame of 16 MiB has room for eight million of them. So a
long frame is read piece by piece, and of a piece with more than
`MAX_LOOKED_AT` elements those that are too short for any event are counted and not looked at. What
is left costs at most a few times what as many bytes of sound events do, and every sound element of
any frame is read.

A JSON array of a few bytes an element (``[1,1,1,...]``) takes a hundred times its size as objects.
So `pieces` cuts a long frame without building a single one: an element is a regular expression of
strings, scalars, and brackets to `DEPTH` levels, every part of it possessive, so that no byte is
looked at more often than there are levels. What is no JSON, or nested deeper, or longer than a
piece, cannot be cut exactly; from there on a frame is cut where one object seems to end and the
next to begin.

msgspec passes over keys that it does not know. To notice what the vendor adds, every
`AUDIT_EVERY`-th frame, the first included, is also read without types and its keys compared.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from types import MappingProxyType
from typing import Any, Final, Generic, TypeVar

import msgspec

from ingestor.model.bounds import printable

PIECE_BYTES: Final = 256 * 1024
"""A larger frame is read in pieces of at most this size, some 1,600 trades."""

DEPTH: Final = 4
"""Brackets within brackets that an element may have; the vendor's have two."""

_STRING: Final = rb'"(?:[^"\\]++|\\.)*+"'


def _nested(depth: int) -> bytes:
    """Return the expression of brackets with what is in them."""
    deeper = b"|" + _nested(depth - 1) if depth > 1 else b""
    return rb'[\[{](?:[^"\[\]{}]++|%b%b)*+[\]}]' % (_STRING, deeper)


# Possessive quantifiers (++, *+) forbid backtracking: without them hostile bytes take time
# that grows with the square of their number.
_ELEMENT: Final = rb'(?:[^"\[\]{},]++|%b|%b)' % (_STRING, _nested(DEPTH))
_RUN: Final = re.compile(rb"(?:%b*+,)++" % _ELEMENT, re.DOTALL)
_ONE: Final = re.compile(rb"(%b++)(?:,|\Z)" % _ELEMENT, re.DOTALL)
_SEAM: Final = re.compile(rb"(?<=\})\s*,\s*(?=\{)")
_OPENING: Final = re.compile(rb"\s*\[")
_CLOSING: Final = re.compile(rb"\]\s*\Z")
_LAST_BYTES: Final = 64
"""Where a frame's last bracket is looked for."""


def pieces(data: bytes) -> Iterator[bytes]:
    """Yield a frame in arrays of at most `PIECE_BYTES`; one only that cannot be cut is longer."""
    if len(data) <= PIECE_BYTES:
        yield data
        return
    at, stop = _inside(data)
    room = PIECE_BYTES - len(b"[]")
    exact = True
    while stop - at > room:
        # A comma ends what is found, and is left out.
        found = _RUN.match(data, at, at + room + 1) if exact else None
        exact = found is not None
        end = _seam(data, at, stop, room) if found is None else found.end()
        yield b"[%b]" % data[at : end - 1]
        at = end
    if at < stop:
        yield b"[%b]" % data[at:stop]


def elements(data: bytes) -> list[bytes]:
    """Cut a frame that is no JSON into elements: exactly as far as possible, then at its seams."""
    at, stop = _inside(data)
    found = []
    while at < stop and (one := _ONE.match(data, at, stop)) is not None:
        found.append(one[1])
        at = one.end()
    return found if at >= stop and found else found + parts(data[at:stop])


def parts(data: bytes) -> list[bytes]:
    """Cut bytes wherever one object seems to end and the next to begin."""
    return _SEAM.split(data)


def _inside(data: bytes) -> tuple[int, int]:
    """Return where the elements begin and end; a lone object is one."""
    opening = _OPENING.match(data)
    closing = _CLOSING.search(data, max(len(data) - _LAST_BYTES, 0)) if opening else None
    return opening.end() if opening else 0, closing.start() if closing else len(data)


def _seam(data: bytes, at: int, stop: int, room: int) -> int:
    """Return where the bytes behind the last comma begin that is within `room`, or the next."""
    last = data.rfind(b"},{", at, at + room + 2)
    if last < 0:
        last = data.find(b"},{", at, stop)
    return last + 2 if last >= 0 else stop + 1


M = TypeVar("M")

AUDIT_EVERY: Final = 16
MAX_KINDS: Final = 256
"""Kinds of notices told in one process; what comes after is only counted."""

SAMPLE_CHARS: Final = 240
KIND_CHARS: Final = 120

MAX_LOOKED_AT: Final = 4096
"""Elements of a piece that are all read; it has room for half of them as sound events."""

MIN_EVENT_BYTES: Final = len(b'{"ev":"status","status":""}')
"""The shortest element that says something."""

MAX_PIECE_BYTES: Final = 4 * PIECE_BYTES
"""What cannot be cut and is longer is no element of the vendor's, and not read at all."""


class Skip(StrEnum):
    """Why an element became no record."""

    NOT_JSON = "not_json"
    NOT_AN_EVENT = "not_an_event"
    UNKNOWN_EV = "unknown_ev"
    TIME = "time_not_ms"
    PRICE = "price"
    SIZE = "size"
    SYMBOL = "symbol"
    FIELD = "field"
    BEFORE_SUBSCRIPTION = "before_subscription"
    NOT_SUBSCRIBED = "not_subscribed"
    OPTION_TICKER = "option_ticker"
    OTHER_ROOT = "other_root"
    INSTRUMENTS_FULL = "instruments_full"


class Oddity(StrEnum):
    """What was tolerated."""

    UNKNOWN_KEY = "unknown_key"
    CONDITIONS_CUT = "conditions_cut"
    PRICE_ROUNDED = "price_rounded"


@dataclass(frozen=True, slots=True)
class Notice:
    """Something to log; each `kind` is told once."""

    kind: str
    text: str


_NONE: Final[Mapping[Any, int]] = MappingProxyType({})


class Tally:
    """What was skipped or tolerated since it was last taken, and what of it is news."""

    def __init__(self) -> None:
        self._skipped: Counter[Skip] = Counter()
        self._oddities: Counter[Oddity] = Counter()
        self._notices: list[Notice] = []
        self._told: set[str] = set()

    def skip(self, cause: Skip, detail: str, sample: object, count: int = 1) -> None:
        """Count an element that is left out, or several of a kind."""
        self._skipped[cause] += count
        self._tell(f"{cause}: {detail}", "skipped", sample)

    def odd(self, what: Oddity, detail: str, sample: object, count: int = 1) -> None:
        """Count something that was tolerated, or several of a kind."""
        self.count(what, count)
        self._tell(f"{what}: {detail}", "tolerated", sample)

    def count(self, what: Oddity, count: int) -> None:
        """Count what is not worth a word, such as ``0.30000000000000004`` for 0.3."""
        self._oddities[what] += count

    def _tell(self, kind: str, verdict: str, sample: object) -> None:
        kind = printable(kind, KIND_CHARS)
        # Bounded, since a kind may hold words of the vendor's.
        if kind in self._told or len(self._told) >= MAX_KINDS:
            return
        self._told.add(kind)
        shown = printable(sample if isinstance(sample, bytes) else str(sample), SAMPLE_CHARS)
        self._notices.append(Notice(kind, f"{verdict}, {kind}; sample: {shown}"))

    def take(self) -> tuple[Mapping[Skip, int], Mapping[Oddity, int], tuple[Notice, ...]]:
        """Return counts of skips, counts of oddities and notices, and begin anew."""
        skipped: Mapping[Skip, int] = _NONE
        oddities: Mapping[Oddity, int] = _NONE
        notices: tuple[Notice, ...] = ()
        # Sound frames share one empty mapping: no objects are made for what did not happen.
        if self._skipped:
            skipped, self._skipped = self._skipped, Counter()
        if self._oddities:
            oddities, self._oddities = self._oddities, Counter()
        if self._notices:
            notices = tuple(self._notices)
            self._notices.clear()
        return skipped, oddities, notices


@cache
def _decoders(kind: Any) -> tuple[msgspec.json.Decoder[Any], msgspec.json.Decoder[Any]]:
    """A decoder holds nothing of what it read, so all readers of a market share theirs."""
    return msgspec.json.Decoder(list[kind]), msgspec.json.Decoder(kind, strict=False)


class FrameReader(Generic[M]):
    """Reads frames of one market into messages of the union type `M`."""

    def __init__(self, kind: Any, known_keys: Mapping[str, frozenset[str]], tally: Tally) -> None:
        self._whole: msgspec.json.Decoder[list[M]]
        self._lenient: msgspec.json.Decoder[M]
        self._whole, self._lenient = _decoders(kind)
        self._known_keys = known_keys
        self._tally = tally
        self._frames = 0

    def read(self, data: bytes, *, whole: bool = True) -> list[M]:
        """Return the messages of a frame in its order; what is none goes to the tally.

        A piece of a frame, not `whole`, is cut no further.
        """
        if whole and len(data) > PIECE_BYTES:
            return [m for piece in pieces(data) for m in self.read(piece, whole=False)]
        try:
            messages = self._whole.decode(data)
        # The whole frame is refused for one bad element: the price of one call for all sound ones.
        except _UNREADABLE:
            messages = self._read_apart(data)
        # A sample: reading every frame twice would double the cost of all.
        if self._frames % AUDIT_EVERY == 0:
            self._audit(data)
        self._frames += 1
        return messages

    def _read_apart(self, data: bytes) -> list[M]:
        # Only what cannot be cut is this long; as objects it takes a hundred times its size.
        if len(data) > MAX_PIECE_BYTES:
            self._tally.skip(Skip.NOT_JSON, f"more than {MAX_PIECE_BYTES} bytes", data)
            return []
        messages: list[M] = []
        try:
            found = [bytes(element) for element in _RAW_ELEMENTS.decode(data)]
        except _UNREADABLE:
            found = elements(data)
        for element in self._worth_a_look(found):
            try:
                messages.append(self._lenient.decode(element))
            except msgspec.ValidationError as error:
                self._tally.skip(*_cause(error), element)
            except _UNREADABLE as error:
                messages += self._read_parts(element, error)
        return messages

    def _worth_a_look(self, found: list[bytes]) -> list[bytes]:
        """Leave out, of very many, those that are too short to say anything."""
        if len(found) <= MAX_LOOKED_AT:
            return found
        worth = [element for element in found if len(element) >= MIN_EVENT_BYTES]
        if len(worth) < len(found):
            short = next(element for element in found if len(element) < MIN_EVENT_BYTES)
            detail = f"more than {MAX_LOOKED_AT} elements, too short for events"
            self._tally.skip(Skip.NOT_AN_EVENT, detail, short, len(found) - len(worth))
        return worth

    def _read_parts(self, element: bytes, error: Exception) -> list[M]:
        """Read what is no JSON: a missing quote may have made one element of several."""
        messages: list[M] = []
        refused: list[tuple[Exception, bytes]] = []
        for part in parts(element):
            try:
                messages.append(self._lenient.decode(part))
            except _UNREADABLE as why:
                refused.append((why, part))
        # With nothing sound in it, it was one bad element and not several: it counts once.
        for cause, part in refused if messages else [(error, element)]:
            self._tally.skip(*_cause(cause), part)
        return messages

    def _audit(self, data: bytes) -> None:
        try:
            events = _ANY_EVENTS.decode(data)
        except _UNREADABLE:
            return
        for event in events:
            ev = event.get("ev")
            known = self._known_keys.get(ev) if isinstance(ev, str) else None
            for key in event.keys() - known if known is not None else ():
                self._tally.odd(Oddity.UNKNOWN_KEY, f"{ev}.{key}", event)


# `RecursionError`: msgspec refuses what is nested deeper than the interpreter's stack allows.
_UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_RAW_ELEMENTS: Final = msgspec.json.Decoder(list[msgspec.Raw])
_ANY_EVENTS: Final = msgspec.json.Decoder(list[dict[str, Any]])
_ERROR_FIELD: Final = re.compile(r"(?:at `\$\.|required field `)(\w+)")
_CAUSE_OF_FIELD: Final = {
    "sym": Skip.SYMBOL,
    **dict.fromkeys(("t", "pt"), Skip.TIME),
    **dict.fromkeys(("p", "bp", "ap"), Skip.PRICE),
    **dict.fromkeys(("s", "ds", "bs", "as"), Skip.SIZE),
}


def _cause(error: Exception) -> tuple[Skip, str]:
    """Return the cause and its wording, which is the same for errors of one kind."""
    if not isinstance(error, msgspec.ValidationError):
        return Skip.NOT_JSON, type(error).__name__
    text = str(error)
    # msgspec tells the field only in words: ``... - at `$.p` `` or ``required field `sym` ``.
    field = _ERROR_FIELD.search(text)
    if text.startswith("Invalid value"):
        return Skip.UNKNOWN_EV, text
    if field is None or field[1] == "ev":
        return Skip.NOT_AN_EVENT, text
    return _CAUSE_OF_FIELD.get(field[1], Skip.FIELD), text
