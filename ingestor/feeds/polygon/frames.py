"""From the bytes of a frame to typed messages, whatever else is in there.

A sound frame costs one msgspec call. When that call refuses, the frame is taken apart and every
element read for itself, so a bad one costs nothing but itself; what is left out is tallied by
cause, and told once per kind with a sample. Elements read one by one are read leniently (``100.0``
or ``"100"`` for an int), which keeps a feed alive whose vendor changes the type of a field.

A refusal costs some microseconds, and a frame of 16 MiB has room for eight million of them. So a
long frame is read piece by piece (`ingestor.feeds.polygon.pieces`), and of a piece with more than
`MAX_LOOKED_AT` elements those that are too short for any event are counted and not looked at. What
is left costs at most a few times what as many bytes of sound events do, and every sound element of
any frame is read.

msgspec passes over keys that it does not know. To notice what the vendor adds, every
`AUDIT_EVERY`-th frame, the first included, is also read without types and its keys compared.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from types import MappingProxyType
from typing import Any, Final, Generic, TypeVar

import msgspec

from ingestor.feeds.polygon.pieces import PIECE_BYTES, elements, parts, pieces
from ingestor.model.bounds import printable

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
        if kind in self._told or len(self._told) >= MAX_KINDS:
            return
        self._told.add(kind)
        self._notices.append(Notice(kind, f"{verdict}, {kind}; sample: {_shown(sample)}"))

    def take(self) -> tuple[Mapping[Skip, int], Mapping[Oddity, int], tuple[Notice, ...]]:
        """Return counts of skips, counts of oddities and notices, and begin anew."""
        skipped: Mapping[Skip, int] = _NONE
        oddities: Mapping[Oddity, int] = _NONE
        notices: tuple[Notice, ...] = ()
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
        except _UNREADABLE:
            messages = self._read_apart(data)
        if self._frames % AUDIT_EVERY == 0:
            self._audit(data)
        self._frames += 1
        return messages

    def _read_apart(self, data: bytes) -> list[M]:
        if len(data) > MAX_PIECE_BYTES:
            self._tally.skip(Skip.NOT_JSON, f"more than {MAX_PIECE_BYTES} bytes", data)
            return []
        messages: list[M] = []
        for element in self._worth_a_look(_elements(data)):
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


_UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_ELEMENTS: Final = msgspec.json.Decoder(list[msgspec.Raw])
_ANY_EVENTS: Final = msgspec.json.Decoder(list[dict[str, Any]])
_ERROR_FIELD: Final = re.compile(r"(?:at `\$\.|required field `)(\w+)")
_CAUSE_OF_FIELD: Final = {
    "sym": Skip.SYMBOL,
    **dict.fromkeys(("t", "pt"), Skip.TIME),
    **dict.fromkeys(("p", "bp", "ap"), Skip.PRICE),
    **dict.fromkeys(("s", "ds", "bs", "as"), Skip.SIZE),
}


def _elements(data: bytes) -> list[bytes]:
    """Cut a frame into its elements, whether it is JSON or not."""
    try:
        return [bytes(element) for element in _ELEMENTS.decode(data)]
    except _UNREADABLE:
        return elements(data)


def _cause(error: Exception) -> tuple[Skip, str]:
    """Return the cause and its wording, which is the same for errors of one kind."""
    if not isinstance(error, msgspec.ValidationError):
        return Skip.NOT_JSON, type(error).__name__
    text = str(error)
    field = _ERROR_FIELD.search(text)
    if text.startswith("Invalid value"):
        return Skip.UNKNOWN_EV, text
    if field is None or field[1] == "ev":
        return Skip.NOT_AN_EVENT, text
    return _CAUSE_OF_FIELD.get(field[1], Skip.FIELD), text


def _shown(sample: object) -> str:
    return printable(sample if isinstance(sample, bytes) else str(sample), SAMPLE_CHARS)
