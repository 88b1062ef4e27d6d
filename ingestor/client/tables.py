"""Batches as tables of pyarrow, pandas and polars, each of which is imported when asked for.

Prices stay int64 of 1e-9, as exact as the records; divide by 1e9 where doubles will do.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from ingestor.model.blocks import Source
from ingestor.model.errors import ConfigurationError
from ingestor.model.records import LEVELS, UNDEF_EXCHANGE, UNDEF_SEQUENCE, EventType, Records, RType
from ingestor.model.symbols import SymbolTable, symbol_of
from ingestor.model.units import UNDEF_PRICE

_LETTERS: Final = ("action", "side")
_TIMES: Final = ("ts_event_ns", "ts_recv_ns")
_LEFT_OUT: Final = ("length", "rtype", "reserved", "levels", "conditions", "n_conditions")
_EXCHANGES: Final = ("exchange", "bid_exch", "ask_exch")


class Table(Protocol):
    """What a batch holds (`ingestor.client.Batch`)."""

    @property
    def event_type(self) -> EventType:
        """Type of all records."""

    @property
    def records(self) -> Records:
        """Array of the type's dtype."""

    @property
    def symbols(self) -> SymbolTable:
        """Symbol by instrument_id."""

    @property
    def source(self) -> Source:
        """The envelope's source."""

    @property
    def seqs(self) -> npt.NDArray[np.int64]:
        """Stream sequence of each record's message."""


def columns_of(table: Table) -> dict[str, Any]:
    """Return one masked array a field, as `Batch.columns` says."""
    records = table.records
    columns: dict[str, Any] = {"stream_seq": np.ma.array(table.seqs)}
    columns["source"] = np.ma.array(np.full(len(records), table.source.value))
    columns["symbol"] = np.ma.array(_symbols(table))
    for name in records.dtype.names or ():
        if name not in _LEFT_OUT:
            columns[name] = _masked(name, records[name], table.event_type)
    if "conditions" in (records.dtype.names or ()):
        columns["conditions"] = np.ma.array(
            records["conditions"],
            mask=np.arange(records["conditions"].shape[1]) >= records["n_conditions"][:, None],
        )
    if "levels" in (records.dtype.names or ()):
        for level in range(LEVELS):
            for name in records["levels"].dtype.names or ():
                values = records["levels"][name][:, level]
                columns[f"{name}_{level:02}"] = _masked(name, values, table.event_type)
    return columns


def arrow_of(table: Table) -> Any:
    """Return a pyarrow table. Raises ConfigurationError where pyarrow is missing."""
    pa = _imported("pyarrow")
    columns = {}
    for name, values in columns_of(table).items():
        mask = np.ma.getmaskarray(values)
        if name in _TIMES:
            times = values.filled(0).astype(np.int64)
            columns[name] = pa.array(times, pa.timestamp("ns", "UTC"), mask=mask)
        elif values.ndim > 1:
            rows = [row[~hidden].tolist() for row, hidden in zip(values.data, mask, strict=True)]
            columns[name] = pa.array(rows, pa.list_(pa.uint16()))
        else:
            columns[name] = pa.array(np.ascontiguousarray(values.data), mask=mask)
    return pa.table(columns)


def pandas_of(table: Table) -> Any:
    """Return a pandas frame. Raises ConfigurationError where pandas or pyarrow is missing."""
    pandas = _imported("pandas")
    return arrow_of(table).to_pandas(types_mapper=pandas.ArrowDtype)


def polars_of(table: Table) -> Any:
    """Return a polars frame. Raises ConfigurationError where polars or pyarrow is missing."""
    return _imported("polars").from_arrow(arrow_of(table))


def _imported(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise ConfigurationError(
            f"this needs {name}: pip install 'ingestor[tables]' ({error})"
        ) from error


def _symbols(table: Table) -> npt.NDArray[Any]:
    ids, rows = np.unique(table.records["instrument_id"], return_inverse=True)
    return np.array([symbol_of(table.symbols, number) for number in ids.tolist()])[rows]


def _masked(name: str, values: npt.NDArray[Any], kind: EventType) -> Any:
    if name in _LETTERS:
        return np.ma.array(np.ascontiguousarray(values).view("S1").astype("U1"), mask=values == 0)
    if name.endswith("_e9"):
        return np.ma.array(values, mask=values == UNDEF_PRICE)
    if name in _EXCHANGES:
        return np.ma.array(values, mask=values == UNDEF_EXCHANGE)
    if name == "sequence" and kind.rtype not in (RType.FUTURES_TRADE, RType.MBP10):
        return np.ma.array(values, mask=values == np.uint64(UNDEF_SEQUENCE))
    return np.ma.array(values)
