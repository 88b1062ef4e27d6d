"""One line of text per status of a feed, for people."""

from __future__ import annotations

from typing import Final

from ingestor.model.bounds import MAX_LINE_CHARS, printable
from ingestor.model.clock import iso_utc
from ingestor.model.feed_status import FeedStatus
from ingestor.model.units import NS_PER_S

_FEED_CHARS: Final = 8
_WHAT_CHARS: Final = 9
_CLOCK: Final = slice(11, 23)
"""``14:30:00.017`` of an ISO time."""


def line_of_status(status: FeedStatus) -> str:
    """Return ``<time, UTC> <feed> <what> <text> (<span, losses>)``."""
    feed = printable(status.feed)
    head = f"{iso_utc(status.at_ns)} {feed:{_FEED_CHARS}} {status.what:{_WHAT_CHARS}}"
    details = ", ".join(filter(None, (_span(status), _lost(status))))
    return f"{head} {printable(status.text, MAX_LINE_CHARS)}" + (f" ({details})" if details else "")


def _span(status: FeedStatus) -> str:
    """The span by our clock where it is known, else by the vendor's."""
    begin_ns, end_ns = status.from_recv_ns, status.to_recv_ns
    if begin_ns is None or end_ns is None:
        begin_ns, end_ns = status.from_event_ns, status.to_event_ns
    if begin_ns is None:
        return ""
    if end_ns is None:
        return f"since {iso_utc(begin_ns)[_CLOCK]}"
    length_s = (end_ns - begin_ns) / NS_PER_S
    return f"{iso_utc(begin_ns)[_CLOCK]} to {iso_utc(end_ns)[_CLOCK]}, {length_s:.3f} s"


def _lost(status: FeedStatus) -> str:
    named = (("trades", status.lost_trades), ("quotes", status.lost_quotes))
    known = [f"{count:,} {name}" for name, count in named if count is not None]
    return f"lost {' and '.join(known)}" if known else ""
