r"""The counters as Prometheus reads them: text exposition format 0.0.4.

Every column of the table becomes one metric, whose name, type and unit follow from the column's
name alone, and whose HELP is the column's own description, so that a new column appears by itself:

    RECORDS         counter  ingestor_records_total{process="trades"} 1200
    BYTES_TOTAL     gauge    ingestor_bytes{process="trades"} 47000       (one of `GAUGES`)
    EVENT_TIME_NS   gauge    ingestor_event_time_seconds{...} 1765895400.017150864
    ..._E9          gauge    the price itself

Times and prices are left out while they are 0, which is "none yet". Columns of a clock that
nobody else has (`MONOTONIC`) are told as ages.
"""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from ingestor import __version__
from ingestor.runtime.counters import GAUGES, MONOTONIC, Counter
from ingestor.runtime.run_view import RunView, away_s, heartbeat_age_s

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
