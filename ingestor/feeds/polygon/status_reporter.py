"""Tells what happens to a feed: one line in the log, one status to the sink, never per record."""

from __future__ import annotations

import logging
from collections import defaultdict, deque
from typing import Final

from ingestor.feeds.polygon.backlog import Losses
from ingestor.feeds.polygon.gaps import Gap
from ingestor.feeds.polygon.sink import Sink
from ingestor.feeds.polygon.totals import Totals
from ingestor.model.clock import iso_utc
from ingestor.model.feed_status import FeedStatus, What
from ingestor.model.units import NS_PER_S

ALARMS_AT_ONCE: Final = 10
"""Alarms of one kind that are told as they come."""

ALARM_EVERY_NS: Final = 10 * NS_PER_S
"""So often one more is told at once; those beyond are counted, and told as a sum."""

MAX_STATUSES_HELD: Final = 1_000
"""Statuses that wait for a full sink; beyond that the oldest is given up, and counted."""

log = logging.getLogger(__name__)


class AlarmPace:
    """How many alarms of one kind may be told now. Times are int nanoseconds UTC."""

    def __init__(self) -> None:
        self._left = ALARMS_AT_ONCE
        self._since_ns = 0
        self.untold = 0
        self.last_text = ""

    def allows(self, at_ns: int) -> bool:
        """Whether one more may be told; if so, it is counted as told."""
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

    def __init__(self, feed: str, sink: Sink, totals: Totals) -> None:
        self._feed = feed
        self._sink = sink
        self._totals = totals
        self._held: deque[FeedStatus] = deque()
        self._paces: defaultdict[str, AlarmPace] = defaultdict(AlarmPace)

    def streaming(self, at_ns: int, event_ns: int) -> None:
        """The first data has come."""
        log.info("%s: data flows", self._feed)
        self._tell(
            FeedStatus(
                feed=self._feed,
                what=What.STREAMING,
                at_ns=at_ns,
                text="data flows",
                to_event_ns=event_ns,
                to_recv_ns=at_ns,
            )
        )

    def gap(self, gap: Gap) -> None:
        """Data flows again after a connection was lost."""
        self._totals.gaps += 1
        since, seconds = iso_utc(gap.from_recv_ns), (gap.to_recv_ns - gap.from_recv_ns) / 1e9
        text = f"nothing was received for {seconds:.3f} s after {since}"
        if seconds < 0:
            text = f"nothing was received from {since} until our clock, set back, showed"
            text += f" {iso_utc(gap.to_recv_ns)}"
        log.warning("%s: %s: whatever was traded then is missing", self._feed, text)
        self._tell(
            FeedStatus(
                feed=self._feed,
                what=What.GAP,
                at_ns=gap.to_recv_ns,
                text=text,
                from_event_ns=gap.from_event_ns,
                to_event_ns=gap.to_event_ns,
                from_recv_ns=gap.from_recv_ns,
                to_recv_ns=gap.to_recv_ns,
            )
        )

    def losing(self) -> None:
        """The first record of an episode was given up; `overflow` is told at its end."""
        log.warning("%s: the pipeline does not follow and the backlog is full", self._feed)

    def overflow(self, losses: Losses, at_ns: int) -> None:
        """The pipeline follows again, after so much was given up."""
        self._totals.dropped_trades += losses.trades
        self._totals.dropped_quotes += losses.quotes
        self._tell_losses(losses, "dropped: the backlog was full", at_ns)

    def undelivered(self, losses: Losses, at_ns: int) -> None:
        """So much was not handed on when the feed was to stop."""
        self._totals.undelivered += losses.trades + losses.quotes
        self._tell_losses(losses, "not handed on before the stop", at_ns)

    def _tell_losses(self, losses: Losses, what: str, at_ns: int) -> None:
        text = f"{losses.trades} trades and {losses.quotes} quotes were {what}"
        log.error("%s: %s", self._feed, text)
        self._tell(
            FeedStatus(
                feed=self._feed,
                what=What.OVERFLOW,
                at_ns=at_ns,
                text=text,
                from_event_ns=losses.from_event_ns,
                to_event_ns=losses.to_event_ns,
                from_recv_ns=losses.from_recv_ns,
                to_recv_ns=losses.to_recv_ns,
                lost_trades=losses.trades,
                lost_quotes=losses.quotes,
            )
        )

    def silence(self, text: str, since_ns: int, at_ns: int) -> None:
        """A connection said nothing in an open market."""
        self._totals.silences += 1
        log.warning("%s: %s", self._feed, text)
        self._tell(
            FeedStatus(
                feed=self._feed,
                what=What.SILENCE,
                at_ns=at_ns,
                text=text,
                from_recv_ns=since_ns,
                to_recv_ns=at_ns,
            )
        )

    def alarm(self, text: str, at_ns: int, kind: str = "") -> None:
        """The vendor refuses something, or does not answer; of many of a kind tell a sum."""
        self._totals.alarms += 1
        pace = self._paces[kind]
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

    def _tell_alarm(self, text: str, at_ns: int) -> None:
        log.error("%s: %s", self._feed, text)
        self._tell(FeedStatus(feed=self._feed, what=What.ALARM, at_ns=at_ns, text=text))

    def drain(self) -> bool:
        """Hand on what is held; whether nothing is held any more."""
        while self._held and self._sink.tell(self._held[0]):
            self._held.popleft()
            self._totals.statuses += 1
        return not self._held

    def _tell(self, status: FeedStatus) -> None:
        if len(self._held) >= MAX_STATUSES_HELD:
            self._held.popleft()
            self._totals.dropped_statuses += 1
        self._held.append(status)
        self.drain()
