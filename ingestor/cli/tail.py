"""``ingestor-tail``: print what is in the stream, one event a line.

``python -m ingestor.cli.tail`` is the command ``bin/ingestor-tail``.
"""

from __future__ import annotations

import argparse
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec
from rich.console import Console

from ingestor.cli import consuming
from ingestor.cli.event_text import EventTable, is_of_symbol, symbol_of
from ingestor.cli.parser import Parser
from ingestor.cli.tables import (
    BarPlots,
    Bars,
    ParquetFiles,
    bar_header,
    bar_line,
    bar_ns,
    drawn,
    write,
)
from ingestor.client import (
    DEFAULT_STREAM,
    EVERYTHING,
    STATUS_STREAM,
    AtSequence,
    BadMessageError,
    Cause,
    Client,
    From,
    Message,
    Start,
    Subscription,
    connect,
    decode,
)
from ingestor.encode.packed import is_packed
from ingestor.model.bounds import printable
from ingestor.model.errors import ExitCode, IngestorError
from ingestor.model.events import Event
from ingestor.model.feed_status import encode_status, line_of_status
from ingestor.model.units import now_ns
from ingestor.runtime import log as logs

PROG: Final = "ingestor-tail"

LAST: Final = 20
"""Events that are shown before what is new, where nothing else is asked for.

Who takes a part of the stream (--count, --no-follow) gets it from the beginning on.
"""
MAX_LOOKED_BACK: Final = 200_000
"""Messages that are read back for the last events of a symbol: a second or two."""
MAX_SYMBOLS_NAMED: Final = 10
GIVE_UP_AFTER_S: Final = 60.0
UNWATCHED_COLUMNS: Final = 80
"""Width of a plot that goes into a file."""

_ABOUT: Final = """\
Print the events of a stream, one a line: time of the event (UTC), type, symbol, and what
happened. JSON and packed messages look the same. It shows the last 20 and goes on with what is
new, until Ctrl-C.
"""

_MORE: Final = """\
a line:
  2025-12-16T14:30:00.017150864Z FuturesTrade ES.c.0           6870.0 x 27    BUY
  2025-12-16T14:30:00.017150864Z MBP10        ES.c.0           6869.5 x 85    |    6869.75 x 144
                                                               best bid       |    best ask

examples:
  ingestor-tail --new                                    what is published from now on
  ingestor-tail --subject 'market.*.trades' --last 5     the last five trades, and new ones
  ingestor-tail --subject 'market.*.trades' --count 20   the first trades of the stream
  ingestor-tail --since 10m --symbol ES.c.0,SPY          the last ten minutes of two symbols
  ingestor-tail --no-follow --json > events.jsonl        all of it, into a file
  ingestor-tail --bars 1m --symbol SPY                   bars of a minute instead of events
  ingestor-tail --bars 5m --symbol SPY --plot            the same as candles, with their volume
  ingestor-tail --no-follow --parquet day.parquet --subject market.futures.trades
  ingestor-tail --status                                 gaps and alarms of the live feeds
  ingestor-tail --status stocks --since 1d --no-follow   those of one feed since yesterday

times:
  --since means when a message was stored in the stream. For a live feed that is when it happened;
  a replay stores today what happened on another day.

exit codes:
  0 done, 2 command line, 4 messages on subjects of ours could not be read (the first of each kind
  is named on standard error, and how many there were), 5 NATS unreachable, or away for longer than
  --give-up, 6 NATS refused, 7 no such stream, 130 Ctrl-C
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns its exit code."""
    made = parser()
    given = made.parse_args(arguments)
    _check(made, given)
    logs.configure(PROG, "WARNING")
    try:
        start = start_of(given)
        if given.status is not None:
            return consuming.run(PROG, tail_statuses(given, start))
        if given.parquet is not None:
            files = ParquetFiles(given.parquet, given.subject or EVERYTHING)
            return consuming.run(PROG, tail_parquet(given, start, files))
        if given.plot:
            plots = BarPlots(Bars(bar_ns(given.bars)))
            return consuming.run(PROG, tail_plots(given, start, plots))
        if given.bars is not None:
            return consuming.run(PROG, tail_bars(given, start, Bars(bar_ns(given.bars))))
        return consuming.run(PROG, tail(given, start))
    except IngestorError as error:
        print(f"{PROG}: {error}", file=sys.stderr)
        return error.exit_code


def _check(made: Parser, given: argparse.Namespace) -> None:
    """End with a sentence where flags do not go together."""
    if given.status is not None and (given.symbol or given.subject):
        made.error("--status goes without --subject and --symbol")
    if given.parquet is not None and (given.symbol or given.count or given.json):
        made.error("--parquet goes without --symbol, --count and --json")
    if given.last is not None and not (given.status is given.parquet is given.bars is None):
        made.error("--last goes without --status, --parquet and --bars")
    if given.plot and (given.bars is None or given.json):
        made.error("--plot goes with --bars, and without --json")
    if given.plot and given.follow and not sys.stdout.isatty():
        made.error("--plot follows on a terminal alone; with --no-follow it is drawn once")


def start_of(given: argparse.Namespace) -> Start | None:
    """Return where to begin; None with the last events. Raises ConfigurationError."""
    said = given.since is not None or given.new or given.all
    part = given.count is not None or not given.follow
    if not said and not part and given.last is None and not (given.parquet or given.bars):
        given.last = LAST
    if given.last is not None:
        return None
    return consuming.start_of(given.since, given.new, now_ns())


def parser() -> Parser:
    """Return the parser of ``ingestor-tail``."""
    made = Parser(PROG, _ABOUT, _MORE)
    consuming.add_where(made)
    # None, since the default depends on --status.
    made.set_defaults(stream=None)
    _add_what(made)
    how = made.add_argument_group("how")
    how.add_argument("--json", action="store_true", help="print each event's JSON instead")
    how.add_argument(
        "--bars", metavar="SPAN", help="open, high, low, close, volume and spread by 30s, 1m, 1h"
    )
    how.add_argument(
        "--plot", action="store_true", help="draw the bars as candles, one plot a symbol"
    )
    how.add_argument(
        "--parquet", metavar="FILE", type=Path, help="write a table, one for each type of event"
    )
    how.add_argument(
        "--give-up",
        metavar="SECONDS",
        type=_give_up,
        default=GIVE_UP_AFTER_S,
        help="end when the server stays away for so long (default 60; 0: wait for ever)",
    )
    return made


def _add_what(made: Parser) -> None:
    what = made.add_argument_group("what")
    what.add_argument(
        "--subject",
        help=f"one subject, or several with * (a word) and > (the rest) (default {EVERYTHING})",
    )
    what.add_argument(
        "--symbol", metavar="A,B", help="only these symbols; a stock's also means the options on it"
    )
    what.add_argument(
        "--status",
        metavar="FEED",
        nargs="?",
        const="",
        help="instead of events, what live feeds (or one) tell about themselves: gaps, drops, "
        f"alarms; the last of each and then what is new (default stream {STATUS_STREAM})",
    )
    begin = what.add_mutually_exclusive_group()
    begin.add_argument(
        "--last",
        metavar="N",
        type=consuming.positive,
        help=f"begin with the last so many (default {LAST}; all, with --count or --no-follow)",
    )
    begin.add_argument("--since", metavar="TIME", help="begin at 2025-12-16T14:30 (UTC) or 10m ago")
    begin.add_argument("--new", action="store_true", help="only what is stored from now on")
    begin.add_argument("--all", action="store_true", help="begin with the first that is stored")
    what.add_argument(
        "--count", metavar="N", type=consuming.positive, help="stop after this many events"
    )
    what.add_argument(
        "--follow",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="go on with what is new, or stop where the stream ends",
    )


def _give_up(text: str) -> float | None:
    return None if float(text) == 0 else consuming.seconds(text)


class Printer:
    """Prints events as they are asked for; `left` is how many still are, None for all."""

    def __init__(self, given: argparse.Namespace) -> None:
        self._table = EventTable(sys.stdout)
        self._as_json = given.json
        self._begun = given.json
        self.left: int | None = given.count

    def print(self, found: Sequence[tuple[Message, Event]]) -> bool:
        """Print events; whether more are asked for. A packed message may hold more than that."""
        if not self._begun:
            self._begun = True
            for _, event in found:
                self._table.fit(event)
            sys.stdout.write(self._table.header())
        for message, event in found[: self.left]:
            line = f"{_json(message, event)}\n" if self._as_json else self._table.line(event)
            sys.stdout.write(line)
        if self.left is not None:
            self.left = max(self.left - len(found), 0)
        return self.left != 0


async def tail(given: argparse.Namespace, start: Start | None) -> int:
    """Print until the end that was asked for. Raises IngestorError, BrokenPipeError."""
    symbols, printer = _symbols(given), Printer(given)
    subject = given.subject or EVERYTHING
    async with _connected(given) as client:
        if start is None:
            start = await _show_last(client, given, symbols, printer)
            sys.stdout.flush()
            if not given.follow or printer.left == 0:
                return _exit_code(client.skipped)
        subscription = client.subscribe(subject, start=start, follow=given.follow)
        async for message in subscription.messages():
            events = _events(message, subscription.skips.add)
            wanted = [one for one in events if not symbols or is_of_symbol(one, symbols)]
            if not printer.print([(message, one) for one in wanted]):
                break
            # Once nothing waits: a pipe's reader sees each event at once, and bulk pays no flush a
            # line.
            if not subscription.arrived:
                sys.stdout.flush()
        sys.stdout.flush()
        return _exit_code(client.skipped)


async def _show_last(
    client: Client, given: argparse.Namespace, symbols: frozenset[str], printer: Printer
) -> Start:
    """Print the last events, or say what there is instead; return where to go on.

    No consumer begins at the last N of a subject: so a window at the stream's end is read, and one
    four times as long, until it holds them. The server leaves out the subjects not asked for.
    """
    held = await client.contents()
    end, window = held.last_seq, given.last
    subject = given.subject or EVERYTHING
    found: deque[tuple[Message, Event]] = deque(maxlen=given.last)
    bad: list[BadMessageError] = []
    seen: dict[str, None] = {}
    while held.messages:
        first = max(end - window + 1, held.first_seq, 1)
        found.clear()
        bad.clear()
        subscription = client.subscribe(subject, start=AtSequence(first), follow=False)
        async for message in subscription.messages():
            if message.seq > end:
                break
            for event in _events(message, bad.append):
                seen[symbol_of(event)] = None
                if not symbols or is_of_symbol(event, symbols):
                    found.append((message, event))
        await subscription.close()
        if len(found) == given.last or first <= held.first_seq or window >= MAX_LOOKED_BACK:
            # A message that was read in several windows counts once.
            for one in bad:
                subscription.skips.add(one)
            break
        window = min(4 * window, MAX_LOOKED_BACK)
    if found:
        printer.print(list(found))
    else:
        _tell_nothing(given, held.subjects, symbols, list(seen))
    return AtSequence(end + 1)


def _tell_nothing(
    given: argparse.Namespace,
    subjects: Mapping[str, int],
    symbols: frozenset[str],
    seen: Sequence[str],
) -> None:
    """Say on standard error what was not there, and what is."""
    stream = given.stream or DEFAULT_STREAM
    waits = "; waiting for new ones" if given.follow else ""
    if not subjects:
        sentence = f"stream {stream} is empty"
    elif symbols and seen:
        named = ", ".join(map(printable, sorted(seen)[:MAX_SYMBOLS_NAMED]))
        more = len(seen) - MAX_SYMBOLS_NAMED
        named += f" and {more:,} more" if more > 0 else ""
        wanted = ", ".join(sorted(symbols))
        sentence = f"no event of {wanted} among the last ones; there are {named}"
    else:
        named = ", ".join(f"{printable(one)} ({count:,})" for one, count in subjects.items())
        subject = given.subject or EVERYTHING
        sentence = f"no message on {subject} in stream {stream}; there are {named}"
    print(f"{PROG}: {sentence}{waits}", file=sys.stderr, flush=True)


async def tail_bars(given: argparse.Namespace, start: Start | None, bars: Bars) -> int:
    """Print bars until the end that was asked for; raises as `tail`."""
    left = given.count
    async with _connected(given) as client:
        subscription = _subscribed(client, given, start)
        print(bar_header(), flush=True)
        async for event in _wanted(subscription, given):
            bar = bars.add(event)
            if bar is not None:
                print(bar_line(bar), flush=not subscription.arrived)
                left = None if left is None else left - 1
                if left == 0:
                    break
        else:
            for bar in bars.rest():
                print(bar_line(bar))
        return _exit_code(client.skipped)


async def tail_plots(given: argparse.Namespace, start: Start | None, plots: BarPlots) -> int:
    """Draw bars until the end that was asked for; raises as `tail`."""
    left = given.count
    console = Console() if sys.stdout.isatty() else Console(width=UNWATCHED_COLUMNS)
    async with _connected(given) as client:
        subscription = _subscribed(client, given, start)
        with drawn(console, plots, follow=given.follow):
            async for event in _wanted(subscription, given):
                if plots.add(event) and left is not None:
                    left -= 1
                    if left == 0:
                        break
        return _exit_code(client.skipped)


async def tail_parquet(given: argparse.Namespace, start: Start | None, files: ParquetFiles) -> int:
    """Write tables until the end that was asked for; raises as `tail`."""
    async with _connected(given) as client:
        subscription = _subscribed(client, given, start)
        await write(subscription, files)
        return _exit_code(client.skipped)


async def tail_statuses(given: argparse.Namespace, start: Start | None) -> int:
    """Print what feeds tell until the end that was asked for. Raises as `tail`."""
    left = given.count
    # Of statuses the newest of each feed is what counts, unless a time is asked for.
    start = From.LAST_PER_SUBJECT if start in (None, From.BEGINNING) and not given.all else start
    stream = given.stream or STATUS_STREAM
    ways = consuming.way_in(given)
    patience = {"give_up_after_s": given.give_up}
    async with connect(**ways, **patience, status_stream=stream, name=PROG) as client:
        statuses = client.statuses(
            given.status or None, start=start or From.LAST_PER_SUBJECT, follow=given.follow
        )
        async for status in statuses:
            line = encode_status(status).decode() if given.json else line_of_status(status)
            print(line, flush=True)
            if left is not None:
                left -= 1
                if left <= 0:
                    break
        return _exit_code(client.skipped)


def _connected(given: argparse.Namespace) -> Client:
    return connect(
        **consuming.way_in(given),
        stream=given.stream or DEFAULT_STREAM,
        give_up_after_s=given.give_up,
        name=PROG,
    )


def _subscribed(client: Client, given: argparse.Namespace, start: Start | None) -> Subscription:
    return client.subscribe(
        given.subject or EVERYTHING, start=start or From.BEGINNING, follow=given.follow
    )


async def _wanted(subscription: Subscription, given: argparse.Namespace) -> AsyncIterator[Event]:
    symbols = _symbols(given)
    async for event in subscription.events():
        if not symbols or is_of_symbol(event, symbols):
            yield event


def _symbols(given: argparse.Namespace) -> frozenset[str]:
    return frozenset(given.symbol.split(",")) if given.symbol else frozenset()


def _events(message: Message, skip: Callable[[BadMessageError], None]) -> list[Event]:
    try:
        return decode(message)
    except BadMessageError as bad:
        skip(bad)
        return []


def _exit_code(skipped: Mapping[Cause, int]) -> ExitCode:
    """Say what was left out. What is not on a subject of ours is nobody's fault."""
    if skipped:
        counts = ", ".join(f"{cause} {count:,}" for cause, count in sorted(skipped.items()))
        print(f"{PROG}: messages skipped: {counts}", file=sys.stderr)
    return ExitCode.BAD_DATA if skipped.keys() - {Cause.UNKNOWN_SUBJECT} else ExitCode.OK


def _json(message: Message, event: Event) -> str:
    """The event's JSON on one line: as it was published, where it was."""
    # A control character in a text would tear the line: then it is encoded again, escaped.
    if not is_packed(message.payload) and (text := message.payload.decode()).isprintable():
        return text
    return msgspec.json.encode(event).decode()


if __name__ == "__main__":
    sys.exit(main())
