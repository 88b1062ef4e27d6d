"""What the command lines share: flags that set keys of the configuration, and where keys come from.

Standard output carries the result and nothing else; everything said while running goes to
standard error.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from setproctitle import setproctitle

from ingestor.cli.parser import Parser
from ingestor.config.load import (
    Layer,
    Loaded,
    Setting,
    layers_of,
    load,
    show,
)
from ingestor.config.schema import Config
from ingestor.model.bounds import without_logins
from ingestor.model.errors import ExitCode, IngestorError
from ingestor.runtime.log import Target, complain, configure, hide, say
from ingestor.runtime.publisher_factory import is_watched
from ingestor.runtime.report import RunReport, as_json, as_text

log = logging.getLogger(__name__)


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
    const: Any = None
    """What a flag without a value sets."""


WHERE: Final = (
    Flag("--nats", "nats.url", "URL", "NATS server (default: a local or an embedded one)"),
    Flag("--stream", "nats.stream", "NAME", "stream (default MARKET_DATA)"),
)

PAGE_PORT: Final = 9464
"""Of exporters for Prometheus; a demo shows its page there if nobody else has it."""
DEMO_SPEED: Final = 1_000.0
DEMO_MAX_GAP_S: Final = 60.0

NO_LEASE: Final = Flag(
    "--no-lease",
    "nats.lease",
    "",
    "write even what another run is writing: for those who know",
    const=False,
)

LIVE_ENVIRONMENT: Final = {
    "NATS_URL": "nats.url",
    "POLYGON_API_KEY": "polygon.api_key",
    "POLYGON_STANDBY_API_KEY": "polygon.standby_api_key",
    "POLYGON_STOCKS_URL": "polygon.stocks_url",
    "POLYGON_OPTIONS_URL": "polygon.options_url",
}

REPLAY_ENVIRONMENT: Final = {
    "NATS_URL": "nats.url",
    "REPLAY_SPEED": "replay.speed",
    "REPLAY_DATE": "replay.dates",
    "DBN_DATA_DIR": "replay.data_dir",
}

RECORD: Final = Flag(
    "--record", "record.dir", "DIR", "write all that the vendor sends to a journal there"
)

FILES: Final = (
    Flag("replay.files", "replay.files", "FILE", "DBN files or folders, instead of --data-dir"),
)

REPLAY_WHAT: Final = (
    Flag("--data-dir", "replay.data_dir", "DIR", "folder of DBN files, in any layout; or a file"),
    Flag("--journal", "replay.journal_dir", "DIR", "folder that a live run recorded into"),
    Flag(
        "--date",
        "replay.dates",
        "YYYY-MM-DD",
        "a day; again, or with commas, for more; none means every day there is",
        commas,
        repeated=True,
    ),
    Flag(
        "--feeds",
        "replay.feeds",
        "A,B",
        "of trades, mbp10, stocks, options (default: the first two; with --journal what there is)",
        commas,
    ),
    Flag(
        "--symbols", "replay.symbols", "A,B", "only these; an underlying means its options", commas
    ),
    Flag("--start", "replay.start", "HH:MM", "New York time from which to replay"),
    Flag("--end", "replay.end", "HH:MM", "New York time before which to replay"),
)

REPLAY_HOW: Final = (
    Flag("--speed", "replay.speed", "X", "0 as fast as possible, 1 real time, 2, 0.5 ..."),
    Flag("--paused", "replay.paused", "", "wait before the first event (see ctl)", const=True),
    Flag("--no-control", "replay.control", "", "offer no service to steer it by", const=False),
    Flag("--max-gap", "replay.max_gap_s", "SECONDS", "shorten holes in event time to this"),
    Flag("--encoding", "publish.encoding", "json|packed", "one event a message, or many"),
    Flag(
        "--existing",
        "replay.existing",
        "resume|again|fresh|refuse",
        "where the stream holds this already: go on behind it (default), publish it again, remove"
        " it first, or refuse",
    ),
    Flag("--again", "replay.existing", "", "short for --existing again", const="again"),
    Flag("--fresh", "replay.existing", "", "short for --existing fresh", const="fresh"),
    NO_LEASE,
)

LOG: Final = (
    Flag("--quiet", "log.level", "", "only warnings and errors, no progress", const="WARNING"),
    Flag("--verbose", "log.level", "", "everything that is known", const="DEBUG"),
    Flag("--log-format", "log.format", "text|json", "lines for people, or an object a line"),
    Flag("--log-file", "log.file", "FILE", "where the log goes instead of standard error"),
)


def configure_log(label: str, config: Config) -> None:
    """Send the log of this process, and of those it forks, where the configuration says."""
    log_ = config.log
    configure(label, log_.level, Target(log_.format, log_.file, log_.file_bytes, log_.files_kept))


def parser_of(prog: str, about: str, more: str) -> Parser:
    """Return a parser with the flags of every program; a flag's ``dest`` is the key it sets."""
    # Suppressed: a flag that is not given leaves no value that would beat the file's.
    parser = Parser(prog, about, more, argument_default=argparse.SUPPRESS)
    parser.add_argument("--config", metavar="FILE", default=None, help="TOML file with settings")
    parser.add_argument(
        "--show-config",
        action="store_true",
        default=False,
        help="print every setting, its value and what set it, and start nothing",
    )
    add(parser.add_argument_group("where to"), WHERE)
    return parser


def add(group: Any, flags: Sequence[Flag]) -> None:
    """Add flags to a parser or a group of one; a name without dashes takes what has no flag."""
    for flag in flags:
        how: dict[str, Any] = {"metavar": flag.metavar, "help": flag.help, "type": flag.kind}
        if not flag.name.startswith("-"):
            group.add_argument(flag.key, nargs="*", **how)
        elif flag.const is not None:
            how = {"action": "store_const", "const": flag.const, "help": flag.help}
            group.add_argument(flag.name, dest=flag.key, **how)
        else:
            # Each use is a list already: they are joined, not nested.
            action = "extend" if flag.repeated else "store"
            group.add_argument(flag.name, dest=flag.key, action=action, **how)


def add_summary(group: Any) -> None:
    """Add the flag that chooses the final report."""
    group.add_argument(
        "--summary",
        choices=("text", "json"),
        default="text",
        help="final report for people, or one JSON object on standard output",
    )


def run(
    prog: str,
    given: argparse.Namespace,
    program: Callable[[Config], RunReport],
    *,
    environment: Mapping[str, str],
    flags: Sequence[Flag],
    leave_out: Collection[str],
) -> int:
    """Run a program, or show its configuration without the keys of `leave_out`.

    Prints the final report, and what went wrong; returns the exit code.
    """
    try:
        loaded = settings_of(given, environment, flags, demo_layer() if given.demo else {})
        if given.show_config:
            print(show(loaded, leave_out=leave_out))
            return ExitCode.OK
        # Before the first line of the log, which may already name a server.
        hide_secrets(loaded.config)
        # A password in --nats would else be seen by whoever lists processes.
        setproctitle(without_logins(" ".join([prog, *sys.argv[1:]])))
        configure_log("ingestor", loaded.config)
        for caution in loaded.cautions:
            log.warning("%s", caution)
        report = program(loaded.config)
    except IngestorError as error:
        complain(prog, error)
        return error.exit_code
    form = given.summary
    # A reader that is gone must not turn a finished run into a traceback.
    if not say(as_json(report) if form == "json" else as_text(report)):
        complain(prog, "the report was not read, or cannot be written")
    if report.error:
        complain(prog, report.error)
    return report.exit_code


def settings_of(
    given: argparse.Namespace,
    environment: Mapping[str, str],
    flags: Sequence[Flag],
    base: Layer | None = None,
) -> Loaded:
    """Lay file, environment and flags over a base and the defaults. Raises ConfigurationError."""
    path = Path(given.config) if given.config else None
    layers, warned = layers_of(path, os.environ, environment)
    # The last layer wins: a flag beats the environment, which beats the file.
    loaded = load([base or {}, *layers, _flag_layer(given, flags)])
    return replace(loaded, cautions=warned)


def settings_again(
    given: argparse.Namespace, environment: Mapping[str, str], flags: Sequence[Flag]
) -> Callable[[], Config]:
    """Return what reads the same settings anew."""
    base = demo_layer() if given.demo else {}
    return lambda: settings_of(given, environment, flags, base).config


def demo_layer() -> Layer:
    """Return what a demo has instead of the defaults: the page, and time to look at it."""
    shown = {"metrics.listen": Setting(f"127.0.0.1:{PAGE_PORT}", "demo")}
    if not is_watched():
        return shown
    # At full speed the day is over before one has looked. A minute without an event is too long.
    paced = {"replay.speed": DEMO_SPEED, "replay.max_gap_s": DEMO_MAX_GAP_S}
    return shown | {key: Setting(value, "demo") for key, value in paced.items()}


def hide_secrets(config: Config) -> None:
    """See to it that no line of the log shows a key, a password or a token."""
    for url in _texts(config.nats.url):
        hide(*_secrets_in(url))
    polygon, nats = config.polygon, config.nats
    hide(polygon.api_key, polygon.standby_api_key, nats.password, nats.token)


def _texts(value: object) -> list[str]:
    """Return the texts that a setting holds, be it one, several with commas, or a list."""
    if isinstance(value, str):
        return [text.strip() for text in value.split(",")]
    return [str(one) for one in value] if isinstance(value, Iterable) else []


def _secrets_in(url: str) -> tuple[str, ...]:
    """Return what a URL tells besides the name of a user, as written and as meant."""
    user, colon, password = urlsplit(url).netloc.rpartition("@")[0].partition(":")
    # The user part alone is how NATS writes a token.
    secret = password if colon else user
    return secret, unquote(secret)


def _flag_layer(given: argparse.Namespace, flags: Sequence[Flag]) -> Layer:
    names = {flag.key: flag.name for flag in (*WHERE, *flags)}
    return {
        key: Setting(value, f"flag {names[key]}")
        for key, value in vars(given).items()
        if key in names
    }
