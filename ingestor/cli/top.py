"""``ingestor top``: a run in a terminal, as its /metrics and /healthz tell it."""

from __future__ import annotations

import argparse
import asyncio
import http.client
import itertools
import os
import select
import sys
import termios
import time
import tty
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

import msgspec
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.live import Live
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from ingestor.cli import consuming
from ingestor.cli.command_line import PAGE_PORT
from ingestor.cli.parser import Parser
from ingestor.cli.run_figures import ProcessFigures, Scrape, processes, quantile_s
from ingestor.model.bounds import printable
from ingestor.model.errors import (
    BadDataError,
    ConfigurationError,
    ExitCode,
    IngestorError,
    NoDataError,
)
from ingestor.model.units import NS_PER_S, iso_utc
from ingestor.model.units import now_ns as wall_ns
from ingestor.nats.answers import NobodyListensError
from ingestor.nats.options import ConnectOptions
from ingestor.runtime.latency import Hop
from ingestor.runtime.log import complain
from ingestor.runtime.nats_service import VIEW_SERVICE, VIEW_SUBJECT, View, only_run
from ingestor.runtime.progress_reporter import age_text
from ingestor.runtime.run_keeper import connection_to
from ingestor.runtime.signals import EXIT_BASE, noted

PROG: Final = "ingestor-top"

ANSWER_S: Final = 2.0
"""How long a run has to answer; it is asked once a refresh."""
MAX_BYTES: Final = 4 * 1024 * 1024
"""Of an answer; a run of ours sends some 30 kB."""
UNBOUNDED_COLUMNS: Final = 1_000
UNWATCHED_COLUMNS: Final = 120
"""Width of what is printed where there is no terminal."""

_ABOUT: Final = """\
Show a run in the terminal: what each process does, what is stored, how long events take, and what
is wrong. The run tells it over HTTP, and through its NATS server: metrics.listen in its
configuration turns that on, and a demo has it on by itself.
"""

_MORE: Final = """\
keys:
  s sorts by the next column, r turns the order, space pauses and goes on, q leaves

examples:
  ingestor top                                   the run on this machine
  ingestor top --url http://10.0.0.7:9464 --sort cpu
  ingestor top --nats nats://10.0.0.7:4222       through the server that it publishes to
  ingestor top --once                            one picture, for a script or a mail

exit codes:
  0 done, 2 command line, or several runs and no --run, 3 no run shows its metrics there, 4 what
  answers is no run of ours, 5 NATS unreachable, 6 NATS refused, 130 Ctrl-C
"""


_Key = Callable[[ProcessFigures], float]

SORTS: Final[Mapping[str, _Key]] = {
    "events/s": lambda one: -(one.rate or 0.0),
    "events": lambda one: -(one.events or 0.0),
    "ring": lambda one: -(one.ring or 0.0),
    "cpu": lambda one: -(one.cpu or 0.0),
    "memory": lambda one: -(one.memory_bytes or 0.0),
    "restarts": lambda one: -one.restarts,
}
"""Columns that can be sorted by; otherwise processes stand in the order of the data path."""
ORDERS: Final = ("process", *SORTS)


COLUMNS: Final = (
    "process",
    "state",
    "events/s",
    "events",
    "age",
    "ring",
    "cpu",
    "memory",
    "restarts",
)
SPARE: Final = ("restarts", "events", "memory", "age", "cpu", "ring")
"""What a narrow terminal is not shown, the first of them first."""
MAX_HEALTH_LINES: Final = 6


class _Fitted:
    """A table without what does not fit: `build` makes one without some of `spare`."""

    def __init__(
        self, build: Callable[[Collection[str]], Table], spare: Sequence[str] = ()
    ) -> None:
        self._build = build
        self._spare = spare

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        for count in range(len(self._spare) + 1):
            table = self._build(self._spare[:count])
            wanted = Measurement.get(console, options.update(max_width=UNBOUNDED_COLUMNS), table)
            if wanted.maximum <= options.max_width:
                break
        yield table


@dataclass(slots=True)
class Shown:
    """What is shown, and how."""

    before: Scrape
    now: Scrape
    wall_ns: int
    health: str
    order: str = "process"
    turned: bool = False
    paused: bool = False
    trouble: str = ""
    """Why there is no newer answer, where there is none."""

    def picture(self) -> RenderableType:
        """Return all of it for `rich`."""
        running, latencies = _Fitted(self._processes, SPARE), _Fitted(self._latencies, ("p99.9",))
        return Group(self._head(), running, Text(), self._subjects(), Text(), latencies)

    def _head(self) -> Text:
        info, now = self.now.info, self.now
        started_ns = int((now.one("ingestor_start_time_seconds") or 0.0) * NS_PER_S)
        since = f"{iso_utc(started_ns)[:19]}Z ({age_text(max(self.wall_ns - started_ns, 0))})"
        text = Text()
        text.append(f"{info.get('mode', '')}", style="bold")
        text.append(f"  {info.get('stream', '')} at {info.get('server', '')}, since {since}")
        text.append("  paused" if self.paused else "", style="bold yellow")
        speed, share = now.one("ingestor_replay_speed"), now.one("ingestor_replay_done_ratio")
        if speed is not None and share is not None:
            text.append(f"\nx{speed:,.4g}, {share:.0%} done")
        told = [self.trouble, *self.health.splitlines()[:MAX_HEALTH_LINES]]
        wrong = [printable(line) for line in told if line not in ("", "ok")]
        if wrong:
            text.append("\n" + "\n".join(wrong), style="bold red")
        else:
            text.append("\nall is well", style="green")
        return text.append("\n")

    def _processes(self, left_out: Collection[str]) -> Table:
        # Unsorted, the order is that of the data path and needs no mark.
        sorted_ = self.turned or self.order in SORTS
        marks = {self.order: " ^" if self.turned else " v"} if sorted_ else {}
        shown = [number for number, name in enumerate(COLUMNS) if name not in left_out]
        titles = [f"{COLUMNS[number]}{marks.get(COLUMNS[number], '')}" for number in shown]
        table = _table(titles, left=2, apart=1)
        found = processes(self.before, self.now, self.wall_ns)
        if self.order in SORTS:
            found.sort(key=SORTS[self.order])
        for one in reversed(found) if self.turned else found:
            bad = one.state in ("away", "stalled")
            cells = _cells(one)
            table.add_row(
                *(cells[number] for number in shown),
                style="bold red" if bad else "dim" * (one.state == "ended"),
            )
        return table

    def _subjects(self) -> Table:
        table = _table(("subject", "stored", "stored/s"))
        earlier = self.before.by("ingestor_stored_total", "subject")
        passed_s = max(self.now.at_s - self.before.at_s, 1e-9)
        for subject, rows in self.now.by("ingestor_stored_total", "subject").items():
            rate = max(rows - earlier.get(subject, 0.0), 0.0) / passed_s
            table.add_row(subject, f"{rows:,.0f}", f"{rate:,.0f}")
        return table

    def _latencies(self, left_out: Collection[str]) -> Table:
        shares = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999}
        shown = [name for name in shares if name not in left_out]
        table = _table(("latency", *shown))
        for hop in Hop:
            before, now = self.before.buckets(hop), self.now.buckets(hop)
            values = [quantile_s(before, now, shares[name]) for name in shown]
            if now:
                table.add_row(hop.name.lower().replace("_", " "), *map(_latency, values))
        return table if table.row_count else Table(box=None)


def _table(titles: Sequence[str], *, left: int = 1, apart: int = 2) -> Table:
    """Return a table without rows; its first columns are texts, the others numbers."""
    table = Table(box=None, padding=(0, apart, 0, 0), pad_edge=False, header_style="bold")
    for number, title in enumerate(titles):
        table.add_column(title, justify="left" if number < left else "right", no_wrap=True)
    return table


def _cells(one: ProcessFigures) -> tuple[str, ...]:
    return (
        one.name,
        one.state,
        _number(one.rate),
        _number(one.events),
        "" if one.age_ns is None else age_text(max(one.age_ns, 0)),
        "" if one.ring is None else f"{one.ring:.0%}",
        "" if one.cpu is None else f"{one.cpu:.0%}",
        "" if one.memory_bytes is None else f"{one.memory_bytes / 2**20:,.0f} MiB",
        _number(one.restarts),
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"


def _latency(value_s: float | None) -> str:
    if value_s is None:
        return "-"
    return f"{value_s * 1e6:,.0f} us" if value_s < 1e-3 else f"{value_s * 1e3:,.1f} ms"


class MetricsUrl:
    """The run behind a URL. Raises ConfigurationError for one that cannot be."""

    def __init__(self, url: str) -> None:
        self.url = url = url if "://" in url else f"http://{url}"
        try:
            parts = urlsplit(url)
            self._host, self._port = parts.hostname, parts.port or PAGE_PORT
        except ValueError:
            self._host = None
        if self._host is None or parts.scheme != "http":
            raise ConfigurationError(f"--url {url!r} is not like http://127.0.0.1:{PAGE_PORT}")

    def look(self) -> tuple[Scrape, str]:
        """Return metrics and health. Raises NoDataError when nobody answers, BadDataError."""
        assert self._host is not None
        try:
            metrics = self._get("/metrics")
            return Scrape(metrics, time.monotonic()), self._get("/healthz")
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise NoDataError(
                f"no run shows its metrics at {printable(self.url)}: {printable(reason)};"
                " metrics.listen in the configuration of a run turns that on"
            ) from None

    def _get(self, path: str) -> str:
        connection = http.client.HTTPConnection(self._host or "", self._port, timeout=ANSWER_S)
        try:
            connection.request("GET", path)
            body = connection.getresponse().read(MAX_BYTES + 1)
        finally:
            connection.close()
        if len(body) > MAX_BYTES:
            raise BadDataError(f"{printable(self.url)}{path} is longer than {MAX_BYTES:,} bytes")
        return body.decode(errors="replace")


class NatsRun:
    """A run behind the server that it publishes to; without a number the only one there is."""

    def __init__(self, options: ConnectOptions, run: str | None = None) -> None:
        self._options = options
        self._run = run

    def look(self) -> tuple[Scrape, str]:
        """Return metrics and health. Raises NoDataError; ConfigurationError for one of several.

        A connection a look: whoever looks once a second has no use for what a lasting one costs.
        """
        return asyncio.run(self._look())

    async def _look(self) -> tuple[Scrape, str]:
        async with connection_to(self._options, PROG) as connection:
            self._run = self._run or await only_run(
                connection,
                VIEW_SERVICE,
                nobody=f"no run shows its metrics at {connection.servers}; metrics.listen in the"
                " configuration of a run turns that on",
                several="several runs are there",
            )
            try:
                answer = await connection.request("the run", f"{VIEW_SUBJECT}.{self._run}", b"")
                view = msgspec.json.decode(answer.data, type=View)
            except NobodyListensError:
                raise NoDataError(f"there is no run {self._run} at {connection.servers}") from None
            except (msgspec.MsgspecError, ValueError) as error:
                raise BadDataError(f"this is no view of a run: {printable(str(error))}") from None
        return Scrape(view.metrics, time.monotonic()), view.health


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``ingestor top``; returns its exit code."""
    given = parser().parse_args(arguments)
    try:
        run: MetricsUrl | NatsRun
        if given.nats is None and given.config is None:
            run = MetricsUrl(given.url)
        else:
            run = NatsRun(ConnectOptions(**consuming.way_in(given)), given.run)
        if given.once or not (sys.stdin.isatty() and sys.stdout.isatty()):
            width = None if sys.stdout.isatty() else UNWATCHED_COLUMNS
            Console(width=width).print(_first(run, given).picture())
        else:
            _watch(run, given)
    except IngestorError as error:
        complain(PROG, error)
        return error.exit_code
    except KeyboardInterrupt:
        return EXIT_BASE + heard[0] if (heard := noted()) else ExitCode.INTERRUPTED
    return ExitCode.OK


def _first(run: MetricsUrl | NatsRun, given: argparse.Namespace) -> Shown:
    """Look twice: there is no rate before the second time."""
    before, _ = run.look()
    time.sleep(given.interval)
    now, health = run.look()
    return Shown(before, now, wall_ns(), health, given.sort)


def _watch(run: MetricsUrl | NatsRun, given: argparse.Namespace) -> None:
    shown = _first(run, given)
    with _keys() as pressed, Live(screen=True, auto_refresh=False) as screen:
        due_s = time.monotonic() + given.interval
        while True:
            screen.update(shown.picture(), refresh=True)
            key = pressed(max(due_s - time.monotonic(), 0.0))
            if key == "q":
                return
            _obey(shown, key)
            if time.monotonic() >= due_s:
                due_s = time.monotonic() + given.interval
                if not shown.paused:
                    _look_again(run, shown)


def _obey(shown: Shown, key: str) -> None:
    if key == "s":
        following = itertools.dropwhile(lambda one: one != shown.order, itertools.cycle(ORDERS))
        next(following)
        shown.order = next(following)
    elif key == "r":
        shown.turned = not shown.turned
    elif key in (" ", "p"):
        shown.paused = not shown.paused


def _look_again(run: MetricsUrl | NatsRun, shown: Shown) -> None:
    try:
        now, health = run.look()
    except IngestorError as error:
        # It may be started again: what was last known stays on the screen.
        shown.trouble = str(error)
        return
    shown.before, shown.now, shown.health, shown.trouble = shown.now, now, health, ""
    shown.wall_ns = wall_ns()


@contextmanager
def _keys() -> Iterator[Callable[[float], str]]:
    """Have the terminal hand on each key at once; yields what waits for one, "" when none comes."""
    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    tty.setcbreak(fd, termios.TCSANOW)

    def pressed(timeout_s: float) -> str:
        if not select.select([fd], [], [], timeout_s)[0]:
            return ""
        try:
            # Nothing to read means that nobody will ever type again.
            return os.read(fd, 1).decode(errors="replace") or "q"
        except OSError:
            return "q"

    try:
        yield pressed
    finally:
        termios.tcsetattr(fd, termios.TCSANOW, before)


def parser() -> Parser:
    """Return the parser of ``ingestor top``."""
    made = Parser(PROG, _ABOUT, _MORE)
    made.add_argument(
        "--url",
        default=f"http://127.0.0.1:{PAGE_PORT}",
        help="where the run shows its metrics (default %(default)s)",
    )
    made.add_argument(
        "--nats", metavar="URL", help="look through this NATS server instead of over HTTP"
    )
    made.add_argument(
        "--config", metavar="FILE", help="TOML file whose [nats] says how to be let in there"
    )
    made.add_argument("--run", metavar="RUN", help="which run, where there are several")
    made.add_argument("--once", action="store_true", help="print one picture and end")
    made.add_argument(
        "--sort", choices=ORDERS, default="process", help="the column to sort by (%(default)s)"
    )
    made.add_argument(
        "--interval",
        metavar="SECONDS",
        type=consuming.seconds,
        default=1.0,
        help="between two looks (default %(default)s)",
    )
    return made
