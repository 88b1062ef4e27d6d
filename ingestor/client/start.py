"""Where in the stream a subscription begins."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

from ingestor.clock import iso_utc


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
    live feed, but a replay stores today what happened long ago.
    """

    ts_ns: int


@dataclass(frozen=True, slots=True)
class AtSequence:
    """Messages from a stream sequence on."""

    seq: int


Start = From | Since | AtSequence


def deliver_policy(start: Start) -> dict[str, Any]:
    """Return the part of a JetStream consumer's configuration that says this."""
    match start:
        case Since(ts_ns):
            return {"deliver_policy": "by_start_time", "opt_start_time": iso_utc(ts_ns)}
        case AtSequence(seq):
            return {"deliver_policy": "by_start_sequence", "opt_start_seq": seq}
    return {"deliver_policy": start.value}
