"""Makes a realistic ES day on disk, as the vendor would deliver it.

    python -m ingestor.sim.sample_day --out dbn-data --date 2025-12-16 --events 1_000_000

writes ``trades/glbx-mdp3-20251216.trades.dbn.zst`` and the MBP-10 file of the same date, with
`symbology.json` beside each. The records are invented, but every rule of a real file holds: see
`ingestor.sim.day` for what happens in the day, `ingestor.sim.book` for why the book is always
right.

A file is the vendor's header and records, each a zstd frame of its own. It is written under another
name (its own with ``.partial-`` and the process id) and renamed when it is complete, so a name that
looks like data always holds a whole file. `symbology.json` says what the headers of the files
beside it say, for every date that has been written.

The same date, seed and size give the same bytes on every machine (uncompressed; compressed ones
also depend on the version of zstd): all chance is raw PCG64 output, whose stream NumPy
guarantees, and all arithmetic is on integers.
"""

from __future__ import annotations

import argparse
import datetime as dt
import errno
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO, Final

import numpy as np
import zstandard
from databento_dbn import DBNError, Metadata, Schema, SType
from rich.console import Console
from rich.progress import Progress

from ingestor.model.errors import BadDataError, ConfigurationError, ExitCode, IngestorError
from ingestor.model.records import FUTURES_TRADE, MBP10, Records, RType, as_bytes_matrix
from ingestor.model.units import to_ns
from ingestor.sim.day import day_records
from ingestor.sim.script import INSTRUMENT_ID

DBN_VERSION: Final = 3
DATASET: Final = "GLBX.MDP3"
COMPRESSED_SUFFIX: Final = ".zst"
SYMBOLOGY_NAME: Final = "symbology.json"

_ZSTD_LEVEL: Final = 1
"""Level 3 costs half as much time again, and saves two percent."""

_HEADER_LENGTH: Final = slice(4, 8)
_HEADER_START_BYTES: Final = 8
_HEADER_MAX_BYTES: Final = 65_536


@dataclass(frozen=True, slots=True)
class SymbolMapping:
    """The instrument that a symbol stands for on one UTC date."""

    symbol: str
    instrument_id: int
    date: dt.date

    @property
    def next_date(self) -> dt.date:
        """The end of the interval, not part of it."""
        return self.date + dt.timedelta(days=1)


def encode_header(schema: str, mapping: SymbolMapping) -> bytes:
    """Return the DBN metadata of a day's file; `schema` is ``trades`` or ``mbp-10``."""
    interval = SimpleNamespace(
        start_date=mapping.date, end_date=mapping.next_date, symbol=str(mapping.instrument_id)
    )
    mappings: Any = [SimpleNamespace(raw_symbol=mapping.symbol, intervals=[interval])]
    start, end = (
        to_ns(dt.datetime.combine(date, dt.time(), tzinfo=dt.UTC))
        for date in (mapping.date, mapping.next_date)
    )
    metadata = Metadata(
        dataset=DATASET,
        start=start,
        end=end,
        stype_in=SType.from_str("continuous"),
        stype_out=SType.from_str("instrument_id"),
        schema=Schema.from_str(schema),
        symbols=[mapping.symbol],
        mappings=mappings,
        version=DBN_VERSION,
    )
    return bytes(metadata)


@contextmanager
def open_new(path: Path, header: bytes) -> Iterator[BinaryIO]:
    """Open a DBN file for its records; it gets its name when the block ends without error."""
    # Two runs into one folder must not write into each other's file.
    partial = path.with_name(f"{path.name}.partial-{os.getpid()}")
    try:
        with partial.open("wb") as file, _after_header(file, header, path.suffix) as sink:
            yield sink
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def _after_header(file: BinaryIO, header: bytes, suffix: str) -> Iterator[BinaryIO]:
    if suffix != COMPRESSED_SUFFIX:
        file.write(header)
        yield file
        return
    compressor = zstandard.ZstdCompressor(level=_ZSTD_LEVEL, write_checksum=True)
    # A frame of its own, as the vendor's files have it: readers must cope with several frames.
    file.write(compressor.compress(header))
    with compressor.stream_writer(file, closefd=False) as sink:
        yield sink


def refuse_foreign(path: Path, instrument_id: int) -> None:
    """Check that a path is free or holds a file for the same made-up instrument.

    Raises:
        ConfigurationError: real data is there, or something that is no DBN file.
    """
    if path.exists() and _instruments(path) != {str(instrument_id)}:
        raise ConfigurationError(
            f"{path} exists and is not a sample file; it is left alone, choose another folder"
        )


def _instruments(path: Path) -> set[str]:
    try:
        with path.open("rb") as file:
            start = _first_bytes(file, path.suffix)
        length = int.from_bytes(start[_HEADER_LENGTH], "little") + _HEADER_START_BYTES
        mappings = Metadata.decode(start[:length]).mappings
    except (DBNError, zstandard.ZstdError):
        return set()
    return {interval["symbol"] for intervals in mappings.values() for interval in intervals}


def _first_bytes(file: BinaryIO, suffix: str) -> bytes:
    if suffix != COMPRESSED_SUFFIX:
        return file.read(_HEADER_MAX_BYTES)
    with zstandard.ZstdDecompressor().stream_reader(file) as plain:
        return plain.read(_HEADER_MAX_BYTES)


def write_symbology(folder: Path, mapping: SymbolMapping) -> None:
    """Enter a mapping into a folder's ``symbology.json``, in the vendor's layout.

    Dates and symbols that are in it already stay. Raises `BadDataError` if it is not readable.
    """
    path = folder / SYMBOLOGY_NAME
    known = _read_symbology(path) if path.exists() else {}
    result: dict[str, list[dict[str, str]]] = known.get("result", {})
    own = {
        "d0": mapping.date.isoformat(),
        "d1": mapping.next_date.isoformat(),
        "s": str(mapping.instrument_id),
    }
    others = [entry for entry in result.get(mapping.symbol, []) if entry["d0"] != own["d0"]]
    result[mapping.symbol] = sorted([*others, own], key=lambda entry: entry["d0"])
    entries = [entry for intervals in result.values() for entry in intervals]
    symbology = {
        "result": result,
        "symbols": sorted(result),
        "stype_in": "continuous",
        "stype_out": "instrument_id",
        "start_date": min(entry["d0"] for entry in entries),
        "end_date": max(entry["d1"] for entry in entries),
        "partial": [],
        "not_found": [],
        "message": "OK",
        "status": 0,
    }
    partial = path.with_name(f"{path.name}.partial-{os.getpid()}")
    # Replaced as a whole: a replay that reads it meanwhile sees the old or the new one.
    partial.write_text(json.dumps(symbology, indent=4) + "\n")
    partial.replace(path)


def _read_symbology(path: Path) -> dict[str, Any]:
    try:
        known: dict[str, Any] = json.loads(path.read_text())
        # Raises AttributeError for JSON that is no table.
        known.get("result", {}).values()
    except (ValueError, AttributeError) as error:
        raise BadDataError(f"{path} is not a symbology file: {error}") from error
    return known


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
        trades = _write(paths, mapping, seed, depth_events, progress)
        # The other form of an earlier sample would be a second delivery of the same day.
        for path in _paths(data_dir, date, "" if compress else COMPRESSED_SUFFIX):
            path.unlink(missing_ok=True)
        for path in paths:
            write_symbology(path.parent, mapping)
        sizes = [path.stat().st_size for path in paths]
    except OSError as error:
        # A full disk is no wrong setting: a supervisor may try again when there is room.
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
        kind = IngestorError if full else ConfigurationError
        raise kind(f"cannot write a sample day to {data_dir}: {error}") from error
    return SampleDay(*paths, trades, depth_events, *sizes)


def _check_range(name: str, value: int, lowest: int, highest: int) -> None:
    if not lowest <= value <= highest:
        raise ConfigurationError(f"{name} is {value}; allowed is {lowest} to {highest}")


def _paths(data_dir: Path, date: dt.date, suffix: str) -> tuple[Path, Path]:
    stem = f"glbx-mdp3-{date:%Y%m%d}"
    return (
        data_dir / "trades" / f"{stem}.trades.dbn{suffix}",
        data_dir / "MBP-10" / f"{stem}.mbp-10.dbn{suffix}",
    )


def _write(
    paths: tuple[Path, Path],
    mapping: SymbolMapping,
    seed: int,
    depth_events: int,
    progress: Callable[[int], None] | None,
) -> int:
    """Write both files and return the number of trades."""
    headers = [encode_header(schema, mapping) for schema in ("trades", "mbp-10")]
    rows = trades = 0
    with open_new(paths[0], headers[0]) as trade_file, open_new(paths[1], headers[1]) as file:
        for records in day_records(mapping.date, seed, depth_events):
            traded = trades_of(records)
            trade_file.write(as_bytes_matrix(traded).data)
            file.write(as_bytes_matrix(records).data)
            rows, trades = rows + len(records), trades + len(traded)
            if progress:
                progress(rows)
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


_EXAMPLES: Final = """examples:
  --out dbn-data --date 2025-12-16                    a small day, in a second
  --out dbn-data --date 2025-12-16 --events 5_000_000 a dense one
  --out /tmp/big --date 2025-12-16 --size 10GB --plain  as large as real ones get

Files lie where the replay looks: bin/ingestor-replay --data-dir OUT --date DATE.
Running it again replaces what it wrote; real DBN files are never replaced."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ingestor.sim.sample_day",
        description="Make a realistic ES day (trades and MBP-10, DBN files as Databento's).",
        epilog=_EXAMPLES,
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
    print(
        f"wrote {day.depth_events:,} MBP-10 records ({day.depth_bytes / 1e6:,.1f} MB) to "
        f"{day.depth_path} and {day.trades:,} trades ({day.trades_bytes / 1e6:,.1f} MB) to "
        f"{day.trades_path}"
    )
    return ExitCode.OK


if __name__ == "__main__":
    sys.exit(main())
