"""Makes a realistic ES day on disk, as the vendor would deliver it.

    python -m ingestor.sim.sample_day --out dbn-data --date 2025-12-16 --events 1_000_000

writes ``trades/glbx-mdp3-20251216.trades.dbn.zst`` and the MBP-10 file of the same date, with
`symbology.json` beside each. The records are invented, but every rule of a real file holds: see
`ingestor.sim.day` for what happens in the day, `ingestor.sim.book` for why the book is always
right, `ingestor.sim.day_hours` for when it happens.

The same date, seed and size give the same bytes on every machine (uncompressed; compressed ones
also depend on the version of zstd): all chance is raw PCG64 output, whose stream NumPy
guarantees, and all arithmetic is on integers.
"""

from __future__ import annotations

import argparse
import datetime as dt
import errno
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from rich.console import Console
from rich.progress import Progress

from ingestor.model.errors import ConfigurationError, ExitCode, IngestorError
from ingestor.model.records import FUTURES_TRADE, MBP10, Records, RType, as_bytes_matrix
from ingestor.sim.day import day_records
from ingestor.sim.dbn_writer import (
    COMPRESSED_SUFFIX,
    SymbolMapping,
    encode_header,
    open_new,
    refuse_foreign,
    write_symbology,
)
from ingestor.sim.script import INSTRUMENT_ID

SYMBOL: Final = "ES.c.0"
DEFAULT_DEPTH_EVENTS: Final = 200_000
MIN_DEPTH_EVENTS: Final = 1_000
MAX_DEPTH_EVENTS: Final = 100_000_000
"""37 GB; the sequence of such a day still fits its 32 bits."""


@dataclass(frozen=True, slots=True)
class SampleDay:
    """What was written; sizes are those on disk."""

    trades_path: Path
    depth_path: Path
    trades: int
    depth_events: int
    trades_bytes: int
    depth_bytes: int


def write_sample_day(
    data_dir: Path,
    date: dt.date,
    *,
    depth_events: int = DEFAULT_DEPTH_EVENTS,
    seed: int = 0,
    compress: bool = True,
    progress: Callable[[int], None] | None = None,
) -> SampleDay:
    """Write the trades and the MBP-10 file of a date under `data_dir`.

    Files of an earlier sample of the date are replaced, real ones never.

    Args:
        data_dir: folder that gets ``trades/`` and ``MBP-10/``; made if need be.
        date: UTC date of the files; every date is treated as a weekday.
        depth_events: number of MBP-10 records, trades included.
        seed: not negative; another seed is another day.
        compress: write ``.dbn.zst`` rather than ``.dbn``.
        progress: called with the number of MBP-10 records written so far.

    Raises:
        ConfigurationError: `depth_events` or `seed` out of range, real data is in the way, or the
            folder cannot be written to.
        IngestorError: the disk is full or broken.
    """
    _check_range("depth_events", depth_events, MIN_DEPTH_EVENTS, MAX_DEPTH_EVENTS)
    _check_range("seed", seed, 0, 2**64 - 1)
    mapping = SymbolMapping(SYMBOL, INSTRUMENT_ID, date)
    try:
        for path in _paths(data_dir, date, "") + _paths(data_dir, date, COMPRESSED_SUFFIX):
            refuse_foreign(path, INSTRUMENT_ID)
            path.parent.mkdir(parents=True, exist_ok=True)
        paths = _paths(data_dir, date, COMPRESSED_SUFFIX if compress else "")
        trades = _write(paths, mapping, _Content(seed, depth_events, progress))
        for path in _paths(data_dir, date, "" if compress else COMPRESSED_SUFFIX):
            path.unlink(missing_ok=True)
        for path in paths:
            write_symbology(path.parent, mapping)
        sizes = [path.stat().st_size for path in paths]
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
        kind = IngestorError if full else ConfigurationError
        raise kind(f"cannot write a sample day to {data_dir}: {error}") from error
    return SampleDay(*paths, trades, depth_events, *sizes)


@dataclass(frozen=True, slots=True)
class _Content:
    seed: int
    depth_events: int
    progress: Callable[[int], None] | None


def _check_range(name: str, value: int, lowest: int, highest: int) -> None:
    if not lowest <= value <= highest:
        raise ConfigurationError(f"{name} is {value}; allowed is {lowest} to {highest}")


def _paths(data_dir: Path, date: dt.date, suffix: str) -> tuple[Path, Path]:
    stem = f"glbx-mdp3-{date:%Y%m%d}"
    return (
        data_dir / "trades" / f"{stem}.trades.dbn{suffix}",
        data_dir / "MBP-10" / f"{stem}.mbp-10.dbn{suffix}",
    )


def _write(paths: tuple[Path, Path], mapping: SymbolMapping, content: _Content) -> int:
    """Write both files and return the number of trades."""
    headers = [encode_header(schema, mapping) for schema in ("trades", "mbp-10")]
    rows = trades = 0
    with open_new(paths[0], headers[0]) as trade_file, open_new(paths[1], headers[1]) as file:
        for records in day_records(mapping.date, content.seed, content.depth_events):
            traded = trades_of(records)
            trade_file.write(as_bytes_matrix(traded).data)
            file.write(as_bytes_matrix(records).data)
            rows, trades = rows + len(records), trades + len(traded)
            if content.progress:
                content.progress(rows)
    return trades


def trades_of(records: Records) -> Records:
    """Return the trades among MBP-10 records as trade records."""
    rows = records[records["action"] == ord("T")]
    trades: Records = np.empty(len(rows), FUTURES_TRADE)
    for name in FUTURES_TRADE.names or ():
        trades[name] = rows[name]
    trades["length"] = FUTURES_TRADE.itemsize // 4
    trades["rtype"] = RType.FUTURES_TRADE
    return trades


_SIZE_UNITS: Final = {"KB": 10**3, "MB": 10**6, "GB": 10**9}


def _events(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number like 1_000_000") from None


def _events_of_size(text: str) -> int:
    number, unit = text[:-2], text[-2:].upper()
    try:
        return int(float(number) * _SIZE_UNITS[unit]) // MBP10.itemsize
    except (ValueError, KeyError, OverflowError):
        raise argparse.ArgumentTypeError(f"{text!r} is not a size like 500MB or 2GB") from None


def _date(text: str) -> dt.date:
    try:
        return dt.date.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a date like 2025-12-16") from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ingestor.sim.sample_day",
        description="Make a realistic ES day (trades and MBP-10, DBN files as Databento's).",
        epilog="""examples:
  --out dbn-data --date 2025-12-16                    a small day, in a second
  --out dbn-data --date 2025-12-16 --events 5_000_000 a dense one
  --out /tmp/big --date 2025-12-16 --size 10GB --plain  as large as real ones get

Files lie where the replay looks: bin/ingestor-replay --data-dir OUT --date DATE.
Running it again replaces what it wrote; real DBN files are never replaced.""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="data folder")
    parser.add_argument(
        "--date", type=_date, required=True, metavar="YYYY-MM-DD", help="UTC date of the files"
    )
    size = parser.add_mutually_exclusive_group()
    size.add_argument(
        "--events",
        type=_events,
        default=DEFAULT_DEPTH_EVENTS,
        metavar="N",
        help=f"number of MBP-10 records, trades included (default {DEFAULT_DEPTH_EVENTS:_}, "
        f"{MIN_DEPTH_EVENTS:_} to {MAX_DEPTH_EVENTS:_})",
    )
    size.add_argument(
        "--size",
        dest="events",
        type=_events_of_size,
        metavar="SIZE",
        help="uncompressed size of the MBP-10 file instead: 500MB, 2GB (1 GB is 10^9 bytes)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="another seed is another day (default 0)"
    )
    parser.add_argument("--plain", action="store_true", help="write .dbn, not .dbn.zst")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    arguments = _parser().parse_args(argv)
    console = Console(stderr=True)
    try:
        with Progress(console=console, disable=not console.is_terminal, transient=True) as bar:
            task = bar.add_task(f"ES {arguments.date}", total=arguments.events)
            day = write_sample_day(
                arguments.out,
                arguments.date,
                depth_events=arguments.events,
                seed=arguments.seed,
                compress=not arguments.plain,
                progress=lambda rows: bar.update(task, completed=rows),
            )
    except IngestorError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted, nothing was written", file=sys.stderr)
        return ExitCode.INTERRUPTED
    print(_summary(day))
    return ExitCode.OK


def _summary(day: SampleDay) -> str:
    return (
        f"wrote {day.depth_events:,} MBP-10 records ({day.depth_bytes / 1e6:,.1f} MB) to "
        f"{day.depth_path} and {day.trades:,} trades ({day.trades_bytes / 1e6:,.1f} MB) to "
        f"{day.trades_path}"
    )


if __name__ == "__main__":
    sys.exit(main())
