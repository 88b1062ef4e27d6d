"""A run as it is seen from outside, by Prometheus and by people: metrics and the status page.

Every column of the counters becomes one metric, whose name, type and unit follow from the column's
name alone, so that a new column appears by itself:

    RECORDS         counter  ingestor_records_total{process="trades"} 1200
    BYTES_TOTAL     gauge    ingestor_bytes{process="trades"} 47000       (one of `GAUGES`)
    EVENT_TIME_NS   gauge    ingestor_event_time_seconds{...} 1765895400.0171509

Times are left out while they are 0, which is "none yet". Columns of a clock that nobody else has
(`MONOTONIC`) are told as ages. Prometheus knows 64-bit floats only: a time is good to 240 ns there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final, NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from ingestor import __version__
from ingestor.model.clock import iso_utc
from ingestor.model.feed_status import FeedStatus, line_of_status
from ingestor.model.units import NS_PER_S
from ingestor.runtime.counters import GAUGES, MONOTONIC, Counter, CounterRow, CounterTable

REFRESH_S: Final = 2

_DECIMALS: Final = 9
_PRICE: Final = "reference price"
_ABOUT_PRICE: Final = "Newest price of the options' underlying; 0 before the first."
_AGE: Final = "Time since the last sign of life."
_PAGE_HEAD: Final = f"""\
<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="{REFRESH_S}">
<meta name="viewport" content="width=device-width"><title>ingestor</title><style>
:root {{ color-scheme: light dark }}
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2em }}
table {{ border-collapse: collapse }}
th, td {{ padding: .2em .9em; border-bottom: 1px solid #8884; text-align: left }}
td.n {{ text-align: right; font-variant-numeric: tabular-nums }}
td.about {{ opacity: .65 }}
.bad {{ color: #d22; font-weight: bold }}
pre {{ white-space: pre-wrap }}
</style></head><body>
"""


@dataclass(frozen=True, slots=True)
class RunView:
    """The names of all processes, in the order of their rows, and the shared memory of a run."""

    names: Sequence[str]
    table: CounterTable

    @property
    def processes(self) -> list[tuple[str, CounterRow]]:
        """Every process with its counters."""
        return [(name, self.table.row(index)) for index, name in enumerate(self.names)]

    def statuses(self) -> Iterator[tuple[str, FeedStatus]]:
        """Yield the last status of each feed that has told any, with the name of its process."""
        for process, name in enumerate(self.names):
            status = self.table.status(process)
            if status is not None:
                yield name, status

    def silent(self, now_ns: int, limit_s: float) -> dict[str, float]:
        """Return the processes without a sign of life for over `limit_s`: name to seconds.

        `now_ns` is of the monotonic clock. A process that has ended is not silent.
        """
        ages = {name: heartbeat_age_s(row, now_ns) for name, row in self.processes}
        return {
            name: age_s for name, age_s in ages.items() if age_s is not None and age_s > limit_s
        }

    def away(self, now_ns: int, limit_s: float) -> dict[str, float]:
        """Return the feeds without a vendor, and the publisher without a server, as `silent`."""
        ages = {name: away_s(row, now_ns) for name, row in self.processes}
        return {name: age_s for name, age_s in ages.items() if age_s > limit_s}


def away_s(row: CounterRow, now_ns: int) -> float:
    """Return how long a process has been without its vendor or server; 0 if it is not."""
    since_ns = row[Counter.AWAY_SINCE_NS]
    return 0.0 if row[Counter.ENDED] or not since_ns else max(now_ns - since_ns, 0) / NS_PER_S


def heartbeat_age_s(row: CounterRow, now_ns: int) -> float | None:
    """Return the seconds since a process's last sign of life, None once it has ended."""
    if row[Counter.ENDED]:
        return None
    return max(now_ns - row[Counter.HEARTBEAT_NS], 0) / NS_PER_S


class Series(NamedTuple):
    """What a column is for Prometheus; `scaled` values are integers of 1e-9 and told in units."""

    name: str
    kind: str
    scaled: bool


def series_of(counter: Counter) -> Series:
    """Return name and type of a column."""
    name = f"ingestor_{counter.name.lower()}"
    if name.endswith("_ns"):
        return Series(f"{name.removesuffix('_ns')}_seconds", "gauge", scaled=True)
    if counter in GAUGES:
        return Series(name.removesuffix("_total"), "gauge", scaled=False)
    return Series(f"{name}_total", "counter", scaled=False)


def exposition(view: RunView, now_ns: int) -> str:
    """Return everything there is to scrape, in text format 0.0.4; `now_ns` is monotonic."""
    return generate_latest(_RunCollector(view, now_ns)).decode()


class _RunCollector(Collector):
    """What `prometheus_client` asks for its metrics: one look at the table."""

    def __init__(self, view: RunView, now_ns: int) -> None:
        self._view = view
        self._now_ns = now_ns

    def collect(self) -> Iterable[Metric]:
        build = GaugeMetricFamily(
            "ingestor_build_info", "The version that runs.", labels=["version"]
        )
        build.add_metric([__version__], 1)
        yield build
        yield self._ages(
            "ingestor_heartbeat_age_seconds",
            "Time since the last sign of life; none once it has ended.",
            heartbeat_age_s,
        )
        yield self._ages(
            "ingestor_away_seconds",
            "Time that a live feed has been without its vendor, or the publisher without its"
            " server.",
            away_s,
        )
        for counter in Counter:
            if counter not in MONOTONIC:
                yield self._column(counter)
        price = GaugeMetricFamily("ingestor_reference_price", _ABOUT_PRICE, labels=["process"])
        if price_e9 := self._view.table.reference_price_e9:
            # Feed 0 is the stocks' wherever there is a price.
            price.add_metric([self._view.names[0]], price_e9 / 10**_DECIMALS)
        yield price
        yield self._statuses()

    def _ages(
        self, name: str, about: str, age_s: Callable[[CounterRow, int], float | None]
    ) -> Metric:
        family = GaugeMetricFamily(name, about, labels=["process"])
        for process, row in self._view.processes:
            if (value := age_s(row, self._now_ns)) is not None:
                family.add_metric([process], round(value, 3))
        return family

    def _column(self, counter: Counter) -> Metric:
        name, kind, scaled = series_of(counter)
        made = CounterMetricFamily if kind == "counter" else GaugeMetricFamily
        family = made(name, counter.about, labels=["process"])
        for process, row in self._view.processes:
            value = row[counter]
            if value or not scaled:
                # Dividing integers rounds once, to the nearest float.
                family.add_metric([process], value / 10**_DECIMALS if scaled else value)
        return family

    def _statuses(self) -> Metric:
        family = GaugeMetricFamily(
            "ingestor_last_status_time_seconds",
            "When a live feed told something last, and what it was.",
            labels=["process", "feed", "what"],
        )
        for process, status in self._view.statuses():
            family.add_metric([process, status.feed, status.what], status.at_ns / NS_PER_S)
        return family


def status_page(view: RunView, now_ns: int, wall_ns: int, stale_after_s: float) -> str:
    """Return one plain HTML document that loads itself again.

    `now_ns` is of the monotonic clock, `wall_ns` UTC.
    """
    names = "".join(f"<th>{escape(name)}</th>" for name in view.names)
    states = "".join(_state(row, now_ns, stale_after_s) for _, row in view.processes)
    rows = "\n".join(_rows(view))
    return (
        f"{_PAGE_HEAD}<h1>ingestor {escape(__version__)}</h1>\n<p>{iso_utc(wall_ns)[:19]}Z</p>\n"
        f"<table>\n<tr><th></th>{names}<th></th></tr>\n"
        f'<tr><th>state</th>{states}<td class="about">{_AGE}</td></tr>\n'
        f"{rows}\n</table>\n{_last_statuses(view)}"
        '<p><a href="metrics">metrics</a> <a href="healthz">health</a></p>\n</body></html>\n'
    )


def _state(row: CounterRow, now_ns: int, stale_after_s: float) -> str:
    age_s = heartbeat_age_s(row, now_ns)
    if age_s is None:
        return '<td class="n">ended</td>'
    if (gone_s := away_s(row, now_ns)) > stale_after_s:
        return f'<td class="n bad">without a connection for {gone_s:.1f} s</td>'
    if age_s > stale_after_s:
        return f'<td class="n bad">silent for {age_s:.1f} s</td>'
    return f'<td class="n">runs, {age_s:.1f} s</td>'


def _rows(view: RunView) -> Iterator[str]:
    for counter in Counter:
        values = [row[counter] for _, row in view.processes]
        # A column that nobody has counted in yet would only be in the way.
        if any(values) and counter not in (*MONOTONIC, Counter.ENDED):
            name = counter.name.lower().removesuffix("_ns").replace("_", " ")
            yield _row(name, [_cell(counter, value) for value in values], counter.about)
    if price_e9 := view.table.reference_price_e9:
        cells = [decimal(price_e9), *[""] * (len(view.names) - 1)]
        yield _row(_PRICE, cells, _ABOUT_PRICE)


def _row(name: str, cells: Iterable[str], about: str) -> str:
    row = "".join(f'<td class="n">{cell}</td>' for cell in cells)
    return f'<tr><th>{escape(name)}</th>{row}<td class="about">{escape(about)}</td></tr>'


def _cell(counter: Counter, value: int) -> str:
    if not value:
        return ""
    if counter is Counter.EVENT_TIME_NS:
        return f"{iso_utc(value)[:23]}Z"
    return decimal(value) if series_of(counter).scaled else f"{value:,}"


def _last_statuses(view: RunView) -> str:
    lines = [escape(line_of_status(status)) for _, status in view.statuses()]
    if not lines:
        return ""
    return "<h2>last status of each feed</h2>\n<pre>" + "\n".join(lines) + "</pre>\n"


def decimal(value: int) -> str:
    """Return an integer of 1e-9 as an exact decimal."""
    sign, digits = "-" if value < 0 else "", f"{abs(value):0{_DECIMALS + 1}d}"
    return f"{sign}{digits[:-_DECIMALS]}.{digits[-_DECIMALS:]}"
