"""Command lines: arguments in, exit code out.

Standard output carries the result and nothing else; everything said while running goes to
standard error.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

from ingestor import __version__
from ingestor import log as logs
from ingestor.config.load import Layer, Loaded, Setting, environment_layer, file_layer, load
from ingestor.config.show import show
from ingestor.errors import ExitCode, IngestorError
from ingestor.replay_publisher import ReplayPublisher
from ingestor.summary import as_json, as_text

REPLAY_ENVIRONMENT: Final = {
    "NATS_URL": "nats.url",
    "REPLAY_SPEED": "replay.speed",
    "REPLAY_DATE": "replay.dates",
    "DBN_DATA_DIR": "replay.data_dir",
}


def commas(text: str) -> list[str]:
    """Split a comma list; spaces around names and empty names do not count."""
    return [name.strip() for name in text.split(",") if name.strip()]


@dataclass(frozen=True, slots=True)
class Flag:
    """A flag that sets one key of the configuration."""

    name: str
    key: str
    metavar: str
    help: str
    kind: Callable[[str], Any] = str
    repeated: bool = False


_WHERE: Final = (
    Flag("--nats", "nats.url", "URL", "NATS server (default: a local or an embedded one)"),
    Flag("--stream", "nats.stream", "NAME", "stream (default MARKET_DATA)"),
)

_REPLAY_WHAT: Final = (
    Flag("--data-dir", "replay.data_dir", "DIR", "folder with trades/ and MBP-10/"),
    Flag(
        "--date",
        "replay.dates",
        "YYYY-MM-DD",
        "a day; again for more; none means every day there is",
        repeated=True,
    ),
    Flag("--feeds", "replay.feeds", "trades,mbp10", "which feeds (default both)", commas),
    Flag("--symbols", "replay.symbols", "A,B", "only these symbols", commas),
    Flag("--start", "replay.start", "HH:MM", "New York time from which to replay"),
    Flag("--end", "replay.end", "HH:MM", "New York time before which to replay"),
)

_REPLAY_HOW: Final = (
    Flag("--speed", "replay.speed", "X", "0 as fast as possible, 1 real time, 2, 0.5 ..."),
    Flag("--max-gap", "replay.max_gap_s", "SECONDS", "shorten holes in event time to this"),
    Flag("--encoding", "publish.encoding", "json|packed", "one event a message, or many"),
)

_REPLAY_ABOUT: Final = """\
Replay Databento DBN files into NATS JetStream: ES trades and MBP-10 depth, merged into one
stream in the order they happened, with the subjects and schemas of the live feed.
"""

_REPLAY_MORE: Final = """\
examples:
  ingestor-replay --demo                         a made-up sample day, into an embedded server
  ingestor-replay --date 2025-12-16 --speed 0    one day, as fast as the server takes it
  ingestor-replay --date 2025-12-16 --speed 1 --start 09:30 --end 16:00 --max-gap 5
  ingestor-replay --config configs/replay.toml --show-config

files:
  DIR/trades/glbx-mdp3-YYYYMMDD.trades.dbn[.zst] and DIR/MBP-10/glbx-mdp3-YYYYMMDD.mbp-10.dbn[.zst]

environment (a flag beats it, it beats the file):
  NATS_URL, REPLAY_SPEED, REPLAY_DATE (comma between dates), DBN_DATA_DIR

exit codes:
  0 done, 2 configuration, 3 no such data, 4 bad data (what was whole is published),
  5 NATS unreachable (worth a restart), 6 NATS refused, 7 stream, 9 a process failed,
  10 embedded server, 130 and 143 stopped by a signal
"""


def replay_main(arguments: Sequence[str] | None = None) -> int:
    """Run ``ingestor-replay``; returns its exit code."""
    parser = replay_parser()
    given = parser.parse_args(arguments)
    try:
        loaded = _load(given, REPLAY_ENVIRONMENT)
        if given.show_config:
            print(show(loaded))
            return ExitCode.OK
        logs.configure("ingestor", loaded.config.log.level)
        return _replay(loaded, given)
    except IngestorError as error:
        print(f"ingestor-replay: {error}", file=sys.stderr)
        return error.exit_code


def _replay(loaded: Loaded, given: argparse.Namespace) -> int:
    result = ReplayPublisher(loaded.config, demo=given.demo).run()
    if given.summary == "json":
        print(as_json(result.summary))
    else:
        print(as_text(result.summary, result.details))
    if result.error:
        print(f"ingestor-replay: {result.error}", file=sys.stderr)
    return result.exit_code


def replay_parser() -> argparse.ArgumentParser:
    """Return the parser of ``ingestor-replay``; a flag's ``dest`` is the dotted key it sets."""
    parser = _Parser(
        prog="ingestor-replay",
        description=_REPLAY_ABOUT,
        epilog=_REPLAY_MORE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    _add_common(parser)
    what = parser.add_argument_group("what to replay")
    _add(what, _REPLAY_WHAT)
    what.add_argument(
        "--demo",
        action="store_true",
        default=False,
        help="replay a made-up sample day when there is no data",
    )
    how = parser.add_argument_group("how")
    _add(how, _REPLAY_HOW)
    how.add_argument(
        "--summary",
        choices=("text", "json"),
        default="text",
        help="final report for people, or one JSON object on standard output",
    )
    return parser


class _Parser(argparse.ArgumentParser):
    """Ends with our exit code for a wrong command line."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(ExitCode.CONFIGURATION, f"{self.prog}: {message} (see --help)\n")


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    parser.add_argument("--config", metavar="FILE", default=None, help="TOML file with settings")
    parser.add_argument(
        "--show-config",
        action="store_true",
        default=False,
        help="print every setting, its value and what set it, and start nothing",
    )
    _add(parser.add_argument_group("where to"), _WHERE)


def _add(group: Any, flags: Sequence[Flag]) -> None:
    for flag in flags:
        action = "append" if flag.repeated else "store"
        group.add_argument(
            flag.name,
            dest=flag.key,
            metavar=flag.metavar,
            help=flag.help,
            type=flag.kind,
            action=action,
        )


def _load(given: argparse.Namespace, environment: Mapping[str, str]) -> Loaded:
    layers: list[Layer] = []
    if given.config:
        layers.append(file_layer(Path(given.config)))
    layers.append(environment_layer(os.environ, environment))
    layers.append(_flag_layer(given))
    return load(layers)


def _flag_layer(given: argparse.Namespace) -> Layer:
    names = {flag.key: flag.name for flag in (*_WHERE, *_REPLAY_WHAT, *_REPLAY_HOW)}
    return {
        key: Setting(value, f"flag {names[key]}")
        for key, value in vars(given).items()
        if key in names
    }
