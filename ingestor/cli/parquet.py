"""A stream's events into Parquet files, one for each event type."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from ingestor.client import Batch, Subscription
from ingestor.client.decode import SUBJECTS
from ingestor.model.errors import ConfigurationError
from ingestor.model.records import overlap

ROWS_AT_ONCE: Final = 65_536
"""A row group: rows are kept until there are so many, or the end comes."""


class ParquetFiles:
    """Writes batches to `path`, or to one file beside it for each type where there may be several.

    Raises ConfigurationError where pyarrow is not installed, or a file is there already.
    """

    def __init__(self, path: Path, subject: str) -> None:
        try:
            self._parquet: Any = import_module("pyarrow.parquet")
            self._arrow: Any = import_module("pyarrow")
        except ImportError as error:
            raise ConfigurationError(
                f"--parquet needs pyarrow: pip install 'ingestor[tables]' ({error})"
            ) from error
        self._path = path
        self._many = sum(overlap(subject, ours) for ours in SUBJECTS) > 1
        self._writers: dict[str, Any] = {}
        self._waiting: dict[str, list[Any]] = {}
        self.rows: dict[Path, int] = {}
        """Rows written by file."""

    def add(self, batch: Batch) -> None:
        """Write a batch, or keep it until there are enough rows."""
        name = batch.event_type.subject
        waiting = self._waiting.setdefault(name, [])
        waiting.append(batch.to_arrow())
        if sum(table.num_rows for table in waiting) >= ROWS_AT_ONCE:
            self._write(name)

    def close(self) -> None:
        """Write what is kept, and finish the files."""
        for name in tuple(self._waiting):
            self._write(name)
        for writer in self._writers.values():
            writer.close()

    def _write(self, name: str) -> None:
        tables = self._waiting.pop(name)
        table = self._arrow.concat_tables(tables)
        path = self._path_of(name)
        if name not in self._writers:
            self._writers[name] = self._parquet.ParquetWriter(_new(path), table.schema)
        self._writers[name].write_table(table)
        self.rows[path] = self.rows.get(path, 0) + table.num_rows

    def _path_of(self, subject: str) -> Path:
        if not self._many:
            return self._path
        kind = subject.removeprefix("market.")
        return self._path.with_name(f"{self._path.stem}.{kind}{self._path.suffix}")


async def write(subscription: Subscription, files: ParquetFiles) -> None:
    """Write what a subscription brings, to its end or to Ctrl-C; then say what was written."""
    try:
        async for batch in subscription.batches():
            files.add(batch)
    finally:
        files.close()
        for path, rows in files.rows.items():
            print(f"{rows:,} rows in {path}", file=sys.stderr)


def _new(path: Path) -> str:
    """Refuse to write over a file."""
    try:
        path.open("xb").close()
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be made: {error.strerror}") from None
    return str(path)
