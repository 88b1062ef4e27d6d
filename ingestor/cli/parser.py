"""The parser of every command line."""

from __future__ import annotations

import argparse
import sys
from typing import Any, NoReturn

from ingestor import __version__
from ingestor.model.bounds import without_logins
from ingestor.model.errors import ExitCode


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
        told = without_logins(message)
        self.exit(ExitCode.CONFIGURATION, f"{self.prog}: {told} (see --help)\n")
