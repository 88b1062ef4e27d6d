"""What the command lines of the consumers share: where to read, and how to end.

Standard output carries what was asked for; everything said about it goes to standard error.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime as dt
import logging
import os
import re
import sys
from collections.abc import Coroutine
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import uvloop

from ingestor.cli.parser import Parser
from ingestor.client import DEFAULT_STREAM, DEFAULT_URL, From, Since, Start
from ingestor.client.consumer import check_start
from ingestor.config.load import layers_of, load
from ingestor.config.schema import MAX_SECONDS
from ingestor.model.errors import ConfigurationError, ExitCode, IngestorError
from ingestor.model.units import INT64_MAX, NS_PER_S, to_ns
from ingestor.runtime.signals import EXIT_BASE, noted

log = logging.getLogger(__name__)

_UNITS_S: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_AGO: Final = re.compile(r"(\d{1,10})([smhd])").fullmatch


def add_where(parser: Parser) -> None:
    """Add the flags that say where to read from."""
    add_server(parser).add_argument(
        "--stream",
        metavar="NAME",
        default=DEFAULT_STREAM,
        help=f"stream (default {DEFAULT_STREAM})",
    )


def add_server(parser: Parser) -> Any:
    """Add the flags that say which server is meant; return their group."""
    where = parser.add_argument_group("where from")
    where.add_argument(
        "--nats",
        metavar="URL",
        default=os.environ.get("NATS_URL") or None,
        help=f"NATS server (default: NATS_URL, else the file's, else {DEFAULT_URL})",
    )
    where.add_argument(
        "--config", metavar="FILE", help="TOML file whose [nats] says how to be let in"
    )
    return where


def way_in(given: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments for `ingestor.client.connect`. Raises ConfigurationError."""
    # A consumer needs no configuration; a file only says how to be let in.
    path = None if given.config is None else Path(given.config)
    layers, warned = layers_of(path, os.environ, {})
    nats = load(layers).config.nats
    for caution in warned:
        log.warning("%s", caution)
    return asdict(nats.connect_options(given.nats or nats.url or DEFAULT_URL))


def seconds(text: str) -> float:
    """Seconds above 0 and at most a year, for argparse."""
    value = float(text)
    if not 0 < value <= MAX_SECONDS:
        raise ValueError
    return value


def positive(text: str) -> int:
    """A whole number above 0, for argparse."""
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def start_of(since: str | None, new: bool, now_ns: int) -> Start:
    """Return where to begin. Raises ConfigurationError for a time that cannot be."""
    if new:
        return From.NEW
    start = From.BEGINNING if since is None else Since(since_ns(since, now_ns))
    check_start(start)
    return start


def since_ns(text: str, now_ns: int) -> int:
    """Return the moment that ``10m`` (ago) or ``2025-12-16T14:30`` (UTC) means, in ns."""
    if ago := _AGO(text):
        return max(now_ns - int(ago[1]) * _UNITS_S[ago[2]] * NS_PER_S, 0)
    try:
        # Without a zone it is UTC, as every time that is printed.
        moment = dt.datetime.fromisoformat(text)
        moment_ns = to_ns(moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC))
    except ValueError:
        # Refused below, in one sentence with the times that are out of range.
        moment_ns = -1
    if not 0 <= moment_ns <= INT64_MAX:
        raise ConfigurationError(
            f"--since is {text!r}; allowed are 90s, 10m, 2h, 1d and UTC times like 2025-12-16T14:30"
        )
    return moment_ns


def run(prog: str, work: Coroutine[Any, Any, int]) -> int:
    """Run to the end, or to Ctrl-C or a closed pipe; return the exit code."""
    try:
        return uvloop.run(work)
    except IngestorError as error:
        sys.stdout.flush()
        print(f"{prog}: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        # The reader closed the pipe; without this Python prints a second error at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.OK
    except (KeyboardInterrupt, asyncio.CancelledError):
        return EXIT_BASE + heard[0] if (heard := noted()) else ExitCode.INTERRUPTED
