"""What the page of a run shows: its state now, a sample a second, and what has happened.

`Page.tick` looks at the shared memory some times a second, whether or not anybody watches, so that
whoever opens the page sees the last minutes too. It does no I/O beyond /proc and knows only the
clocks it is given. Times are milliseconds UTC, since JavaScript's numbers hold no nanoseconds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, Final

import msgspec

from ingestor import __version__
from ingestor.model.feed_status import What
from ingestor.model.units import NS_PER_MS, NS_PER_S
from ingestor.runtime.counters import Counter, CounterRow, Role
from ingestor.runtime.health import Finding, Health
from ingestor.runtime.latency import Hop, Latencies
from ingestor.runtime.machine import usage_of
from ingestor.runtime.progress_reporter import Progress, Rate, ReplaySnapshot
from ingestor.runtime.run_view import RunView

MAX_SAMPLES: Final = 900
"""Fifteen minutes of seconds."""
MAX_NOTES: Final = 200
"""What has happened, newest last."""
DENSITY_BINS: Final = 240
"""Of the bar of a replay's day: as many as it has pixels on a small screen."""
WINDOW_SAMPLES: Final = 10
"""The latencies shown are those of the last ten seconds."""

Json = dict[str, Any]


class Density:
    """How many events a replay had in each part of the event time that it has come through.

    The bins widen by two when time goes beyond the last one, so any span fits.
    """

    def __init__(self) -> None:
        self.first_ns = 0
        self.bin_ns = NS_PER_S
        self.bins = [0] * DENSITY_BINS
        self._seen = 0

    def note(self, first_ns: int, event_ns: int, published: int) -> None:
        """Note how many events were published up to an event time, the first being at another."""
        if not event_ns:
            return
        self.first_ns = self.first_ns or first_ns or event_ns
        # A replay that is sent back in time, or a feed that steps back, counts where it is.
        while (at := (event_ns - self.first_ns) // self.bin_ns) >= DENSITY_BINS:
            pairs = zip(self.bins[::2], self.bins[1::2], strict=True)
            self.bins = [one + other for one, other in pairs] + [0] * (DENSITY_BINS // 2)
            self.bin_ns *= 2
        self.bins[max(at, 0)] += max(published - self._seen, 0)
        self._seen = published


class Page:
    """The page's data; one for all who look."""

    def __init__(self, view: RunView, health: Health, progress: Progress, now_ns: int) -> None:
        self._view = view
        self._health = health
        self._progress = progress
        self._rates: dict[str, Rate] = {}
        self._next_sample_ns = now_ns + NS_PER_S
        self._density = Density()
        self._earlier: deque[dict[tuple[int, Hop], Latencies]] = deque(maxlen=WINDOW_SAMPLES)
        self._seen: dict[str, tuple[int, int]] = {}
        self._bad: dict[tuple[str, str], str] = {}
        self._hops: list[Json] = []
        self._usage: dict[str, tuple[float, int]] = {}
        self._cpu: dict[str, float] = {}
        self.samples: deque[Json] = deque(maxlen=MAX_SAMPLES)
        self.notes: deque[Json] = deque(maxlen=MAX_NOTES)
        self.sampled = self.noted = 0
        """How many there were in all: the last ones are those held."""
        self.state: Json = {}
        self._note(view.facts.started_ns, view.facts.mode, "started", "the run began")

    def tick(self, now_ns: int, wall_ns: int) -> None:
        """Look at the run; monotonic clock and UTC."""
        findings = self._health.findings(now_ns, wall_ns)
        rates = {
            name: self._rates.setdefault(name, Rate(now_ns, moved)).update(now_ns, moved)
            for name, moved in self._moved()
        }
        snapshot = self._progress.snapshot(now_ns)
        if isinstance(snapshot, ReplaySnapshot):
            first_ns = 0 if snapshot.span is None else snapshot.span.first_ns
            self._density.note(first_ns, snapshot.event_time_ns, snapshot.published)
        if now_ns >= self._next_sample_ns:
            # After a pause there is one sample, not one for each second of it.
            following_ns = self._next_sample_ns + NS_PER_S
            self._next_sample_ns = following_ns if following_ns > now_ns else now_ns + NS_PER_S
            self._sample(wall_ns, rates)
        self._note_news(findings, wall_ns)
        self.state = self._state(findings, rates, snapshot, wall_ns)

    def news(self, sampled: int, noted: int) -> Json:
        """Return the state, and the samples and notes after so many: 0 is all that is held."""
        return {
            "whole": not sampled and not noted,
            "state": self.state,
            "samples": _last(self.samples, self.sampled - sampled),
            "notes": _last(self.notes, self.noted - noted),
        }

    def _moved(self) -> Iterator[tuple[str, int]]:
        """Yield what the rate of each process counts: of feeds what they put in their ring."""
        for (name, row), role in zip(self._view.processes, self._view.roles, strict=True):
            yield name, row[Counter.PUBLISHED if role is Role.PUBLISHER else Counter.RECORDS]

    # What has happened.

    def _note(self, at_ns: int, process: str, what: str, text: str, *, bad: bool = False) -> None:
        note = {"at": at_ns // NS_PER_MS, "who": process, "what": what, "text": text, "bad": bad}
        self.notes.append(note)
        self.noted += 1

    def _note_news(self, findings: Iterable[Finding], wall_ns: int) -> None:
        told = dict(self._view.statuses())
        for index, (name, row) in enumerate(self._view.processes):
            restarts, status = row[Counter.RESTARTS], told.get(name)
            seen = self._seen.get(name, (0, 0))
            if restarts > seen[0]:
                cause = self._view.table.cause_of_death(index)
                self._note(wall_ns, name, "restart", f"{cause}: started again", bad=True)
            at_ns = 0 if status is None else status.at_ns
            # The restart of a live feed is a status too: it is told once.
            if status is not None and at_ns != seen[1] and status.what != "restart":
                calm = status.what in (What.STREAMING, What.CONTROL, What.SETTINGS)
                self._note(at_ns, status.feed, status.what.value, status.text, bad=not calm)
            self._seen[name] = (restarts, at_ns)
        # A restart has just been noted.
        bad = {
            (one.what, one.process): one.text
            for one in findings
            if one.bad and one.what != "restarting"
        }
        for key, text in bad.items():
            if key not in self._bad:
                self._note(wall_ns, key[1], key[0], text, bad=True)
        still = {process for _, process in bad}
        for what, process in self._bad.keys() - bad.keys():
            # A frozen server whose connection is lost then is not well again in between.
            if process in still:
                continue
            self._note(wall_ns, process, "well again", f"{process} is no longer {what}")
        self._bad = bad

    # Once a second.

    def _sample(self, wall_ns: int, rates: dict[str, float]) -> None:
        table = self._view.table.latencies
        now = {
            (process, hop): table.read(process, hop)
            for hop in Hop
            for process in range(len(self._view.names))
        }
        # Before ten seconds are over, all there is belongs to them.
        before = self._earlier[0] if len(self._earlier) == WINDOW_SAMPLES else {}
        self._hops = [
            self._hop(process, hop, counted.since(before[process, hop]) if before else counted)
            for (process, hop), counted in now.items()
            if counted.max_ns
        ]
        self._earlier.append(now)
        for name, row in self._view.processes:
            self._note_usage(name, row)
        latency = {hop["hop"]: [hop["p50"], hop["p99"]] for hop in self._hops}
        moving = {name for _, name, _ in self._view.having(Role.FEED | Role.PUBLISHER)}
        shown = {name: round(rate, 1) for name, rate in rates.items() if name in moving}
        self.samples.append({"at": wall_ns // NS_PER_MS, "rates": shown, "latency": latency})
        self.sampled += 1

    def _hop(self, process: int, hop: Hop, counted: Latencies) -> Json:
        quantiles = {"p50": 0.5, "p99": 0.99, "p999": 0.999}
        name = hop.name.lower().replace("_", " ")
        if self._view.roles[process] in Role.FEED:
            name += f", {self._view.names[process]}"
        return {
            "hop": name,
            **{name: counted.quantile_ns(share) for name, share in quantiles.items()},
            "max": counted.max_ns or None,
        }

    def _note_usage(self, name: str, row: CounterRow) -> None:
        used = None if row[Counter.ENDED] else usage_of(row[Counter.PID])
        if used is None:
            self._cpu.pop(name, None)
            return
        before = self._usage.get(name)
        # A process that was started again begins at 0.
        self._cpu[name] = max(used[0] - before[0], 0.0) if before else 0.0
        self._usage[name] = used

    # Now.

    def _state(
        self, findings: list[Finding], rates: dict[str, float], snapshot: Any, wall_ns: int
    ) -> Json:
        facts, view = self._view.facts, self._view
        stored = view.table.stored
        return {
            "at": wall_ns // NS_PER_MS,
            "run": {
                "mode": facts.mode,
                "demo": facts.demo,
                "stream": facts.stream,
                "server": facts.server,
                "encoding": facts.encoding,
                "version": __version__,
                "started": facts.started_ns // NS_PER_MS,
                "stopping": view.table.stopping,
                "steerable": facts.steerable,
            },
            "well": not any(finding.bad for finding in findings),
            "findings": [{"bad": one.bad, "text": one.text} for one in findings],
            "feeds": [
                self._feed(index, name, row, rates[name])
                for index, name, row in view.having(Role.FEED)
            ],
            "publisher": next(
                self._publisher(name, row, rates[name])
                for _, name, row in view.having(Role.PUBLISHER)
            ),
            "subjects": stored,
            "hops": self._hops,
            "strikes": self._strikes(),
            "replay": self._replay(snapshot) if isinstance(snapshot, ReplaySnapshot) else None,
        }

    def _process(self, name: str, row: CounterRow, rate: float) -> Json:
        event_ns, used = row[Counter.EVENT_TIME_NS], self._usage.get(name)
        return {
            "name": name,
            "ended": bool(row[Counter.ENDED]),
            "rate": round(rate, 1),
            "event": event_ns // NS_PER_MS if event_ns else None,
            "restarts": row[Counter.RESTARTS],
            "cpu": round(self._cpu[name], 2) if name in self._cpu else None,
            "memory": used[1] if used else None,
        }

    def _feed(self, index: int, name: str, row: CounterRow, rate: float) -> Json:
        live = self._view.roles[index] is Role.LIVE
        shown = self._process(name, row, rate) | {
            "live": live,
            "records": row[Counter.RECORDS],
            "ring": [row[Counter.RING_USED_BYTES], row[Counter.RING_BYTES]],
            "skipped": row[Counter.SKIPPED],
            "late": row[Counter.LATE],
        }
        if not live:
            return shown | {"read": [row[Counter.BYTES_READ], row[Counter.BYTES_TOTAL]]}
        return shown | {
            "connected": not row[Counter.AWAY_SINCE_NS],
            "subscribed": row[Counter.SUBSCRIBED],
            "held": [row[Counter.HELD], self._view.facts.backlog_rows],
            "dropped": row[Counter.DROPPED_TRADES] + row[Counter.DROPPED_QUOTES],
            "gaps": row[Counter.GAPS],
            "journal": row[Counter.JOURNAL_BYTES],
        }

    def _publisher(self, name: str, row: CounterRow, rate: float) -> Json:
        return self._process(name, row, rate) | {
            "published": row[Counter.PUBLISHED],
            "unacked": row[Counter.UNACKED],
            "connected": not row[Counter.AWAY_SINCE_NS],
            "reconnects": row[Counter.RECONNECTS],
        }

    def _strikes(self) -> Json | None:
        price_e9, trades = self._view.table.reference_price_e9, self._view.table.last_trades
        if not trades:
            return None
        return {
            "price": price_e9 and price_e9 / NS_PER_S,
            "trades": [
                {"symbol": symbol, "price": price / NS_PER_S, "size": size, "at": at // NS_PER_MS}
                for symbol, price, size, at in trades
            ],
        }

    def _replay(self, snapshot: ReplaySnapshot) -> Json:
        density, state = self._density, self._view.steered()
        return {
            "share": snapshot.share,
            "left_s": snapshot.eta_s,
            "speed": snapshot.speed,
            "wanted": snapshot.told,
            "paused": snapshot.paused,
            "until": state.until_ns // NS_PER_MS if state is not None and state.until_ns else None,
            "event": snapshot.event_time_ns // NS_PER_MS,
            "end": snapshot.span.ends_ns // NS_PER_MS if snapshot.span is not None else 0,
            "estimated": snapshot.span is None or not snapshot.span.is_known,
            "first": density.first_ns // NS_PER_MS,
            "bin": density.bin_ns // NS_PER_MS,
            "density": density.bins,
            "waits": snapshot.waits is not None,
        }


def _last(kept: deque[Json], count: int) -> list[Json]:
    return list(kept)[max(len(kept) - count, 0) :] if count > 0 else []


def frame(news: Json) -> bytes:
    """Return a server-sent event (HTML standard, 9.2.6); JSON has no line ends."""
    return b"data: " + msgspec.json.encode(news) + b"\n\n"
