from __future__ import annotations

from typing import Any

import pytest

from ingestor.feeds.databento.nonsense import nonsense
from ingestor.model.records import Records
from ingestor.model.units import INT64_MAX, UNDEF_PRICE, UNDEF_TIMESTAMP
from tests.dbn_files import depth, records_of, trades


def causes(records: Records) -> dict[str, list[int]]:
    return {cause: mask.nonzero()[0].tolist() for cause, mask in nonsense(records)}


def changed(records: Records, row: int, **values: Any) -> Records:
    for name, value in values.items():
        records[name][row] = value
    return records


@pytest.mark.parametrize("schema", ["trades", "mbp-10"])
def test_sensible_records_have_no_cause(schema: str) -> None:
    assert causes(records_of(schema, 5)) == {}


@pytest.mark.parametrize("schema", ["trades", "mbp-10"])
@pytest.mark.parametrize("name", ["ts_event", "ts_recv"])
@pytest.mark.parametrize("value", [UNDEF_TIMESTAMP, INT64_MAX + 1])
def test_a_time_beyond_int64_makes_no_sense(schema: str, name: str, value: int) -> None:
    records = changed(records_of(schema, 5), 3, **{f"{name}_ns": value})
    assert causes(records) == {f"{name} undefined or out of range": [3]}


def test_a_trade_without_a_price_makes_no_sense() -> None:
    assert causes(changed(trades(5), 2, price_e9=UNDEF_PRICE)) == {"trade without a price": [2]}


def test_a_depth_record_needs_no_price() -> None:
    assert causes(changed(depth(5), 2, price_e9=UNDEF_PRICE)) == {}


def test_prices_below_zero_empty_sizes_and_the_last_time_there_is_are_fine() -> None:
    records = changed(trades(5), 1, price_e9=-37_630_000_000, size=0, ts_event_ns=INT64_MAX)
    assert causes(changed(records, 2, ts_event_ns=0, publisher_id=0)) == {}


def test_a_record_can_have_several_causes() -> None:
    records = changed(trades(2), 0, price_e9=UNDEF_PRICE, ts_recv_ns=UNDEF_TIMESTAMP)
    assert list(causes(records).values()) == [[0], [0]]
