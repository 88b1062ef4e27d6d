"""A run as it is seen from outside: its processes' counters and its feeds' last statuses."""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final, NamedTuple

from ingestor import __version__
from ingestor.model.clock import iso_utc
from ingestor.model.feed_status import FeedStatus, line_of_status
from ingestor.model.units import NS_PER_S
from ingestor.runtime.counters import GAUGES, MONOTONIC, Counter, CounterRow, StatusBoard


@dataclass(frozen=True, slots=True)
class RunView:
    """Names and counters of all processes, feeds first, and the board of the feeds' statuses."""

    processes: Sequence[tuple[str, CounterRow]]
    feeds: int
    board: StatusBoard

    def statuses(self) -> Iterator[tuple[str, FeedStatus]]:
        """Yield the last status of each feed that has told any, with the name of its process."""
        for feed, (name, _) in enumerate(self.processes[: self.feeds]):
            status = self.board.get(feed)
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


CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_DECIMALS: Final = 9
_UNITS: Final = {"_ns": "_seconds", "_e9": ""}
"""Endings of columns in 1e-9 of something, and what a metric in that something ends in."""


class Metric(NamedTuple):
    """What a column is for Prometheus; `scaled` values are integers of 1e-9."""

    name: str
    kind: str
    scaled: bool


def metric_of(counter: Counter) -> Metric:
    """Return name and type of a column."""
    name = f"ingestor_{counter.name.lower()}"
    for ending, unit in _UNITS.items():
        if name.endswith(ending):
            return Metric(name.removesuffix(ending) + unit, "gauge", scaled=True)
    if counter in GAUGES:
        return Metric(name.removesuffix("_total"), "gauge", scaled=False)
    return Metric(f"{name}_total", "counter", scaled=False)


@functools.cache
def descriptions() -> Mapping[Counter, str]:
    """Return the text that stands under each column in the source."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(Counter)))
    definition = tree.body[0]
    assert isinstance(definition, ast.ClassDef)
    found: dict[Counter, str] = {}
    name = ""
    for line in definition.body:
        match line:
            case ast.Assign(targets=[ast.Name(id=name)]):
                pass
            case ast.Expr(value=ast.Constant(value=str(text))) if name:
                found[Counter[name]] = " ".join(text.split())
    return found


def exposition(view: RunView, now_ns: int) -> str:
    """Return everything there is to scrape; `now_ns` is of the monotonic clock."""
    lines = [
        *_family("ingestor_build_info", "gauge", "The version that runs."),
        f"ingestor_build_info{_labels(version=__version__)} 1",
        *_heartbeats(view, now_ns),
        *_away(view, now_ns),
    ]
    for counter in Counter:
        if counter not in MONOTONIC:
            lines += _column(view, counter)
    lines += _statuses(view)
    return "\n".join(lines) + "\n"


def decimal(value: int) -> str:
    """Return an integer of 1e-9 as an exact decimal."""
    sign, digits = "-" if value < 0 else "", f"{abs(value):0{_DECIMALS + 1}d}"
    return f"{sign}{digits[:-_DECIMALS]}.{digits[-_DECIMALS:]}"


def _column(view: RunView, counter: Counter) -> Iterable[str]:
    metric = metric_of(counter)
    yield from _family(metric.name, metric.kind, descriptions().get(counter, counter.name))
    for process, row in view.processes:
        value = row[counter]
        if value or not metric.scaled:
            text = decimal(value) if metric.scaled else str(value)
            yield f"{metric.name}{_labels(process=process)} {text}"


def _heartbeats(view: RunView, now_ns: int) -> Iterable[str]:
    name = "ingestor_heartbeat_age_seconds"
    yield from _family(name, "gauge", "Time since the last sign of life; none once it has ended.")
    for process, row in view.processes:
        age_s = heartbeat_age_s(row, now_ns)
        if age_s is not None:
            yield f"{name}{_labels(process=process)} {age_s:.3f}"


def _away(view: RunView, now_ns: int) -> Iterable[str]:
    name = "ingestor_away_seconds"
    text = "Time that a live feed has been without its vendor, or the publisher without its server."
    yield from _family(name, "gauge", text)
    for process, row in view.processes:
        yield f"{name}{_labels(process=process)} {away_s(row, now_ns):.3f}"


def _statuses(view: RunView) -> Iterable[str]:
    name = "ingestor_last_status_time_seconds"
    yield from _family(name, "gauge", "When a live feed told something last, and what it was.")
    for process, status in view.statuses():
        labels = _labels(process=process, feed=status.feed, what=status.what)
        yield f"{name}{labels} {decimal(status.at_ns)}"


def _family(name: str, kind: str, text: str) -> tuple[str, str]:
    escaped = text.replace("\\", r"\\").replace("\n", r"\n")
    return f"# HELP {name} {escaped}", f"# TYPE {name} {kind}"


def _labels(**labels: str) -> str:
    pairs = (f'{name}="{_escaped(value)}"' for name, value in labels.items())
    return "{" + ",".join(pairs) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


REFRESH_S: Final = 2

_HEAD: Final = f"""\
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


def status_page(view: RunView, now_ns: int, wall_ns: int, stale_after_s: float) -> str:
    """Return the page; `now_ns` is of the monotonic clock, `wall_ns` UTC."""
    names = "".join(f"<th>{escape(name)}</th>" for name, _ in view.processes)
    states = "".join(_state(row, now_ns, stale_after_s) for _, row in view.processes)
    rows = "\n".join(_row(view, counter) for counter in Counter if _is_shown(view, counter))
    return (
        f"{_HEAD}<h1>ingestor {escape(__version__)}</h1>\n<p>{iso_utc(wall_ns)[:19]}Z</p>\n"
        f"<table>\n<tr><th></th>{names}<th></th></tr>\n"
        f'<tr><th>state</th>{states}<td class="about">Time since the last sign of life.</td></tr>\n'
        f"{rows}\n</table>\n{''.join(_statuses(view))}"
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


def _is_shown(view: RunView, counter: Counter) -> bool:
    """A column that nobody has counted in yet would only be in the way."""
    return counter not in (*MONOTONIC, Counter.ENDED) and any(
        row[counter] for _, row in view.processes
    )


def _row(view: RunView, counter: Counter) -> str:
    cells = "".join(f'<td class="n">{_value(counter, row)}</td>' for _, row in view.processes)
    name = counter.name.lower().removesuffix("_ns").removesuffix("_e9").replace("_", " ")
    about = escape(descriptions().get(counter, ""))
    return f'<tr><th>{escape(name)}</th>{cells}<td class="about">{about}</td></tr>'


def _value(counter: Counter, row: CounterRow) -> str:
    value = row[counter]
    if not value:
        return ""
    if counter is Counter.EVENT_TIME_NS:
        return f"{iso_utc(value)[:23]}Z"
    return decimal(value) if metric_of(counter).scaled else f"{value:,}"


def _statuses(view: RunView) -> Iterable[str]:
    lines = [escape(line_of_status(status)) for _, status in view.statuses()]
    if lines:
        yield "<h2>last status of each feed</h2>\n<pre>" + "\n".join(lines) + "</pre>\n"
