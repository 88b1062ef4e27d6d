from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

from ingestor.client.batches import Batch, batches_of
from ingestor.model.errors import ConfigurationError
from ingestor.model.units import UNDEF_PRICE
from tests.client.streams import FIRST_NS, depth, packed, trades
from tests.encode import examples


def batch_of(messages: list[tuple[str, bytes]]) -> Batch:
    frames = [(subject.encode(), b"", payload) for subject, payload in messages]
    (batch,), bad = batches_of(frames, range(1, len(frames) + 1))
    assert not bad
    return batch


def contract(index: int) -> Batch:
    return batch_of([(examples.CONTRACT[index].subject, examples.CONTRACT[index].payload)])


def test_columns_name_symbols_and_mask_what_is_unknown() -> None:
    columns = batch_of(packed(trades(3)) + packed(trades(2, first=3))).columns()
    assert columns["symbol"].tolist() == ["ES.c.0"] * 5
    assert columns["stream_seq"].tolist() == [1, 1, 1, 2, 2]
    assert columns["ts_event_ns"].tolist() == [FIRST_NS + 1000 * n for n in range(5)]
    assert set(columns["side"].tolist()) == {"B"}
    book = contract(4).columns()
    assert book["bid_px_e9_00"].tolist() == [6_869_500_000_000]
    assert book["bid_px_e9_01"].tolist() == [None]
    option = contract(2).columns()
    assert option["opt_bid_e9"].tolist() == option["exchange"].tolist() == [None]
    assert option["symbol"].tolist() == ["O:SPY251216C00686000"]


def test_arrow_has_timestamps_nulls_and_exact_prices() -> None:
    pytest.importorskip("pyarrow")
    table = contract(4).to_arrow()
    (row,) = table.to_pylist()
    assert str(table.schema.field("ts_event_ns").type) == "timestamp[ns, tz=UTC]"
    assert (row["bid_px_e9_00"], row["bid_px_e9_01"]) == (6_869_500_000_000, None)
    assert (row["action"], row["source"], row["sequence"]) == ("A", "replay", 1)
    assert contract(0).to_arrow().to_pylist()[0]["conditions"] == [14, 41]


def test_pandas_keeps_integers_beside_nulls() -> None:
    pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    rows = depth(2)
    rows["levels"]["bid_px_e9"][0, 0] = UNDEF_PRICE
    rows["levels"]["bid_px_e9"][1, 0] = 2**62 + 1
    frame = batch_of(packed(rows)).to_pandas()
    assert frame["bid_px_e9_00"].isna().tolist() == [True, False]
    assert int(frame["bid_px_e9_00"][1]) == 2**62 + 1
    assert int(frame["ts_event_ns"].astype("int64[pyarrow]")[0]) == FIRST_NS


def test_polars_has_the_same_rows() -> None:
    pytest.importorskip("polars")
    pytest.importorskip("pyarrow")
    frame = batch_of(packed(trades(3))).to_polars()
    assert frame["sequence"].to_list() == [0, 1, 2]
    assert frame["ts_event_ns"].dtype.time_unit == "ns"


@pytest.mark.parametrize("how", ["to_arrow", "to_pandas", "to_polars"])
def test_a_library_that_is_missing_is_a_clear_error(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("pyarrow", "pandas", "polars"):
        monkeypatch.setitem(sys.modules, name, None)
    batch: Any = contract(3)
    with pytest.raises(ConfigurationError, match=r"pip install 'ingestor\[tables\]'"):
        getattr(batch, how)()


def test_no_rows_make_no_table_but_columns() -> None:
    batch = contract(3)
    empty = Batch(batch.event_type, batch.records[:0], {}, batch.source, np.zeros(0, np.int64))
    assert {len(values) for values in empty.columns().values()} == {0}
