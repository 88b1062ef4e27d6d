"""The status page: one plain HTML document that loads itself again."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import Final

from ingestor import __version__
from ingestor.model.clock import iso_utc
from ingestor.runtime.counters import MONOTONIC, Counter, CounterRow
from ingestor.runtime.metrics_text import decimal, descriptions, metric_of
from ingestor.runtime.run_view import RunView, away_s, heartbeat_age_s
from ingestor.runtime.status_text import line_of_status

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
