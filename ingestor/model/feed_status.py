"""What a feed tells about itself: gaps, drops, silences, alarms, changes to a replay, in JSON.

Published on ``ingestor.status.<feed>``, outside of the market's subjects, so that whoever uses
the data knows what is missing from it. Keys are only ever added.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final

import msgspec

from ingestor.model.bounds import MAX_LINE_CHARS, MAX_TIME_NS, printable
from ingestor.model.errors import BadDataError
from ingestor.model.units import NS_PER_S, iso_utc

SUBJECT_PREFIX: Final = "ingestor.status"
ALL_SUBJECTS: Final = f"{SUBJECT_PREFIX}.>"
STATUS_STREAM: Final = "INGESTOR_STATUS"
"""The stream that keeps them, unless it is given another name."""


MAX_TEXT_CHARS: Final = 1_000
"""A vendor's words are cut here, so that every server takes the message."""


def status_subject(feed: str) -> str:
    """Return where a feed's statuses are published."""
    return f"{SUBJECT_PREFIX}.{feed}"


class What(StrEnum):
    """What happened; the span says which data is affected."""

    STREAMING = "streaming"
    """The first data since the feed was started: from here on nothing is missing."""
    GAP = "gap"
    """A connection was lost and data flows again; the vendor replays nothing of the span."""
    OVERFLOW = "overflow"
    """The pipeline could not follow and records of the span were dropped."""
    SILENCE = "silence"
    """A connection said nothing while its market was open, and is made anew."""
    ALARM = "alarm"
    """The vendor refuses or does not answer something; `text` says what."""
    CONTROL = "control"
    """A replay was paused, resumed, or told another speed or end; `text` says what."""
    SETTINGS = "settings"
    """What a feed follows was changed while it runs; `text` says how."""
    RESTART = "restart"
    """A process of the run died or fell silent and was started again; `text` says which and why."""
    SPOOL = "spool"
    """What is received waits in the journal, and is published from it; `text` says how far behind
    that is."""


Natural = Annotated[int, msgspec.Meta(ge=0, le=MAX_TIME_NS)]
"""What JSON may say: 0 to 2**63-1."""


class FeedStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One status; times are int nanoseconds UTC, None where there is none.

    The span runs from the last record before it to the first one after it, by the vendor's clock
    (`from_event_ns`, `to_event_ns`) and by ours (`from_recv_ns`, `to_recv_ns`). Known losses are
    counted; None means that nobody can know.
    """

    feed: str
    what: What
    at_ns: Natural
    text: str
    from_event_ns: Natural | None = None
    to_event_ns: Natural | None = None
    from_recv_ns: Natural | None = None
    to_recv_ns: Natural | None = None
    lost_trades: Natural | None = None
    lost_quotes: Natural | None = None
    generation: Natural | msgspec.UnsetType = msgspec.UNSET
    """Of a change to a replay, which alone has it: how many were made so far."""

    @property
    def subject(self) -> str:
        """Where it is published."""
        return status_subject(self.feed)


_DECODER: Final = msgspec.json.Decoder(FeedStatus)


def shortened(status: FeedStatus) -> FeedStatus:
    """Return it with its text `printable` and of at most `MAX_TEXT_CHARS` characters."""
    text = printable(status.text, MAX_TEXT_CHARS)
    # Most are short: no copy of a struct for those.
    return status if text == status.text else msgspec.structs.replace(status, text=text)


def encode_status(status: FeedStatus) -> bytes:
    """Return the JSON object of a status, keys in the order of `FeedStatus`."""
    return msgspec.json.encode(status)


def decode_status(data: bytes) -> FeedStatus:
    """Read a status. Raises `BadDataError` when it is none."""
    try:
        return _DECODER.decode(data)
    except (ValueError, RecursionError) as error:  # msgspec's own errors, UTF-8's, deep nesting
        raise BadDataError(f"not a feed's status: {printable(str(error))}") from None


_FEED_CHARS: Final = 8
_WHAT_CHARS: Final = 9
_CLOCK: Final = slice(11, 23)
"""``14:30:00.017`` of an ISO time."""


def line_of_status(status: FeedStatus) -> str:
    """Return ``<time, UTC> <feed> <what> <text> (<span, losses>)``."""
    feed = printable(status.feed)
    head = f"{iso_utc(status.at_ns)} {feed:{_FEED_CHARS}} {status.what:{_WHAT_CHARS}}"
    named = (("trades", status.lost_trades), ("quotes", status.lost_quotes))
    known = [f"{count:,} {name}" for name, count in named if count is not None]
    lost = f"lost {' and '.join(known)}" if known else ""
    details = ", ".join(filter(None, (_span(status), lost)))
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
