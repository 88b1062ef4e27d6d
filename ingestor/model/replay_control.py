"""Steering a replay from outside: the commands, and what a replay says of itself.

A command is typed (``step 5s``), sent as text to a service, or posted as JSON; whichever it is, it
becomes one `ReplayCommand`. Times may be written as an operator has them in mind (see `moment_ns`),
and of a seek also as a share of the replay.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Final, NamedTuple

import msgspec

from ingestor.model.bounds import MAX_TIME_NS, printable
from ingestor.model.errors import ConfigurationError
from ingestor.model.units import (
    INT64_MAX,
    NS_PER_MS,
    NS_PER_S,
    iso_utc,
    new_york_date,
    new_york_ns,
    new_york_time,
    to_ns,
    utc_date,
)

MAX_SPEED: Final = 1_000_000.0
MIN_SPEED: Final = 0.000_001
"""A day would take three thousand years; 0 is the way to say "as fast as possible"."""

MAX_COMMAND_BYTES: Final = 512
"""Of a command as JSON or text; the longest sensible one has 80."""

_SPANS_NS: Final = {
    "ms": NS_PER_MS,
    "s": NS_PER_S,
    "m": 60 * NS_PER_S,
    "h": 3_600 * NS_PER_S,
}
_SPAN: Final = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)(ms|s|m|h)", re.ASCII).fullmatch
_SHARE: Final = re.compile(r"(\d{1,3}(?:\.\d{1,9})?)%", re.ASCII).fullmatch
_MOMENT: Final = re.compile(
    r"(?:(?P<date>\d{4}-\d\d-\d\d)[T ])?(?P<wall>\d\d:\d\d(?::\d\d)?)(?:\.(?P<fraction>\d{1,9}))?"
    r"(?P<zone>Z|[+-]\d\d:\d\d)?",
    re.ASCII,
).fullmatch
_MOMENTS_TOLD: Final = (
    "allowed are New York times like 15:30 or 15:30:01.5, UTC times like 2025-12-16T20:30:00Z,"
    " and +10s, +5m, +1h from where it is; seek takes 50% of the replay too"
)


class Do(StrEnum):
    """What a command does; the words that an operator types."""

    PAUSE = "pause"
    RESUME = "resume"
    TOGGLE = "toggle"
    """Pause, or resume where it is paused."""
    SPEED = "speed"
    STEP = "step"
    """Pause, and publish a number of events or a span more, at once."""
    UNTIL = "until"
    """Pause before the first event at or after `at_ns`; without one nothing pauses it any more."""
    SEEK = "seek"
    """Drop what is not sent, and go on with the first event at or after a time, back or forth."""
    LOOP = "loop"
    """Seek to `at_ns`, and go back there before the first event at or after `to_ns`; without them
    it loops no more."""
    STOP = "stop"
    STATUS = "status"
    """Change nothing: the answer tells how it stands."""


TIMED: Final = frozenset({Do.UNTIL, Do.SEEK, Do.LOOP})
"""Commands whose times may be told from where the replay is."""

MaybeEvents = Annotated[int, msgspec.Meta(ge=1, le=INT64_MAX)] | None
MaybeSpeed = Annotated[float, msgspec.Meta(ge=0, le=MAX_SPEED)] | None
MaybeShift = Annotated[int, msgspec.Meta(ge=-MAX_TIME_NS, le=MAX_TIME_NS)] | None
MaybeShare = Annotated[float, msgspec.Meta(ge=0, le=1)] | None
MaybeTime = Annotated[int, msgspec.Meta(ge=0, le=MAX_TIME_NS)] | None


class ReplayCommand(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True
):
    """One command; times are int ns UTC of events. What does not belong to `do` is refused."""

    do: Do
    speed: MaybeSpeed = None
    """Of `SPEED`: seconds of event time a second, 0 as fast as possible."""
    events: MaybeEvents = None
    span_ns: MaybeEvents = None
    """Of `STEP`: a number of events, or all within a span of event time."""
    at_ns: MaybeTime = None
    """Of `UNTIL`, `SEEK`, and where a `LOOP` begins."""
    to_ns: MaybeTime = None
    """Of `LOOP`: where it ends."""
    by_ns: MaybeShift = None
    """Of `SEEK`: so far from where the replay is, back where it is negative."""
    share: MaybeShare = None
    """Of `SEEK`: so much of the way from the replay's first event to its end."""

    def __post_init__(self) -> None:
        """Raise ValueError, which msgspec tells as one of its own, for what makes no sense."""
        # The first field is `do`; all others are values that some commands take.
        given = {name for name in self.__struct_fields__[1:] if getattr(self, name) is not None}
        allowed, counts = _VALUES.get(self.do, (frozenset(), (0,)))
        if not given <= allowed or len(given) not in counts:
            wanted = " or ".join(sorted(allowed)) or "no value"
            raise ValueError(f"{self.do} takes {wanted}")
        if self.speed is not None and 0 < self.speed < MIN_SPEED:
            raise ValueError(f"the speed is 0 or at least {MIN_SPEED}")
        if self.at_ns is not None and self.to_ns is not None and self.to_ns <= self.at_ns:
            raise ValueError("a loop ends after it begins")


_VALUES: Final = {
    Do.SPEED: (frozenset({"speed"}), (1,)),
    Do.STEP: (frozenset({"events", "span_ns"}), (1,)),
    Do.UNTIL: (frozenset({"at_ns"}), (0, 1)),
    Do.SEEK: (frozenset({"at_ns", "by_ns", "share"}), (1,)),
    Do.LOOP: (frozenset({"at_ns", "to_ns"}), (0, 2)),
}
"""Which values a command takes, and how many of them."""


class ReplaySpan(NamedTuple):
    """From the first event of a whole replay to its last; int ns UTC, `ends_ns` is the later."""

    first_ns: int
    ends_ns: int
    is_known: bool
    """Whether all has been read; else the end is an estimate."""

    def at_ns(self, share: float) -> int:
        """Return the event time that lies so much of the way to the end.

        >>> ReplaySpan(1_000, 2_000, True).at_ns(0.5)
        1500
        """
        return self.first_ns + round((self.ends_ns - self.first_ns) * share)


class ReplayState(msgspec.Struct, frozen=True, kw_only=True):
    """How a replay stands. `generation` grows by one with every change that was made to it."""

    paused: bool = False
    stepping: bool = False
    """A step is under way: it is paused again when that is done."""
    speed: float = 0.0
    """As it was told; 0 as fast as possible."""
    until_ns: int | None = None
    position_ns: int | None = None
    """Event time of the last event that was handed on, None before the first; after a seek, the
    time that was sought until there is one."""
    generation: int = 0
    seeking_ns: int | None = None
    """A seek to this time is under way: of what was before, nothing more is sent."""
    loop_ns: tuple[int, int] | None = None
    """Where a loop begins and ends."""

    def sentence(self, attained: float | None = None) -> str:
        """One line for people; `attained` is the speed that was measured."""
        parts = ["stepping" if self.stepping else "paused" if self.paused else "running"]
        # What is typed, --start and until, are times of New York.
        there = "" if self.position_ns is None else f" ({new_york_time(self.position_ns)})"
        parts.append(place_text(self.position_ns) + there)
        parts.append(speed_text(self.speed))
        if attained is not None and not self.paused:
            parts.append(f"attained x{attained:,.4g}")
        if self.until_ns is not None:
            parts.append(f"until {iso_utc(self.until_ns)} ({new_york_time(self.until_ns)})")
        if self.loop_ns is not None:
            parts.append(f"looping over {window_text(self.loop_ns)}")
        return f"{', '.join(parts)} (generation {self.generation})"


class ControlAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a command: whether it is in force, one sentence, and how the replay stands."""

    ok: bool
    text: str
    state: ReplayState | None = None
    attained_speed: float | None = None
    """Seconds of event time a second over about the last two; None where nobody measures it."""


def speed_text(speed: float) -> str:
    """Return a speed as people read it.

    >>> speed_text(1000.0), speed_text(0)
    ('x1,000', 'as fast as possible')
    """
    return f"x{speed:,.6g}" if speed else "as fast as possible"


def place_text(position_ns: int | None) -> str:
    """Return where a replay stands."""
    return "before the first event" if position_ns is None else f"at {iso_utc(position_ns)}"


def window_text(window_ns: tuple[int, int]) -> str:
    """Return the window of a loop."""
    return " to ".join(map(iso_utc, window_ns))


def span_text(span_ns: int) -> str:
    """Return a span of event time in seconds, exactly.

    >>> span_text(2_500_000_000)
    '2.5 s'
    """
    seconds, rest = divmod(span_ns, NS_PER_S)
    return f"{seconds}.{rest:09d}".rstrip("0").rstrip(".") + " s"


def decode_command(data: bytes) -> ReplayCommand:
    """Read a command from JSON. Raises ConfigurationError."""
    # Whoever reaches the server may send this: bounded before it is parsed.
    if len(data) > MAX_COMMAND_BYTES:
        raise ConfigurationError(f"a command has at most {MAX_COMMAND_BYTES} bytes")
    try:
        return msgspec.json.decode(data, type=ReplayCommand)
    except (ValueError, RecursionError) as error:  # msgspec's own, UTF-8's
        raise ConfigurationError(f"no command: {printable(str(error))}") from None


def parse_command(words: Sequence[str], position_ns: int | None) -> ReplayCommand:
    """Read a command as it is typed; times may refer to the position. Raises ConfigurationError."""
    given = [word for word in words if word]
    if not given or given[0] not in list(Do):
        allowed = ", ".join(Do)
        raise ConfigurationError(f"there is no command {' '.join(given[:1])!r}; allowed: {allowed}")
    do, values = Do(given[0]), given[1:]
    if len(values) > max(_VALUES[do][1] if do in _VALUES else (0,)):
        raise ConfigurationError(f"{do} does not take {' '.join(values)!r}")
    value = values[0] if values else ""
    try:
        match do:
            case Do.SPEED:
                return ReplayCommand(do=do, speed=_speed(value))
            case Do.STEP if _SPAN(value):
                return ReplayCommand(do=do, span_ns=_span_ns(value))
            case Do.STEP:
                return ReplayCommand(do=do, events=_events(value))
            case Do.UNTIL | Do.SEEK | Do.LOOP:
                return _timed(do, values, position_ns)
        return ReplayCommand(do=do)
    except ValueError as error:
        raise ConfigurationError(f"{do} {printable(' '.join(values))!r}: {error}") from None


def _timed(do: Do, values: Sequence[str], position_ns: int | None) -> ReplayCommand:
    if do is not Do.SEEK and values == ["off"]:
        return ReplayCommand(do=do)
    first, last = (*values, "", "")[:2]
    if do is Do.SEEK and first[:1] in ("+", "-") and _SPAN(first[1:]):
        # Counted by the replay itself: a position that is asked for is of a moment ago.
        shift_ns = _span_ns(first[1:])
        return ReplayCommand(do=do, by_ns=-shift_ns if first[0] == "-" else shift_ns)
    if do is Do.SEEK and (found := _SHARE(first)):
        if (share := float(found[1]) / 100) > 1:
            raise ValueError("a replay goes from 0% to 100%")
        return ReplayCommand(do=do, share=share)
    at_ns = moment_ns(first, position_ns)
    to_ns = moment_ns(last, position_ns) if do is Do.LOOP else None
    return ReplayCommand(do=do, at_ns=at_ns, to_ns=to_ns)


def _speed(text: str) -> float:
    # "nan" is a float too: no comparison with it holds, so the next line refuses it.
    speed = 0.0 if text == "max" else float(text)
    if not 0 <= speed <= MAX_SPEED:
        raise ValueError(f"allowed are 0 (as fast as possible) to {MAX_SPEED:,.0f}")
    return speed


def _events(text: str) -> int:
    # 18 digits fit an int64, whatever they are.
    events = int(text) if text.isdecimal() and len(text) <= 18 else 0
    if not events:
        raise ValueError("allowed are a number of events, and spans like 5s, 250ms, 1m")
    return events


def _span_ns(text: str) -> int:
    found = _SPAN(text)
    if found is None:
        raise ValueError("allowed are spans like 5s, 250ms, 1m")
    whole, _, fraction = found[1].partition(".")
    unit_ns = _SPANS_NS[found[2]]
    # Integers throughout: 0.1 s is 100,000,000 ns and not one less.
    span_ns = int(whole) * unit_ns + int(fraction.ljust(9, "0")) * unit_ns // NS_PER_S
    if not span_ns:
        raise ValueError("a span is longer than nothing")
    return span_ns


def moment_ns(text: str, position_ns: int | None) -> int:
    """Return the event time that a text means, int ns UTC. Raises ValueError.

    A time of day is New York's, on the date where the replay stands; with ``Z`` or an offset it is
    of that zone. A date with a time is UTC unless a zone is written. ``+5m`` counts from where the
    replay stands.

    >>> moment_ns("2025-12-16T20:30:00.000000001Z", None)
    1765917000000000001
    """
    if text.startswith("+") and _SPAN(text[1:]):
        return _known(position_ns) + _span_ns(text[1:])
    found = _MOMENT(text)
    if found is None:
        raise ValueError(_MOMENTS_TOLD)
    wall = dt.time.fromisoformat(found["wall"])
    fraction_ns = int((found["fraction"] or "").ljust(9, "0"))
    # The market's own clock is what people read off a chart.
    if found["date"] is None and found["zone"] is None:
        return new_york_ns(new_york_date(_known(position_ns)), wall) + fraction_ns
    date = dt.date.fromisoformat(found["date"] or utc_date(_known(position_ns)).isoformat())
    zone = "+00:00" if found["zone"] in (None, "Z") else found["zone"]
    moment = dt.datetime.fromisoformat(f"{date.isoformat()}T{wall.isoformat()}{zone}")
    at_ns = to_ns(moment) + fraction_ns
    if not 0 <= at_ns <= MAX_TIME_NS:
        raise ValueError("times are those from 1970 to 2262")
    return at_ns


def _known(position_ns: int | None) -> int:
    if position_ns is None:
        raise ValueError("nothing has been published yet: write the date too")
    return position_ns
