"""What a live feed hands on, and what is told about it. Nothing here waits: sockets are drained.

`Sink` is the way to the rest of the pipeline, `FrameLog` the journal of raw frames. What is told
are log lines and statuses, one for each event, never one for each record.

A *gap* runs from the last record before a socket was lost to the first one after it, since the
vendor replays nothing. *Losses* are what this program itself gave up. Both are told with exact
bounds, as a status to the sink and a line in the log. Alarms of one kind are told at once up to a
rate and then as a sum, so that a vendor that repeats itself floods neither.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict, deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Protocol

import numpy as np

from ingestor.journal.segments import Place, RunFollower
from ingestor.model.blocks import Block
from ingestor.model.feed_status import FeedStatus, What
from ingestor.model.records import Records, RType
from ingestor.model.units import NS_PER_S, iso_utc


@dataclass(slots=True, kw_only=True)
class FeedStats:
    """Running totals of one feed since its start, and its state now; one object, always current.

    Attributes:
        frames: Frames (messages of the WebSocket) received.
        bytes: Payload bytes of these.
        records: Records decoded, dropped ones among them.
        skipped: Elements that became no record, by cause.
        oddities: What was tolerated, by kind.
        late: Trades that were reported late.
        attempts: Sockets that were tried, those that opened among them.
        sockets: Sockets opened.
        gaps: Spans that a lost connection left unseen.
        silences: Connections given up because they said nothing.
        alarms: Refusals, missing acknowledgements and the like.
        dropped_trades: Records dropped because the sink was full for too long.
        dropped_quotes: As `dropped_trades`.
        undelivered: Records that the sink had not taken when the feed was to stop.
        statuses: Statuses that the sink has taken.
        dropped_statuses: Statuses that it did not take in time.
        backlog_rows: Records that wait for the sink now.
        spooled_rows: Records that wait in the journal now, to be read back.
        spool_lag_ns: How old the record is that the journal gives next; 0 where it gives none.
        subscribed: Names that the vendor has acknowledged on the socket of now.
        streaming: Whether there is an authenticated socket now.
        trouble: Why the last socket is gone, until there is another one.
        last_event_ns: Vendor's time of the newest record, 0 before the first.
        last_recv_ns: When the newest frame was received, 0 before the first.
    """

    frames: int = 0
    bytes: int = 0
    records: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    oddities: Counter[str] = field(default_factory=Counter)
    late: int = 0
    attempts: int = 0
    sockets: int = 0
    gaps: int = 0
    silences: int = 0
    alarms: int = 0
    dropped_trades: int = 0
    dropped_quotes: int = 0
    undelivered: int = 0
    statuses: int = 0
    dropped_statuses: int = 0
    backlog_rows: int = 0
    spooled_rows: int = 0
    spool_lag_ns: int = 0
    subscribed: int = 0
    streaming: bool = False
    trouble: str = ""
    last_event_ns: int = 0
    last_recv_ns: int = 0

    @property
    def reconnects(self) -> int:
        """Sockets opened after the first."""
        return max(self.sockets - 1, 0)


class Sink(Protocol):
    """Takes what a feed produces, or says at once that it cannot."""

    def put(self, block: Block) -> bool:
        """Take a block of at most `MAX_BLOCK_ROWS` records; False when full: try later."""

    def tell(self, status: FeedStatus) -> bool:
        """Take a status; False when full: try later."""

    def price(self, price_e9: int) -> None:
        """Take the newest reference price of the underlying; only the stocks feed has one."""

    def show(self, stats: FeedStats) -> None:
        """Show the totals as a sign of life, some ten times a second; they change afterwards."""


class FrameLog(Protocol):
    """Records raw frames as they were received."""

    @property
    def number(self) -> int:
        """Number of the frame or note that is taken next."""

    @property
    def place(self) -> Place | None:
        """Where that is found later; None while nothing is written."""

    def follower(self, place: Place) -> RunFollower:
        """Return what reads back, from a place on, what was taken."""

    def append(self, data: bytes, recv_ns: int, connection: int) -> bool:
        """Take a frame, when its bytes were read, and on which connection of the run (1, 2...).

        Whether it was taken.
        """

    def note(self, names: Sequence[str] | None, now_ns: int, connection: int) -> None:
        """Take names that are asked for on a connection; None where a connection begins."""

    def flush(self) -> None:
        """Write what is held as soon as can be: after each read."""

    def tick(self, now_ns: int) -> Sequence[str] | None:
        """Flush and rotate, some ten times a second; return what went wrong since, if anything."""

    def close(self) -> None:
        """Write what is held; nothing is appended any more."""


ALARMS_AT_ONCE: Final = 10
"""Alarms of one kind that are told as they come."""

ALARM_EVERY_NS: Final = 10 * NS_PER_S
"""After this time one more is told at once; those beyond are counted, and told as a sum."""

MAX_STATUSES_HELD: Final = 1_000
"""Statuses that wait for a full sink; beyond that the oldest is given up, and counted."""

REPEAT_NS: Final = 60 * NS_PER_S
"""An unchanged reason why there is no connection is told again after this time."""

log = logging.getLogger(__name__)


class ConnectLog:
    """Log lines of `feed` about its connections to `address`; times are of a clock never set.

    Each loss is told, each new reason why there is no connection, and an old one once a minute.
    """

    def __init__(self, feed: str, address: str) -> None:
        self._feed = feed
        self._address = address
        self._failed = 0
        self._told: tuple[str, int] | None = None

    def opened(self) -> None:
        """There is a connection."""
        after = f" (failed attempts before: {self._failed})" if self._failed else ""
        log.info("%s: connected to %s%s", self._feed, self._address, after)
        self._failed, self._told = 0, None

    def ended(self, cause: str) -> None:
        """The last connection is gone."""
        log.info("%s: connection to %s is gone: %s", self._feed, self._address, cause)

    def lost(self, cause: str, delay_ns: int) -> None:
        """A connection is gone; the next attempt is due after a delay."""
        again_s = delay_ns / NS_PER_S
        log.warning(
            "%s: connection to %s is gone: %s; connecting again in %.1f s",
            *(self._feed, self._address, cause, again_s),
        )

    def failed(self, cause: str, delay_ns: int, now_ns: int) -> None:
        """An attempt failed; the next is due after a delay."""
        self._failed += 1
        told_cause, told_ns = self._told or ("", 0)
        # A vendor that is down for a day is one line a minute, not one an attempt.
        if cause == told_cause and now_ns - told_ns < REPEAT_NS:
            return
        self._told = cause, now_ns
        log.warning(
            "%s: cannot connect to %s: %s; attempt %d, the next in %.1f s",
            *(self._feed, self._address, cause, self._failed, delay_ns / NS_PER_S),
        )


@dataclass(frozen=True, slots=True)
class FeedGap:
    """The vendor replays nothing of what lies between; all times int nanoseconds UTC."""

    from_event_ns: int
    from_recv_ns: int
    to_event_ns: int
    to_recv_ns: int


class GapTracker:
    """Turns disconnections into gaps, however many attempts a reconnection takes."""

    def __init__(self, last: tuple[int, int] | None = None) -> None:
        """`last` are the times of the last record before: its event, its receipt."""
        self._last = last
        self._open_from: tuple[int, int] | None = None

    @property
    def is_open(self) -> bool:
        """Whether the next record ends a gap."""
        return self._open_from is not None

    def on_disconnect(self) -> None:
        """The socket is gone; without a record before it there is no gap."""
        self._open_from = self._last

    def on_records(self, records: Records) -> FeedGap | None:
        """Note a frame's records; returns the gap that the first of them ends."""
        if not len(records):
            return None
        event_ns, recv_ns = records["ts_event_ns"], records["ts_recv_ns"]
        # Noted for every frame, since nobody knows which one is the last before a loss.
        self._last, begun = (int(event_ns[-1]), int(recv_ns[-1])), self._open_from
        if begun is None:
            return None
        self._open_from = None
        return FeedGap(*begun, int(event_ns[0]), int(recv_ns[0]))


@dataclass(slots=True)
class Losses:
    """What was given up in one episode, and the spans of its times, both ends among the lost."""

    lost_trades: int = 0
    lost_quotes: int = 0
    from_event_ns: int = 2**64
    to_event_ns: int = 0
    from_recv_ns: int = 2**64
    to_recv_ns: int = 0

    def add(self, records: Records) -> None:
        """Count records, at least one."""
        trades, quotes = trades_and_quotes(records)
        self.lost_trades += trades
        self.lost_quotes += quotes
        event_ns, recv_ns = records["ts_event_ns"], records["ts_recv_ns"]
        self.from_event_ns = min(self.from_event_ns, int(event_ns.min()))
        self.to_event_ns = max(self.to_event_ns, int(event_ns.max()))
        self.from_recv_ns = min(self.from_recv_ns, int(recv_ns.min()))
        self.to_recv_ns = max(self.to_recv_ns, int(recv_ns.max()))


def is_quote(records: Records) -> Any:
    """Return which rows are quotes, an array of bool; options have none."""
    return records["rtype"] == RType.STOCK_QUOTE


def trades_and_quotes(records: Records) -> tuple[int, int]:
    """Return how many rows are trades, and how many quotes."""
    quotes = int(np.count_nonzero(is_quote(records)))
    return len(records) - quotes, quotes


class AlarmPace:
    """How many alarms of one kind may be told now. Times are int nanoseconds UTC."""

    def __init__(self) -> None:
        self._left = ALARMS_AT_ONCE
        self._since_ns = 0
        self.untold = 0
        self.last_text = ""

    def allows(self, at_ns: int) -> bool:
        """Whether one more may be told; if so, it is counted as told."""
        # What was earned since is added up here and not by a timer: an alarm costs nothing between.
        more, rest_ns = divmod(at_ns - self._since_ns, ALARM_EVERY_NS)
        if self._left + more >= ALARMS_AT_ONCE or more < 0:
            self._left, self._since_ns = ALARMS_AT_ONCE, at_ns
        else:
            self._left, self._since_ns = self._left + more, at_ns - rest_ns
        if not self._left:
            return False
        self._left -= 1
        return True


class StatusReporter:
    """Speaks for the feed called `feed`. Times are int nanoseconds UTC."""

    def __init__(self, feed: str, sink: Sink, stats: FeedStats) -> None:
        self.feed = feed
        """Whom it speaks for."""
        self._sink = sink
        self._stats = stats
        self._held: deque[FeedStatus] = deque()
        self._dropped_before: tuple[int, int] | None = None
        self._paces: defaultdict[str, AlarmPace] = defaultdict(AlarmPace)

    def streaming(self, at_ns: int, event_ns: int) -> None:
        """The first data has come."""
        text = "data flows"
        log.info("%s: %s", self.feed, text)
        self._tell(What.STREAMING, at_ns, text, to_event_ns=event_ns, to_recv_ns=at_ns)

    def gap(self, gap: FeedGap) -> None:
        """Data flows again after a connection was lost."""
        self._stats.gaps += 1
        since, seconds = iso_utc(gap.from_recv_ns), (gap.to_recv_ns - gap.from_recv_ns) / 1e9
        text = f"nothing was received for {seconds:.3f} s after {since}"
        # The wall clock dates records and may step back while nobody is connected.
        if seconds < 0:
            text = f"nothing was received from {since} until our clock, set back, showed"
            text += f" {iso_utc(gap.to_recv_ns)}"
        log.warning("%s: %s: whatever was traded then is missing", self.feed, text)
        self._tell(What.GAP, gap.to_recv_ns, text, **asdict(gap))

    def hole(self, gap: FeedGap) -> None:
        """What was received in a span and left to the journal is not there."""
        self._stats.gaps += 1
        seconds = (gap.to_recv_ns - gap.from_recv_ns) / NS_PER_S
        text = f"the journal lacks what was received in the {seconds:.3f} s after"
        text += f" {iso_utc(gap.from_recv_ns)}"
        log.error("%s: %s: whatever was traded then is missing", self.feed, text)
        self._tell(What.GAP, gap.to_recv_ns, text, **asdict(gap))

    def spool(self, text: str, at_ns: int) -> None:
        """What is received waits in the journal, or is read back from it."""
        log.warning("%s: %s", self.feed, text)
        self._tell(What.SPOOL, at_ns, text)

    def losing(self, losses: Losses) -> None:
        """So much of an episode is given up by now; `overflow` is told at its end."""
        stats = self._stats
        if self._dropped_before is None:
            log.warning("%s: the pipeline does not follow and the backlog is full", self.feed)
            self._dropped_before = stats.dropped_trades, stats.dropped_quotes
        # Not only at the end: an episode lasts as long as a server is away.
        trades, quotes = self._dropped_before
        stats.dropped_trades = trades + losses.lost_trades
        stats.dropped_quotes = quotes + losses.lost_quotes

    def overflow(self, losses: Losses, at_ns: int) -> None:
        """The pipeline follows again, after these losses."""
        self.losing(losses)
        self._dropped_before = None
        self._tell_losses(losses, "dropped: the backlog was full", at_ns)

    def left(self, losses: Losses, at_ns: int) -> None:
        """These records are left to the journal; the next run publishes them."""
        self._stats.undelivered += losses.lost_trades + losses.lost_quotes
        what = "not read back from the journal before the stop, which the next run does"
        self._tell_losses(losses, what, at_ns)

    def undelivered(self, losses: Losses, at_ns: int) -> None:
        """These records were not handed on when the feed was to stop."""
        self._stats.undelivered += losses.lost_trades + losses.lost_quotes
        self._tell_losses(losses, "not handed on before the stop", at_ns)

    def _tell_losses(self, losses: Losses, what: str, at_ns: int) -> None:
        text = f"{losses.lost_trades:,} trades and {losses.lost_quotes:,} quotes were {what}"
        log.error("%s: %s", self.feed, text)
        self._tell(What.OVERFLOW, at_ns, text, **asdict(losses))

    def silence(self, text: str, since_ns: int, at_ns: int) -> None:
        """A connection said nothing in an open market."""
        self._stats.silences += 1
        log.warning("%s: %s", self.feed, text)
        self._tell(What.SILENCE, at_ns, text, from_recv_ns=since_ns, to_recv_ns=at_ns)

    def settings(self, text: str, at_ns: int) -> None:
        """What the feed follows was changed."""
        log.info("%s: %s", self.feed, text)
        self._tell(What.SETTINGS, at_ns, text)

    def alarm(self, text: str, at_ns: int, kind: str = "") -> None:
        """The vendor refuses something, or does not answer; of many of a kind tell a sum."""
        self._stats.alarms += 1
        pace = self._paces[kind]
        # Once one was held back, all wait for the sum: told out of turn they would read as new.
        if not pace.untold and pace.allows(at_ns):
            self._tell_alarm(text, at_ns)
        else:
            pace.untold += 1
            pace.last_text = text

    def tell_sums(self, at_ns: int, *, at_once: bool = False) -> None:
        """Tell how many alarms were not told, unless the last one was told just now."""
        for pace in self._paces.values():
            if pace.untold and (at_once or pace.allows(at_ns)):
                self._tell_alarm(f"{pace.untold} more like this: {pace.last_text}", at_ns)
                pace.untold = 0

    def drain(self) -> bool:
        """Hand on what is held; whether nothing is held any more."""
        # Removed only once taken: a sink that is full gets the same one again.
        while self._held and self._sink.tell(self._held[0]):
            self._held.popleft()
            self._stats.statuses += 1
        return not self._held

    def _tell_alarm(self, text: str, at_ns: int) -> None:
        log.error("%s: %s", self.feed, text)
        self._tell(What.ALARM, at_ns, text)

    def _tell(self, what: What, at_ns: int, text: str, **span: int) -> None:
        # The oldest goes, not the newest: a run that ends badly is told by its last statuses.
        if len(self._held) >= MAX_STATUSES_HELD:
            self._held.popleft()
            self._stats.dropped_statuses += 1
        self._held.append(FeedStatus(feed=self.feed, what=what, at_ns=at_ns, text=text, **span))
        self.drain()
