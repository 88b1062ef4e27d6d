"""Where in the stream a subscription begins."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from ingestor.model.bounds import MAX_TIME_NS
from ingestor.model.clock import iso_utc, now_ns, to_ns
from ingestor.model.errors import ConfigurationError
from ingestor.model.units import NS_PER_S


class From(Enum):
    """A word that says where.

    `BEGINNING`: everything the stream holds; `NEW`: only what is stored from now on;
    `LAST_PER_SUBJECT`: the newest message of every subject, and what is stored from now on.
    """

    BEGINNING = "all"
    NEW = "new"
    LAST_PER_SUBJECT = "last_per_subject"


@dataclass(frozen=True, slots=True)
class Since:
    """Messages stored at or after a moment, int nanoseconds UTC.

    The stream's time is meant, at which a message was stored, not an event's: they are one on a
    live feed, but a replay stores today what happened long ago (`Subscription.between` reads by
    event time). An aware `datetime` is taken, too. Raises ConfigurationError for a naive one, and
    for what is before 1970 or after 2262; `Client.subscribe` does for a time that is still to come.
    """

    ts_ns: int | dt.datetime

    def __post_init__(self) -> None:
        ts_ns = self.ts_ns
        if isinstance(ts_ns, dt.datetime):
            if ts_ns.tzinfo is None:
                raise ConfigurationError(
                    f"{self} has no time zone: use dt.datetime(..., tzinfo=dt.UTC)"
                )
            ts_ns = to_ns(ts_ns)
            object.__setattr__(self, "ts_ns", ts_ns)
        if not isinstance(ts_ns, int) or isinstance(ts_ns, bool):
            raise ConfigurationError(f"{self} is neither int nanoseconds nor a datetime")
        if not 0 <= ts_ns <= MAX_TIME_NS:
            raise ConfigurationError(f"{self} is no time in int nanoseconds of 1970 to 2262")


@dataclass(frozen=True, slots=True, order=True)
class AtSequence:
    """Messages from a stream sequence on; of that one's events, those from `row` on.

    A message of JSON has one event, row 0; a packed one has many. Raises ConfigurationError for
    a number below 1, or a row below 0.
    """

    seq: int
    row: int = 0

    def __post_init__(self) -> None:
        if self.seq < 1 or self.row < 0:
            raise ConfigurationError(f"{self} is no place in a stream: seq from 1, row from 0 on")


CLOCKS_DIFFER_S: Final = 60.0
"""So far ahead of this machine's clock a server's may be."""

Start = From | Since | AtSequence


def check_start(start: Start) -> None:
    """Raise ConfigurationError for a time that is still to come, by this machine's clock."""
    if isinstance(start, Since) and isinstance(start.ts_ns, int):
        ahead_s = (start.ts_ns - now_ns()) / NS_PER_S
        if ahead_s > CLOCKS_DIFFER_S:
            raise ConfigurationError(
                f"{start} is {ahead_s:,.0f} s in the future: nothing can have been stored since"
            )


def deliver_policy(start: Start) -> dict[str, Any]:
    """Return the part of a JetStream consumer's configuration that says this."""
    match start:
        case Since(int(ts_ns)):
            return {"deliver_policy": "by_start_time", "opt_start_time": iso_utc(ts_ns)}
        case AtSequence(seq):
            return {"deliver_policy": "by_start_sequence", "opt_start_seq": seq}
        case From():
            return {"deliver_policy": start.value}
    raise ConfigurationError(f"{start!r} is no start: use From, Since or AtSequence")
