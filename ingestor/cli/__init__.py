"""What a person types: one parser, one subcommand a module, what is printed, exit codes.

Here is the command ``ingestor``: its subcommands, and what it says when none of them is meant.
A new subcommand is a module with a function `main(arguments)` that returns the exit code, and its
line below. Nothing is imported here but what the one that is asked for needs.
"""

from __future__ import annotations

import ingestor.runtime  # noqa: F401 (before NumPy: see there)

TYPE_CHECKING = False  # each import delays the moment from which signals are heard
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Final

COMMANDS: Final = {
    "live": ("ingestor.cli.live", "publish Polygon's live feeds: stocks, and options around them"),
    "replay": ("ingestor.cli.replay", "replay recorded days into the stream, paced or not"),
    "tail": ("ingestor.cli.tail", "print the events of a stream, readably, as they come"),
    "top": (
        "ingestor.cli.top",
        "show a run in the terminal: rates, fills, latencies, what is wrong",
    ),
    "ctl": ("ingestor.cli.ctl", "pause a running replay, change its speed, step through it"),
    "nats": ("ingestor.cli.nats", "run the embedded NATS server in the foreground"),
    "verify": ("ingestor.cli.verify", "compare a stream with the files or journal it came from"),
    "days": ("ingestor.cli.days", "list the days of data that there are, and what a stream holds"),
    "runs": ("ingestor.cli.runs", "list the runs that have written to a server's streams"),
    "doctor": ("ingestor.cli.doctor", "look at all that a run needs, and say what mends it"),
    "completion": ("ingestor.cli.completion", "print what a shell needs to complete commands"),
    "sim": ("ingestor.sim.polygon.__main__", "simulate the Polygon feeds on loopback"),
    "bench": ("ingestor.cli.bench", "measure a replay on this machine"),
    "schema": ("ingestor.encode.schemas", "print the JSON Schemas of the events"),
}
"""Name to the module whose `main` it is, and one line about it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Show what there is; ends with exit code 2 for a word that is no subcommand."""
    import difflib  # noqa: PLC0415
    import sys  # noqa: PLC0415

    from ingestor.cli.parser import Parser  # noqa: PLC0415

    width = max(map(len, COMMANDS))
    listed = "\n".join(f"  {name:<{width}}  {about}" for name, (_, about) in COMMANDS.items())
    parser = Parser(
        "ingestor",
        "Market data in, canonical events in NATS JetStream out.",
        f"subcommands:\n{listed}\n\ningestor SUBCOMMAND --help says more about each.\n",
        usage="ingestor [-h] [--version] SUBCOMMAND ...",
    )
    words = sys.argv[1:] if arguments is None else list(arguments)
    if words[:1] and words[0].startswith("-"):
        parser.parse_args(words[:1])
    if words:
        near = difflib.get_close_matches(words[0], COMMANDS, 1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(COMMANDS)}"
        parser.error(f"there is no subcommand {words[0]!r}; {hint}")
    parser.print_help()
    return 0
