"""``ingestor-replay``: arguments in, exit code out."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Final

from ingestor.cli.command_line import (
    FILES,
    LOG,
    REPLAY_ENVIRONMENT,
    REPLAY_HOW,
    REPLAY_WHAT,
    add,
    add_summary,
    parser_of,
    run,
)
from ingestor.config.schema import LIVE_ONLY
from ingestor.runtime.replay_run import ReplayPublisher

_REPLAY_ABOUT: Final = """\
Replay Databento DBN files into NATS JetStream: ES trades and MBP-10 depth, merged into one
stream in the order they happened, with the subjects and schemas of the live feed. With --journal
also what a live run recorded of stocks and options, as it was published then.
"""

_REPLAY_MORE: Final = """\
examples:
  ingestor-replay --demo                         a made-up sample day, into an embedded server
  ingestor-replay --date 2025-12-16 --speed 0    one day, as fast as the server takes it
  ingestor-replay --date 2025-12-16 --speed 1 --start 09:30 --end 16:00 --max-gap 5
  ingestor-replay --journal journal --date 2025-12-16    what ingestor-live --record kept of a day
  ingestor-replay GLBX-20251217-ABCDEFGHIJ/glbx-mdp3-20251216.trades.dbn.zst
  ingestor-replay --config configs/replay.toml --show-config

files:
  DIR/trades/glbx-mdp3-YYYYMMDD.trades.dbn[.zst] and DIR/MBP-10/glbx-mdp3-YYYYMMDD.mbp-10.dbn[.zst],
  or what Databento delivers as it is: folders of batch jobs, files split by day, week, month,
  symbol or size, of any name; a file's header says what it is
  of a journal: DIR/stocks-YYYYMMDD-NNNNNN.journal[.zst] and DIR/options-... (dates in New York)

environment (a flag beats it, it beats the file):
  NATS_URL, REPLAY_SPEED, REPLAY_DATE (comma between dates), DBN_DATA_DIR

exit codes:
  0 done, 2 configuration, 3 no such data, 4 bad data (what was whole is published),
  5 NATS unreachable (worth a restart), 6 NATS refused, 7 stream, 9 a process failed,
  10 embedded server, 11 another run is writing the same subjects, 130 and 143 stopped by a signal
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``ingestor-replay``; returns its exit code."""
    # Files may stand between the flags, as a shell's globs put them.
    given = parser().parse_intermixed_args(arguments)
    return run(
        "ingestor-replay",
        given,
        lambda config: ReplayPublisher(config, demo=given.demo).run(),
        environment=REPLAY_ENVIRONMENT,
        flags=(*FILES, *REPLAY_WHAT, *REPLAY_HOW, *LOG),
        leave_out=LIVE_ONLY,
    )


def parser() -> argparse.ArgumentParser:
    """Return the parser of ``ingestor-replay``; a flag's ``dest`` is the dotted key it sets."""
    parser = parser_of("ingestor-replay", _REPLAY_ABOUT, _REPLAY_MORE)
    what = parser.add_argument_group("what to replay")
    add(what, FILES)
    add(what, REPLAY_WHAT)
    what.add_argument(
        "--demo",
        action="store_true",
        default=False,
        help="replay a made-up sample day, whatever data there is, into a server of its own",
    )
    how = parser.add_argument_group("how")
    add(how, REPLAY_HOW)
    add_summary(how)
    add(parser.add_argument_group("log"), LOG)
    return parser
