"""Where DBN files lie: one folder a schema, one file a day.

``DIR/trades/glbx-mdp3-YYYYMMDD.trades.dbn[.zst]`` and
``DIR/MBP-10/glbx-mdp3-YYYYMMDD.mbp-10.dbn[.zst]``, the layout in which Databento delivers batch
downloads. Only listing happens here; nothing is opened.
"""

from __future__ import annotations

import datetime as dt
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from ingestor.errors import NoDataError
from ingestor.feeds.dates import shortened

logger = logging.getLogger(__name__)

DATASET_PREFIX: Final = "glbx-mdp3"
SUFFIXES: Final = (".dbn", ".dbn.zst")
"""In order of preference: the plain file costs no decompression."""


class DbnSchema(StrEnum):
    """The two schemas read here, by Databento's names."""

    TRADES = "trades"
    MBP10 = "mbp-10"

    @property
    def folder(self) -> str:
        """Name of the folder inside the data folder."""
        return _FOLDERS[self]


_FOLDERS: Final = {DbnSchema.TRADES: "trades", DbnSchema.MBP10: "MBP-10"}


@dataclass(frozen=True, slots=True)
class DbnFile:
    """One day's file; `date` is the one in its name, `size` its bytes on disk."""

    path: Path
    date: dt.date
    size: int


def available_dates(data_dir: Path, schema: DbnSchema) -> list[dt.date]:
    """Return the dates that have a file, in order. Raises `NoDataError` without a folder."""
    return sorted(_names_by_date(data_dir, schema))


def find_files(data_dir: Path, schema: DbnSchema, dates: Sequence[dt.date] = ()) -> list[DbnFile]:
    """Return one file a date, in order of date; no dates means every date there is.

    Raises `NoDataError` when a folder is missing, a date has no file or there is none at all.
    """
    folder = data_dir / schema.folder
    names = _names_by_date(data_dir, schema)
    wanted = sorted(set(dates) or names)
    missing = [date for date in wanted if date not in names]
    if missing or not wanted:
        raise NoDataError(_what_is_missing(folder, schema, missing, sorted(names)))
    return [_dbn_file(folder / _preferred(folder, names[date]), date) for date in wanted]


def _names_by_date(data_dir: Path, schema: DbnSchema) -> dict[dt.date, list[str]]:
    names: dict[dt.date, list[str]] = {}
    for name in _listing(data_dir, schema):
        date = _date_in(name, schema)
        if date is not None:
            names.setdefault(date, []).append(name)
    return names


def _listing(data_dir: Path, schema: DbnSchema) -> list[str]:
    folder = data_dir / schema.folder
    if not data_dir.is_dir():
        raise NoDataError(
            f"the data folder {data_dir} does not exist; {schema} files are looked for in {folder}"
        )
    if not folder.is_dir():
        raise NoDataError(
            f"{data_dir} has no folder {schema.folder}; {schema} files are looked for in "
            f"{folder}, named {_pattern(schema)}"
        )
    try:
        return sorted(entry.name for entry in folder.iterdir())
    except OSError as error:
        raise NoDataError(f"the folder {folder} cannot be listed: {error.strerror}") from error


def _date_in(name: str, schema: DbnSchema) -> dt.date | None:
    found = re.fullmatch(rf"{DATASET_PREFIX}-(\d{{8}})\.{schema}\.dbn(\.zst)?", name, re.ASCII)
    if found is None:
        return None
    try:
        return dt.date.fromisoformat(found[1])
    except ValueError:
        return None


def _preferred(folder: Path, names: list[str]) -> str:
    chosen, *others = sorted(names, key=len)
    if others:
        logger.info("%s holds both %s and %s: reading the plain one", folder, chosen, others[0])
    return chosen


def _dbn_file(path: Path, date: dt.date) -> DbnFile:
    try:
        return DbnFile(path, date, path.stat().st_size)
    except OSError as error:
        raise NoDataError(f"{path} cannot be opened: {error.strerror}") from error


def _pattern(schema: DbnSchema, day: str = "YYYYMMDD") -> str:
    return " or ".join(f"{DATASET_PREFIX}-{day}.{schema}{suffix}" for suffix in SUFFIXES)


def _what_is_missing(
    folder: Path, schema: DbnSchema, missing: Sequence[dt.date], there: Sequence[dt.date]
) -> str:
    if not missing:
        return f"{folder} holds no {schema} file: none is named {_pattern(schema)}"
    looked_for = _pattern(schema, f"{missing[0]:%Y%m%d}" if len(missing) == 1 else "YYYYMMDD")
    found = f"dates there are: {shortened(there)}" if there else "there is no file of any date"
    return (
        f"no {schema} file for {shortened(missing)}: looked in {folder} for {looked_for}; {found}"
    )
