"""``ingestor-tail``: print what is in the stream, one event a line.

``python -m ingestor.cli.tail`` is the command ``bin/ingestor-tail``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from ingestor.cli import consuming
from ingestor.cli.parser import Parser
from ingestor.client import (
    DEFAULT_STREAM,
    EVERYTHING,
    STATUS_STREAM,
    BadMessageError,
    Cause,
    From,
    Message,
    Start,
    connect,
    decode,
)
from ingestor.encode.packed import is_packed
from ingestor.model.bounds import printable
from ingestor.model.clock import iso_utc, now_ns
from ingestor.model.errors import ExitCode, IngestorError
from ingestor.model.events import Event
from ingestor.model.feed_status import encode_status, line_of_status
from ingestor.runtime import log as logs

_NAME_CHARS: Final = 12
_SYMBOL_CHARS: Final = 12
_PRICE_CHARS: Final = 10

_ACTIONS: Final = {
    "A": "add",
    "C": "cancel",
    "M": "modify",
    "T": "trade",
    "R": "clear",
    "F": "fill",
    None: "?",
}
_SIDES: Final = {"B": "bid", "A": "ask", "N": "", None: ""}


def line_of(event: Event) -> str:
    """Return ``<event time, UTC> <type> <symbol> <what happened>``."""
    name, symbol = type(event).__name__, printable(symbol_of(event))
    head = f"{iso_utc(event.ts_event_ns)} {name:{_NAME_CHARS}} {symbol:{_SYMBOL_CHARS}}"
    return f"{head} {_DETAILS[name](event)}".rstrip()


def symbol_of(event: Any) -> str:
    """Return the symbol; an option's is its ticker."""
    symbol: str = event.option_symbol if hasattr(event, "option_symbol") else event.symbol
    return symbol


def is_of_symbol(event: Any, symbols: frozenset[str]) -> bool:
    """Whether the event's symbol, or its option's underlying, is among `symbols`."""
    return symbol_of(event) in symbols or getattr(event, "underlying", None) in symbols


def _price(price: float | None) -> str:
    # `repr` is the shortest decimal that reads back as the same double.
    return "-" if price is None else repr(price)


def _at(price: float | None, size: int) -> str:
    return f"{_price(price):>{_PRICE_CHARS}} x {size:<5}"


def _trade(event: Any) -> str:
    return f"{_at(event.price, event.size)} {event.aggressor.name}"


def _option_trade(event: Any) -> str:
    return f"{_trade(event)}  quote {_price(event.opt_bid)} | {_price(event.opt_ask)}"


def _quote(event: Any) -> str:
    return f"{_at(event.bid_px, event.bid_sz)} | {_at(event.ask_px, event.ask_sz)}"


def _book(event: Any) -> str:
    best = event.levels[0]
    done = f"{_ACTIONS[event.action]} {_SIDES[event.side]}".strip()
    at = f"{_price(event.action_price)} x {event.action_size}"
    snapshot = "  snapshot" if event.is_snapshot else ""
    return f"{_quote(best)}  {done} {at}{snapshot}"


_DETAILS: Final[dict[str, Callable[[Any], str]]] = {
    "StockTrade": _trade,
    "FuturesTrade": _trade,
    "OptionTrade": _option_trade,
    "StockQuote": _quote,
    "MBP10": _book,
}


PROG: Final = "ingestor-tail"

_ABOUT: Final = """\
Print the events of a stream, one a line: time of the event (UTC), type, symbol, and what
happened. JSON and packed messages look the same. Without flags it prints everything that the
stream holds and goes on with what is new, until Ctrl-C.
"""

_MORE: Final = """\
a line:
  2025-12-16T14:30:00.017150864Z FuturesTrade ES.c.0           6870.0 x 27    BUY
  2025-12-16T14:30:00.017150864Z MBP10        ES.c.0           6869.5 x 85    |    6869.75 x 144
                                                               best bid       |    best ask

examples:
  ingestor-tail --new                                    what is published from now on
  ingestor-tail --subject 'market.*.trades' --count 20   the first trades of the stream
  ingestor-tail --since 10m --symbol ES.c.0,SPY          the last ten minutes of two symbols
  ingestor-tail --no-follow --json > events.jsonl        all of it, into a file
  ingestor-tail --status                                 gaps and alarms of the live feeds
  ingestor-tail --status stocks --since 1d --no-follow   those of one feed since yesterday

times:
  --since means when a message was stored in the stream. For a live feed that is when it happened;
  a replay stores today what happened on another day.

exit codes:
  0 done, 2 command line, 4 messages on subjects of ours could not be read (the first of each kind
  is named on standard error, and how many there were), 5 NATS unreachable, 6 NATS refused,
  7 no such stream, 130 Ctrl-C
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns its exit code."""
    made = parser()
    given = made.parse_args(arguments)
    if given.status is not None and (given.symbol or given.subject):
        made.error("--status goes without --subject and --symbol")
    logs.configure(PROG, "WARNING")
    try:
        start = consuming.start_of(given.since, given.new, now_ns())
    except IngestorError as error:
        print(f"{PROG}: {error}", file=sys.stderr)
        return error.exit_code
    if given.status is None:
        return consuming.run(PROG, tail(given, start))
    return consuming.run(PROG, tail_statuses(given, start))


def parser() -> Parser:
    """Return the parser of ``ingestor-tail``."""
    made = Parser(PROG, _ABOUT, _MORE)
    consuming.add_where(made)
    # None, since the default depends on --status.
    made.set_defaults(stream=None)
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
    begin.add_argument("--since", metavar="TIME", help="begin at 2025-12-16T14:30 (UTC) or 10m ago")
    begin.add_argument("--new", action="store_true", help="only what is stored from now on")
    what.add_argument(
        "--count", metavar="N", type=consuming.positive, help="stop after this many events"
    )
    what.add_argument(
        "--follow",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="go on with what is new, or stop where the stream ends",
    )
    made.add_argument_group("how").add_argument(
        "--json", action="store_true", help="print each event's JSON instead"
    )
    return made


async def tail(given: argparse.Namespace, start: Start) -> int:
    """Print until the end that was asked for. Raises IngestorError, BrokenPipeError."""
    symbols = frozenset(given.symbol.split(",")) if given.symbol else frozenset()
    left = given.count
    stream = given.stream or DEFAULT_STREAM
    async with connect(**consuming.way_in(given), stream=stream, name=PROG) as client:
        subscription = client.subscribe(
            given.subject or EVERYTHING, start=start, follow=given.follow
        )
        async for message in subscription.messages():
            try:
                lines = list(_lines(message, symbols, as_json=given.json))
            except BadMessageError as bad:
                subscription.skips.add(bad)
                continue
            # A packed message may hold more events than are still asked for.
            for line in lines[:left]:
                sys.stdout.write(line)
            # Once nothing waits: a pipe's reader sees each event at once, and bulk pays no flush a
            # line.
            if not subscription.arrived:
                sys.stdout.flush()
            if left is not None:
                left -= len(lines)
                if left <= 0:
                    break
    sys.stdout.flush()
    return _exit_code(subscription.skipped)


def _exit_code(skipped: Mapping[Cause, int]) -> ExitCode:
    """Say what was left out. What is not on a subject of ours is nobody's fault."""
    if skipped:
        counts = ", ".join(f"{cause} {count:,}" for cause, count in sorted(skipped.items()))
        print(f"{PROG}: messages skipped: {counts}", file=sys.stderr)
    return ExitCode.BAD_DATA if skipped.keys() - {Cause.UNKNOWN_SUBJECT} else ExitCode.OK


async def tail_statuses(given: argparse.Namespace, start: Start) -> int:
    """Print what feeds tell until the end that was asked for. Raises as `tail`."""
    left = given.count
    # Of statuses the newest of each feed is what counts, unless a time is asked for.
    start = From.LAST_PER_SUBJECT if start is From.BEGINNING else start
    stream = given.stream or STATUS_STREAM
    async with connect(**consuming.way_in(given), status_stream=stream, name=PROG) as client:
        statuses = client.statuses(given.status or None, start=start, follow=given.follow)
        async for status in statuses:
            line = encode_status(status).decode() if given.json else line_of_status(status)
            print(line, flush=True)
            if left is not None:
                left -= 1
                if left <= 0:
                    break
        return _exit_code(client.skipped)


def _lines(message: Message, symbols: frozenset[str], *, as_json: bool) -> Iterator[str]:
    for event in decode(message):
        if not symbols or is_of_symbol(event, symbols):
            yield f"{_json(message, event) if as_json else line_of(event)}\n"


def _json(message: Message, event: Event) -> str:
    """The event's JSON on one line: as it was published, where it was."""
    # A control character in a text would tear the line: then it is encoded again, escaped.
    if not is_packed(message.payload) and (text := message.payload.decode()).isprintable():
        return text
    return msgspec.json.encode(event).decode()


if __name__ == "__main__":
    sys.exit(main())
