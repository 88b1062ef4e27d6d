"""``ingestor-live``: arguments in, exit code out."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, Final

from ingestor.cli.command_line import (
    LIVE_ENVIRONMENT,
    LOG,
    NO_LEASE,
    RECORD,
    Flag,
    add,
    add_summary,
    parser_of,
    run,
    settings_again,
)
from ingestor.config.schema import REPLAY_ONLY
from ingestor.runtime.live_run import StreamIngestor

PROG: Final = "ingestor-live"

_HOW: Final = (
    RECORD,
    Flag("--for", "live.stop_after_s", "SECONDS", "stop by itself after so long"),
    Flag(
        "--standby",
        "live.standby",
        "",
        "wait, ready, until the run that writes now has died, and follow it",
        const=True,
    ),
    NO_LEASE,
)

_ABOUT: Final = """\
Publish Polygon's live feeds to NATS JetStream: trades and quotes of SPY, and trades of the SPY
options around its price, in the order in which they arrive.
"""

_MORE: Final = """\
examples:
  ingestor-live --demo                           no key needed: against a simulator, for 15 s
  export POLYGON_API_KEY=...                     the key comes from the environment or a file,
  ingestor-live                                  never from the command line
  ingestor-live --config configs/live.toml --for 60
  ingestor-live --record journal                 and keep what the vendor sent, byte for byte
  ingestor-live --config configs/live.toml --show-config
  ingestor-tail --new                            in another terminal: what is being published

It reconnects by itself; what was missed is logged, counted and published. Ctrl-C once stops in
order: the vendor is told, what has come in is published, the report is printed. Twice stops now.
SIGHUP to a run with --config reads the file again: log.level, polygon.symbols and strikes change
without a stop.

environment (a flag beats it, it beats the file):
  POLYGON_API_KEY or POLYGON_API_KEY_FILE, POLYGON_STOCKS_URL, POLYGON_OPTIONS_URL, NATS_URL,
  NATS_PASSWORD_FILE, NATS_TOKEN_FILE, and for a standby POLYGON_STANDBY_API_KEY or
  POLYGON_STANDBY_API_KEY_FILE

exit codes:
  0 done (--for, --demo), 2 configuration, 5 NATS unreachable (worth a restart), 6 NATS refused,
  7 stream, 8 the vendor refuses the key, or there is none, 9 a process failed (worth a restart),
  10 embedded server, 11 another run is writing the same subjects, 130 and 143 stopped by a signal
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``ingestor-live``; returns its exit code."""
    given = parser().parse_args(arguments)
    flags = (*_HOW, *LOG)
    # Whoever has the run follow a file can change it; without one SIGHUP is an orderly stop.
    read_again = settings_again(given, LIVE_ENVIRONMENT, flags) if given.config else None
    return run(
        PROG,
        given,
        lambda config: StreamIngestor(config, demo=given.demo, read_again=read_again).run(),
        environment=LIVE_ENVIRONMENT,
        flags=flags,
        leave_out=REPLAY_ONLY,
    )


def parser() -> argparse.ArgumentParser:
    """Return the parser of ``ingestor-live``."""
    parser = parser_of(PROG, _ABOUT, _MORE)
    how = parser.add_argument_group("how")
    add(how, _HOW)
    how.add_argument(
        "--demo",
        action="store_true",
        default=False,
        help="stream from the simulator that comes with this program; needs no key",
    )
    add_summary(how)
    add(parser.add_argument_group("log"), LOG)
    for name in ("--api-key", "--key"):
        parser.add_argument(name, action=_RefuseKey, nargs="?", help=argparse.SUPPRESS)
    return parser


class _RefuseKey(argparse.Action):
    """A key among the arguments is seen by everybody who lists processes; do not repeat it."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,  # noqa: ARG002
        values: Any,  # noqa: ARG002
        option_string: str | None = None,
    ) -> None:
        parser.error(
            f"{option_string} would show the key to everybody on this machine:"
            " set POLYGON_API_KEY instead"
        )
