"""``ingestor doctor``: what is right, what is wrong, and what mends it."""

from __future__ import annotations

import argparse
import os
import shlex
import socket
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

import msgspec
import uvloop

from ingestor.cli.command_line import (
    LIVE_ENVIRONMENT,
    RECORD,
    REPLAY_ENVIRONMENT,
    REPLAY_WHAT,
    add,
    hide_secrets,
    parser_of,
    settings_of,
)
from ingestor.config.load import SECRET_FILES, Loaded
from ingestor.config.schema import Config
from ingestor.doctor import RIGHT, SECTIONS, CheckResult, Mark, failed, passed, warned
from ingestor.doctor.host import Host, folder_checks, host_checks
from ingestor.doctor.prerequisites import data_checks, installation_checks
from ingestor.doctor.server import server_checks
from ingestor.doctor.vendor import vendor_checks
from ingestor.model.errors import ConfigurationError, ExitCode
from ingestor.model.units import iso_utc, now_ns
from ingestor.runtime import log as logs

if TYPE_CHECKING:
    from rich.text import Text

PROG: Final = "ingestor-doctor"

FEEDS: Final = 2
"""A run has two feeds by default: stocks and options, or trades and depth."""

_ABOUT: Final = """\
Look at all that a run needs, and say of each whether it is right, what right is, and the command
that mends it. Nothing is changed, nothing is started, and no key is shown.
"""

_MORE: Final = """\
examples:
  ingestor doctor                       everything, for live runs and replays
  ingestor doctor live                  what a live run needs: a key that lacks is a failure then
  ingestor doctor live --login          and log in: that throws out a run which uses the key
  ingestor doctor replay --data-dir /data --date 2025-12-16
  ingestor doctor machine --fix-script fix.sh    a shell script of what mends it, to be read first
  ingestor doctor --json | jq '.findings[] | select(.mark != "ok")'

marks:
  ok     right
  warn   a run starts, and is slower or less safe than it could be
  fail   a run would end with the exit code that this command ends with
  skip   nobody can tell here, for the reason that is said

exit codes:
  0 nothing fails, else what the first failure would end a run with: 2 configuration, 3 no such
  data, 4 bad data, 5 NATS unreachable, 6 NATS refused, 7 stream, 8 no key, or the vendor refuses
  it, 9 the vendor is not reached, 10 embedded server
"""

_FLAGS: Final = (*REPLAY_WHAT, RECORD)
_STYLES: Final = {
    Mark.OK: "green",
    Mark.WARNING: "yellow",
    Mark.FAILURE: "bold red",
    Mark.UNKNOWN: "dim",
}
_OF_THE_SHELL: Final = ("ulimit ", "read ", "prlimit ", "export ", "unset ", "taskset ")
"""Begin commands that mend the shell which they are typed in, and no other."""

_CODE_CHARS: Final = max(map(len, RIGHT))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``ingestor doctor``; returns its exit code."""
    given = parser().parse_args(arguments)
    sections = frozenset().union(*(SECTIONS[name] for name in given.sections or SECTIONS))
    logs.configure(PROG, "ERROR")
    findings: list[CheckResult] = []
    tell = None if given.json else _Teller(sys.stdout)
    for finding in _findings(given, sections):
        findings.append(finding)
        if tell is not None:
            tell(finding)
    code = next((one.exit_code for one in findings if one.exit_code), int(ExitCode.OK))
    if tell is None:
        values = {"exit_code": code, "findings": findings}
        sys.stdout.write(f"{msgspec.json.encode(values).decode()}\n")
    else:
        sys.stdout.write(f"{_summary(findings)}\n")
    written = ExitCode.OK
    if given.fix_script is not None:
        written = _write_script(given.fix_script, findings)
    return code or written


def _findings(given: argparse.Namespace, sections: frozenset[str]) -> Iterator[CheckResult]:
    named = frozenset(given.sections)
    try:
        loaded = settings_of(given, {**LIVE_ENVIRONMENT, **REPLAY_ENVIRONMENT}, _FLAGS)
    except ConfigurationError as error:
        # Of the rest nobody knows what is meant: only what no setting changes is looked at.
        yield failed("CONFIGURATION", str(error), ExitCode.CONFIGURATION)
        if "machine" in sections:
            yield from installation_checks(needs_server=False)
        return
    config = loaded.config
    hide_secrets(config)
    yield from _configuration(given, loaded)
    if "machine" in sections:
        yield from installation_checks(needs_server=config.nats.url is None)
        yield from host_checks(Host(), config, FEEDS)
        yield from folder_checks(_written(config))
    if "nats" in sections:
        yield from uvloop.run(_all(config))
    if "vendor" in sections:
        yield from vendor_checks(config, login=given.login, needed="live" in named)
    if "data" in sections:
        yield from data_checks(config, needed="replay" in named)


async def _all(config: Config) -> list[CheckResult]:
    return [finding async for finding in server_checks(config)]


def _configuration(given: argparse.Namespace, loaded: Loaded) -> Iterator[CheckResult]:
    origins = sorted(set(loaded.origins.values()))
    text = f"set by {', '.join(origins)}" if origins else "all settings are defaults"
    yield passed("CONFIGURATION", text)
    files = [given.config, *map(os.environ.get, SECRET_FILES)]
    for caution in loaded.cautions:
        named = [file for file in files if file and file in caution]
        # The longest: one name may be a part of another.
        mend = f"chmod 600 {shlex.quote(max(named, key=len))}" if named else ""
        yield warned("SECRETS", caution, mend)


def _written(config: Config) -> list[Path]:
    """Return the folders that a run of this configuration writes to."""
    store = [config.embedded.data_dir] if config.nats.url is None else []
    return store + ([config.record.dir] if config.record.dir is not None else [])


class _Teller:
    """Prints findings as they come, coloured on a terminal."""

    def __init__(self, out: IO[str]) -> None:
        from rich.console import Console  # noqa: PLC0415  (50 ms that --json saves)

        self._console = Console(file=out, highlight=False, soft_wrap=True)

    def __call__(self, finding: CheckResult) -> None:
        from rich.text import Text  # noqa: PLC0415

        line = Text().append(f"{finding.mark:<5}", _STYLES[finding.mark])
        line.append(f"{finding.code:<{_CODE_CHARS}}  ", "bold")
        line.append(logs.plain(finding.found))
        self._print(line, len(f"{'':5}{'':{_CODE_CHARS}}  "))
        if finding.mark in (Mark.OK, Mark.UNKNOWN):
            return
        self._print(Text(f"     right: {finding.right}", "dim"), 12)
        if finding.mend:
            # Not broken: it is to be copied.
            root = "as root: " if finding.as_root else ""
            self._console.print(Text(f"     mend:  {root}").append(finding.mend, "cyan"))

    def _print(self, line: Text, indent: int) -> None:
        """Print a line, on a terminal broken between words and continued below its text."""
        from rich.padding import Padding  # noqa: PLC0415

        console, head, text = self._console, line[:indent], line[indent:]
        if not console.is_terminal or len(line) <= console.width:
            console.print(line)
            return
        if is_narrow := indent > console.width // 2:
            console.print(head)
            indent = 5
        first, *others = text.wrap(console, console.width - indent)
        console.print(Padding(first, (0, 0, 0, indent)) if is_narrow else head.append_text(first))
        for other in others:
            console.print(Padding(other, (0, 0, 0, indent)))


def _summary(findings: Sequence[CheckResult]) -> str:
    counts = {mark: sum(one.mark is mark for one in findings) for mark in Mark}
    told = {
        Mark.OK: "right",
        Mark.WARNING: "could be better",
        Mark.FAILURE: "wrong",
        Mark.UNKNOWN: "not known",
    }
    return ", ".join(f"{counts[mark]} {word}" for mark, word in told.items() if counts[mark])


def _write_script(path: Path, findings: Sequence[CheckResult]) -> ExitCode:
    """Write what mends the findings; returns the exit code."""
    try:
        path.write_text(script(findings, socket.gethostname()))
        path.chmod(0o755)
    except OSError as error:
        logs.complain(PROG, f"{path} cannot be written: {error.strerror}")
        return ExitCode.CONFIGURATION
    sys.stdout.write(f"wrote {path}: read it, then run it\n")
    return ExitCode.OK


def script(findings: Sequence[CheckResult], host: str) -> str:
    """Return a shell script of the commands that mend findings, each below what it mends."""
    lines = [
        "#!/bin/sh",
        f"# What ingestor doctor found on {host} at {iso_utc(now_ns())[:19]}Z, and what mends it.",
        "# Read it first. What needs the rights of root is skipped without them.",
        "set -u",
        'as_root() { [ "$(id -u)" = 0 ] || { echo "needs root: $1" >&2; return 1; }; }',
    ]
    for finding in findings:
        if finding.mark in (Mark.OK, Mark.UNKNOWN) or not finding.mend:
            continue
        lines += ["", f"# {finding.code}: {finding.found}"]
        if finding.mend.startswith(_OF_THE_SHELL):
            lines.append(f"# in the shell that starts the program: {finding.mend}")
        elif finding.as_root:
            lines.append(f"if as_root {finding.code}; then {finding.mend}; fi")
        else:
            lines.append(finding.mend)
    return "\n".join([*lines, ""])


def _section(name: str) -> str:
    if name not in SECTIONS:
        raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(SECTIONS)}")
    return name


def parser() -> argparse.ArgumentParser:
    """Return the parser of ``ingestor doctor``."""
    parser = parser_of(PROG, _ABOUT, _MORE)
    parser.add_argument(
        "sections",
        nargs="*",
        default=[],
        metavar="SECTION",
        type=_section,
        help=f"what to look at, of {', '.join(SECTIONS)} (default: everything)",
    )
    add(parser.add_argument_group("what a run would be told"), _FLAGS)
    how = parser.add_argument_group("how")
    how.add_argument(
        "--login",
        action="store_true",
        default=False,
        help="log in at the vendor: throws out a run that uses the key",
    )
    how.add_argument("--json", action="store_true", default=False, help="print one JSON object")
    how.add_argument(
        "--fix-script",
        metavar="FILE",
        type=Path,
        default=None,
        help="write a shell script of the commands that mend what is wrong",
    )
    return parser
