"""``python -m ingestor SUBCOMMAND`` is the command ``ingestor``; see `ingestor.cli`."""

from __future__ import annotations

import sys

from ingestor.cli import COMMANDS
from ingestor.runtime.signals import run_program

TYPE_CHECKING = False  # each import delays the moment from which signals are heard
if TYPE_CHECKING:
    from typing import NoReturn


def main() -> NoReturn:
    """Run the subcommand that is asked for, and exit with its code."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name in COMMANDS:
        del sys.argv[1]
        run_program(f"ingestor-{name}", COMMANDS[name][0], "main")
    run_program("ingestor", "ingestor.cli", "main")


if __name__ == "__main__":
    main()
