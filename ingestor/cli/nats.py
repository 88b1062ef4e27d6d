"""``bin/ingestor-nats``: the embedded server in the foreground, to read what runs published."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from ingestor.cli.parser import Parser
from ingestor.model.errors import ExitCode, IngestorError
from ingestor.runtime import log as logs
from ingestor.runtime.embedded_server import ANY_PORT, DEFAULT_PORT, EmbeddedServer
from ingestor.runtime.signals import run_program

_ABOUT: Final = """\
Run the embedded NATS server by itself, with the store that replays and live runs filled. Runs that
name no server find this one on its default port and use it, so what they publish stays to be read.
"""

_MORE: Final = """\
examples:
  ingestor-nats                              the store in .data/nats, on port 4222
  ingestor-nats --data-dir /tmp/nats --port 4333
  NATS_URL=nats://127.0.0.1:4333 ingestor-replay --demo

what is in it, with the `nats` command-line tool (not part of this project):
  nats stream ls                             the streams and how much they hold
  nats stream get MARKET_DATA 1              the first message
  nats sub 'market.>'                        what is being published now

Ctrl-C or SIGTERM ends it, once no run uses it any more; everything acknowledged stays in the store.
It listens on 127.0.0.1 only.

exit codes:
  0 stopped by a signal, 2 wrong command line, 10 the server did not start or ended by itself
"""


_WANTED: Final = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGCHLD})


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the server until a signal; returns the exit code."""
    given = parser().parse_args(arguments)
    logs.configure("ingestor-nats", "WARNING")
    server = EmbeddedServer(given.data_dir, port=given.port)
    try:
        with server:
            # Blocked only now, as the server must not inherit it; and before anybody is told that
            # it runs, since who is told may stop it.
            signal.pthread_sigmask(signal.SIG_BLOCK, _WANTED)
            _tell(server)
            while (problem := server.problem()) is None:
                if signal.sigwait(_WANTED) != signal.SIGCHLD:
                    return ExitCode.OK
            print(f"ingestor-nats: {problem}", file=sys.stderr)
            return ExitCode.EMBEDDED_SERVER
    except KeyboardInterrupt:
        return ExitCode.OK
    except IngestorError as error:
        print(f"ingestor-nats: {error}", file=sys.stderr)
        return error.exit_code


def _tell(server: EmbeddedServer) -> None:
    print(
        f"NATS with JetStream at {server.url}\n"
        f"  store {server.data_dir / 'jetstream'}\n"
        f"  log   {server.log_path}\n"
        "  look  nats stream ls     (the `nats` tool, if you have it)\n"
        "  stop  Ctrl-C",
        flush=True,
    )


def _port(text: str) -> int:
    port = int(text)
    if port != ANY_PORT and not 1 <= port <= 65_535:
        raise argparse.ArgumentTypeError(f"{text} is no port: 1 to 65535, or {ANY_PORT}")
    return port


def parser() -> Parser:
    """Return the parser of ``ingestor nats``."""
    parser = Parser("ingestor-nats", _ABOUT, _MORE, version=False)
    parser.add_argument(
        "--data-dir",
        type=Path,
        default=Path(".data/nats"),
        metavar="DIR",
        help="where streams and log are kept (default %(default)s)",
    )
    parser.add_argument(
        "--port",
        type=_port,
        default=DEFAULT_PORT,
        metavar="N",
        help=f"port on 127.0.0.1 (default %(default)s; {ANY_PORT} lets the server choose)",
    )
    return parser


if __name__ == "__main__":
    run_program("ingestor-nats", "ingestor.cli.nats", "main")
