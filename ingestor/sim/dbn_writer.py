"""Writes DBN files as the vendor does: header and records, each a zstd frame of its own.

A file is written under another name (its own with ``.partial-`` and the process id) and renamed
when it is complete, so a name that looks like data always holds a whole file. `symbology.json`
beside the files says the same as their headers, for every date that has been written.
"""

from __future__ import annotations

import datetime as dt
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO, Final

import zstandard
from databento_dbn import DBNError, Metadata, Schema, SType

from ingestor.model.clock import to_ns
from ingestor.model.errors import BadDataError, ConfigurationError

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
    partial.write_text(json.dumps(symbology, indent=4) + "\n")
    partial.replace(path)


def _read_symbology(path: Path) -> dict[str, Any]:
    try:
        known: dict[str, Any] = json.loads(path.read_text())
        known.get("result", {}).values()
    except (ValueError, AttributeError) as error:
        raise BadDataError(f"{path} is not a symbology file: {error}") from error
    return known
