"""What the command lines of the consumers share: where to read, and how to end.

Standard output carries what was asked for; everything said about it goes to standard error.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime as dt
import os
import re
import sys
from collections.abc import Coroutine
from typing import Any, Final, NoReturn

import uvloop

from ingestor import __version__
from ingestor.client import DEFAULT_STREAM, DEFAULT_URL, From, Since, Start
from ingestor.clock import to_ns
from ingestor.errors import ConfigurationError, ExitCode, IngestorError
from ingestor.units import INT64_MAX, NS_PER_S

_UNITS_S: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_AGO: Final = re.compile(r"(\d+)([smhd])").fullmatch


class Parser(argparse.ArgumentParser):
    """Ends with our exit code for a wrong command line."""

    def __init__(self, prog: str, about: str, more: str) -> None:
        super().__init__(
            prog=prog,
            description=about,
            epilog=more,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self.add_argument("--version", action="version", version=f"%(prog)s {__version__}")

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, and exit."""
        self.print_usage(sys.stderr)
        self.exit(ExitCode.CONFIGURATION, f"{self.prog}: {message} (see --help)\n")


def add_where(parser: Parser) -> None:
    """Add the flags that say where to read from."""
    where = parser.add_argument_group("where from")
    url = os.environ.get("NATS_URL") or DEFAULT_URL
    where.add_argument(
        "--nats", metavar="URL", default=url, help="NATS server (default %(default)s)"
    )
    where.add_argument(
        "--stream",
        metavar="NAME",
        default=DEFAULT_STREAM,
        help=f"stream (default {DEFAULT_STREAM})",
    )


def positive(text: str) -> int:
    """A whole number above 0, for argparse."""
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def start_of(since: str | None, new: bool, now_ns: int) -> Start:
    """Return where to begin. Raises ConfigurationError for a time that cannot be read."""
    if new:
        return From.NEW
    return From.BEGINNING if since is None else Since(since_ns(since, now_ns))


def since_ns(text: str, now_ns: int) -> int:
    """Return the moment that ``10m`` (ago) or ``2025-12-16T14:30`` (UTC) means, in ns."""
    if ago := _AGO(text):
        return now_ns - int(ago[1]) * _UNITS_S[ago[2]] * NS_PER_S
    try:
        moment = dt.datetime.fromisoformat(text)
        moment_ns = to_ns(moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC))
    except ValueError:
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
        # Whoever read has seen enough; without this Python complains once more when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.OK
    except (KeyboardInterrupt, asyncio.CancelledError):
        return ExitCode.INTERRUPTED
