"""From the bytes of a frame to typed messages, whatever else is in there.

A sound frame costs one msgspec call. When that call refuses, the frame is taken apart and every
element read for itself, so a bad one costs nothing but itself; what is left out is tallied by
cause, and told once per kind with a sample. Elements read one by one are read leniently (``100.0``
or ``"100"`` for an int), which keeps a feed alive whose vendor changes the type of a field.

msgspec passes over keys that it does not know. To notice what the vendor adds, every
`AUDIT_EVERY`-th frame, the first included, is also read without types and its keys compared.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Generic, TypeVar

import msgspec

M = TypeVar("M")

AUDIT_EVERY: Final = 16
MAX_KINDS: Final = 256
"""Kinds of notices told in one process; what comes after is only counted."""

SAMPLE_CHARS: Final = 240


class Skip(StrEnum):
    """Why an element became no record."""

    NOT_JSON = "not_json"
    NOT_AN_EVENT = "not_an_event"
    UNKNOWN_EV = "unknown_ev"
    TIME = "time_not_ms"
    PRICE = "price"
    SIZE = "size"
    FIELD = "field"
    OPTION_TICKER = "option_ticker"
    OTHER_ROOT = "other_root"
    INSTRUMENTS_FULL = "instruments_full"


class Oddity(StrEnum):
    """What was tolerated."""

    UNKNOWN_KEY = "unknown_key"
    CONDITIONS_CUT = "conditions_cut"


@dataclass(frozen=True, slots=True)
class Notice:
    """Something to log; each `kind` is told once."""

    kind: str
    text: str


class Tally:
    """What was skipped or tolerated since it was last taken, and what of it is news."""

    def __init__(self) -> None:
        self._skipped: Counter[Skip] = Counter()
        self._oddities: Counter[Oddity] = Counter()
        self._notices: list[Notice] = []
        self._told: set[str] = set()

    def skip(self, cause: Skip, detail: str, sample: object) -> None:
        """Count an element that is left out."""
        self._skipped[cause] += 1
        self._tell(f"{cause}: {detail}", "skipped", sample)

    def odd(self, what: Oddity, detail: str, sample: object) -> None:
        """Count something that was tolerated."""
        self._oddities[what] += 1
        self._tell(f"{what}: {detail}", "tolerated", sample)

    def _tell(self, kind: str, verdict: str, sample: object) -> None:
        if kind in self._told or len(self._told) >= MAX_KINDS:
            return
        self._told.add(kind)
        self._notices.append(Notice(kind, f"{verdict}, {kind}; sample: {_shown(sample)}"))

    def take(self) -> tuple[Mapping[Skip, int], Mapping[Oddity, int], tuple[Notice, ...]]:
        """Return counts of skips, counts of oddities and notices, and begin anew."""
        taken = (self._skipped, self._oddities, tuple(self._notices))
        if self._skipped:
            self._skipped = Counter()
        if self._oddities:
            self._oddities = Counter()
        self._notices.clear()
        return taken


class FrameReader(Generic[M]):
    """Reads frames of one market into messages of the union type `M`."""

    def __init__(self, kind: Any, known_keys: Mapping[str, frozenset[str]], tally: Tally) -> None:
        self._whole: msgspec.json.Decoder[list[M]] = msgspec.json.Decoder(list[kind])
        self._lenient: msgspec.json.Decoder[M] = msgspec.json.Decoder(kind, strict=False)
        self._known_keys = known_keys
        self._tally = tally
        self._frames = 0

    def read(self, data: bytes) -> list[M]:
        """Return the messages of a frame in its order; what is none goes to the tally."""
        try:
            messages = self._whole.decode(data)
        except _UNREADABLE:
            messages = self._read_apart(data)
        if self._frames % AUDIT_EVERY == 0:
            self._audit(data)
        self._frames += 1
        return messages

    def _read_apart(self, data: bytes) -> list[M]:
        messages = []
        for element in _elements(data):
            try:
                messages.append(self._lenient.decode(element))
            except _UNREADABLE as error:
                self._tally.skip(*_cause(error), element)
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
_BETWEEN: Final = re.compile(rb"(?<=\})\s*,\s*(?=\{)")
_ERROR_FIELD: Final = re.compile(r"(?:at `\$\.|required field `)(\w+)")
_CAUSE_OF_FIELD: Final = {
    "t": Skip.TIME,
    **dict.fromkeys(("p", "bp", "ap"), Skip.PRICE),
    **dict.fromkeys(("s", "ds", "bs", "as"), Skip.SIZE),
}


def _elements(data: bytes) -> list[bytes]:
    """Cut a frame into its elements; if it is no JSON, where one object seems to end."""
    try:
        return [bytes(element) for element in _ELEMENTS.decode(data)]
    except _UNREADABLE:
        return _BETWEEN.split(data.strip().removeprefix(b"[").removesuffix(b"]"))


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
    text = sample.decode(errors="replace") if isinstance(sample, bytes) else str(sample)
    return text if len(text) <= SAMPLE_CHARS else text[:SAMPLE_CHARS] + "..."
