"""``ingestor completion``: what a shell needs to complete the command line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Final

import shtab

from ingestor.cli import COMMANDS
from ingestor.cli.parser import Parser
from ingestor.doctor import SECTIONS
from ingestor.model.errors import ExitCode

_ABOUT: Final = """\
Print a script that makes a shell complete subcommands, flags, values and files, of this command and
of its short forms (ingestor-live and so on).
"""

_MORE: Final = """\
examples:
  source <(ingestor completion bash)             in this shell; into ~/.bashrc for every one
  ingestor completion zsh > ~/.zfunc/_ingestor   with ~/.zfunc in fpath, before compinit
"""

SHORT_FORMS: Final = ("live", "replay", "tail", "nats", "sim", "bench")
_FILES: Final = {"FILE": shtab.FILE, "PEM": shtab.FILE, "DIR": shtab.DIRECTORY}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``ingestor completion``; returns its exit code."""
    given = parser().parse_args(arguments)
    scripts = [shtab.complete(whole_parser(), given.shell)]
    # A file of zsh's completes one command.
    if given.shell == "bash":
        for name in SHORT_FORMS:
            made = parser_of_subcommand(name)
            made.prog = f"ingestor-{name}"
            scripts.append(shtab.complete(made, given.shell))
    sys.stdout.write("\n".join(scripts))
    return ExitCode.OK


def parser() -> Parser:
    """Return the parser of ``ingestor completion``."""
    made = Parser("ingestor-completion", _ABOUT, _MORE)
    made.add_argument("shell", choices=("bash", "zsh"), help="which shell")
    return made


def whole_parser() -> argparse.ArgumentParser:
    """Return one parser of all subcommands, for completion alone."""
    made = argparse.ArgumentParser("ingestor")
    made.add_argument("--version", action="store_true", help="print the version")
    subcommands = made.add_subparsers(parser_class=argparse.ArgumentParser)
    for name, (_, about) in COMMANDS.items():
        subcommands.add_parser(name, help=about)
        subcommands.choices[name] = parser_of_subcommand(name)
        subcommands.choices[name].prog = f"ingestor {name}"
    return made


def parser_of_subcommand(name: str) -> argparse.ArgumentParser:
    """Return a subcommand's parser, with what completes its values."""
    made: argparse.ArgumentParser = import_module(COMMANDS[name][0]).parser()
    for action in made._actions:
        metavar = action.metavar if isinstance(action.metavar, str) else ""
        if metavar in _FILES:
            action.complete = _FILES[metavar]  # type: ignore[attr-defined]
        elif metavar == "SECTION":
            action.choices = list(SECTIONS)
        # A choice that the configuration checks is written json|packed.
        elif "|" in metavar and action.choices is None:
            action.choices = metavar.split("|")
    return made
