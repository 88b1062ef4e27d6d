"""Whether all is well with a run, and if not, why: one answer for /healthz, the page and people.

It is made of the shared memory alone and knows two clocks, which it is given. A `Finding` that is
`bad` makes a run unhealthy; others are what people would otherwise take for a fault: a market that
is closed, a hole in the data of a replay, one that somebody has paused.

A vendor that says nothing is judged by the regular hours of its market, in which a subscribed stock
or the options around its price are quoted many times a second; before and after them, minutes
without a word are common, and the feed's own watchdog decides.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from ingestor.config.schema import Metrics
from ingestor.feeds.polygon.hours import OPTIONS, MarketHours, TradingHours
from ingestor.model.replay_control import ReplayState
from ingestor.model.units import NS_PER_S, iso_utc
from ingestor.runtime.counters import Counter, CounterRow, Role
from ingestor.runtime.progress_reporter import LONG_WAIT_NS, age_text
from ingestor.runtime.run_view import RunView, heartbeat_age_s, since_s

BEHIND: Final = 0.5
"""A feed that holds more of its backlog's rows falls behind. By `polygon.backlog_bytes` its room
may end sooner: at 80 bytes a record after four fifths of the rows."""
STOCKS_REGULAR: Final = TradingHours(dt.time(9, 30), dt.time(16), dt.time(13))


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is so of a process since `age_s` seconds; `text` is a sentence for people."""

    what: str
    process: str
    age_s: float
    text: str
    bad: bool = True


class Health:
    """Judges one run by the limits of its configuration."""

    def __init__(self, view: RunView, limits: Metrics) -> None:
        self._view = view
        self._limits = limits
        self._hours = {"stocks": MarketHours(STOCKS_REGULAR), "options": MarketHours(OPTIONS)}

    def findings(self, now_ns: int, wall_ns: int) -> list[Finding]:
        """Return what there is to say, the bad first; monotonic clock and UTC."""
        found = [*self._silent(now_ns)]
        # Of a process that does not run, what it says of itself is old.
        hung = {finding.process for finding in found}
        for index, name, row in self._view.having(Role.LIVE | Role.PUBLISHER):
            if name in hung or row[Counter.ENDED]:
                continue
            trouble = self._view.table.trouble(index)
            if self._view.roles[index] is Role.LIVE:
                found += self._of_feed(name, row, trouble, now_ns, wall_ns)
            else:
                found += self._of_publisher(name, row, trouble, now_ns)
        return sorted(found, key=lambda finding: not finding.bad)

    def _silent(self, now_ns: int) -> Iterator[Finding]:
        for index, (name, row) in enumerate(self._view.processes):
            age_s = heartbeat_age_s(row, now_ns)
            if age_s is None:
                continue
            if row[Counter.RESTARTS] and row[Counter.HEARTBEAT_NS] == row[Counter.STARTED_NS]:
                cause = self._view.table.cause_of_death(index)
                yield Finding("restarting", name, age_s, f"{name} is being started again: {cause}")
            elif age_s > self._limits.stale_after_s:
                text = f"process {name} has given no sign of life for {age_s:.1f} s"
                yield Finding("silent", name, age_s, text)

    def _of_feed(
        self, name: str, row: CounterRow, trouble: str, now_ns: int, wall_ns: int
    ) -> Iterator[Finding]:
        if row[Counter.HELD] > BEHIND * (self._view.facts.backlog_rows or math.inf):
            text = f"{name} falls behind: {row[Counter.HELD]:,} events wait for room in its ring"
            after = "are dropped" if self._view.facts.journal_dir is None else "wait in the journal"
            yield Finding("behind", name, 0.0, f"{text}, and {after} when there are too many")
        if lag_ns := row[Counter.SPOOL_LAG_NS]:
            text = f"{name} reads its journal back, and is {age_text(lag_ns)} behind"
            yield Finding("behind", name, 0.0, text, bad=False)
        why = f": {trouble}" if trouble else ""
        if row[Counter.AWAY_SINCE_NS]:
            away_s = since_s(row, Counter.AWAY_SINCE_NS, now_ns)
            never = "" if row[Counter.RECEIVED_NS] else ", and never had"
            text = f"{name} has no connection to its vendor for {away_s:.1f} s{never}{why}"
            bad = away_s > self._limits.away_after_s
            yield Finding("without a connection", name, away_s, text, bad)
            return
        if trouble:
            yield Finding("not recorded", name, 0.0, f"the journal of {name} is not written{why}")
        yield from self._silence(name, row, wall_ns)

    def _silence(self, name: str, row: CounterRow, wall_ns: int) -> Iterator[Finding]:
        open_ns = self._hours[name].open_since_ns(wall_ns)
        received_ns = row[Counter.RECEIVED_NS]
        quiet_s = (wall_ns - max(received_ns, open_ns or 0)) / NS_PER_S
        if not received_ns or quiet_s <= self._limits.quiet_after_s:
            return
        if open_ns is None:
            text = f"{name}: the market is closed; nothing for {age_text(wall_ns - received_ns)}"
            yield Finding("closed", name, quiet_s, text, bad=False)
        else:
            text = f"{name} has received nothing for {quiet_s:.1f} s though its market is open"
            yield Finding("quiet", name, quiet_s, text)

    def _of_publisher(
        self, name: str, row: CounterRow, trouble: str, now_ns: int
    ) -> Iterator[Finding]:
        server, limit_s = self._view.facts.server, self._limits.away_after_s
        stalled_s = since_s(row, Counter.STALLED_SINCE_NS, now_ns)
        if row[Counter.AWAY_SINCE_NS]:
            away_s = since_s(row, Counter.AWAY_SINCE_NS, now_ns)
            text = f"there is no connection to the NATS server at {server} for {away_s:.1f} s"
            # The connection to a frozen server is lost some seconds later: that is no better.
            bad = max(away_s, stalled_s) > limit_s
            yield Finding("without a connection", name, away_s, text, bad)
        elif stalled_s > limit_s:
            why = trouble or "the server does not answer"
            text = f"nothing is stored for {stalled_s:.1f} s: {why};"
            text += f" {row[Counter.UNACKED]:,} events are under way"
            yield Finding("stalled", name, stalled_s, text)
        waits_ns = row[Counter.WAITS_UNTIL_NS] - now_ns
        if row[Counter.WAITS_FOR_NS] and waits_ns >= LONG_WAIT_NS:
            at = iso_utc(row[Counter.WAITS_FOR_NS])[:19]
            text = f"a hole in the data: the next event, of {at}Z, is due in {age_text(waits_ns)}"
            yield Finding("hole", name, 0.0, text, bad=False)
        state = self._view.steered()
        if state is not None and state.paused and not state.stepping:
            yield Finding("paused", name, 0.0, _paused(state), bad=False)


def _paused(state: ReplayState) -> str:
    if state.position_ns is None:
        return "the replay is paused before its first event"
    return f"the replay is paused at {iso_utc(state.position_ns)[:19]}Z"


def told(findings: list[Finding]) -> str:
    """Return the body of /healthz: who is unwell by what is wrong, and why.

    Where nobody is: ``ok``, and what people would take for a fault, a sentence a line.
    """
    bad = [finding for finding in findings if finding.bad]
    if not bad:
        return "\n".join(["ok", *(finding.text for finding in findings)]) + "\n"
    lines = []
    for what in dict.fromkeys(finding.what for finding in bad):
        who = (f"{one.process} for {one.age_s:.1f} s" for one in bad if one.what == what)
        lines.append(f"{what}: {', '.join(who)}")
    return "\n".join([*lines, *(finding.text for finding in bad)]) + "\n"
