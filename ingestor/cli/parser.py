"""The parser of every command line."""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from typing import Any, Final, NoReturn

from ingestor import __version__
from ingestor.model.bounds import without_logins
from ingestor.model.errors import ExitCode

_UNKNOWN: Final = re.compile(r"unrecognized arguments: (.*)").search
_NO_CHOICE: Final = re.compile(r"invalid choice: '(.*?)' \(choose from (.*)\)").search


class Parser(argparse.ArgumentParser):
    """Keeps the lines of its texts, and ends with our exit code for a wrong command line."""

    def __init__(
        self, prog: str, about: str, more: str, *, version: bool = True, **options: Any
    ) -> None:
        super().__init__(
            prog=prog,
            description=about,
            epilog=more,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            # A script that abbreviates a flag breaks when another one begins as it does.
            allow_abbrev=False,
            **options,
        )
        if version:
            self.add_argument("--version", action="version", version=f"%(prog)s {__version__}")

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, and end; a mistyped flag may have a URL with a password behind it."""
        self.print_usage(sys.stderr)
        told = f"{without_logins(message)}{self._meant(message)}"
        self.exit(ExitCode.CONFIGURATION, f"{self.prog}: {told} (see --help)\n")

    def _meant(self, message: str) -> str:
        """Guess the flag or the choice that a mistyped word was to be."""
        words, known = [], list(self._option_string_actions)
        if found := _UNKNOWN(message):
            words = [word.partition("=")[0] for word in found[1].split() if word.startswith("-")]
        elif found := _NO_CHOICE(message):
            words, known = [found[1]], re.findall(r"[\w-]+", found[2])
        near = [one for word in words for one in difflib.get_close_matches(word, known, 1)]
        return f"; did you mean {', '.join(near)}?" if near else ""
