from __future__ import annotations

import numpy as np
import pytest

from ingestor.model.errors import BadDataError
from ingestor.model.records import (
    LIVE_HEAD,
    MBP10,
    STOCK_QUOTE,
    STOCK_TRADE,
    RType,
    split_by_rtype,
)


def stocks(*rtypes: int) -> np.ndarray[tuple[int], np.dtype[np.void]]:
    rows = np.zeros(len(rtypes), STOCK_TRADE)
    rows["rtype"] = rtypes
    rows["sequence"] = np.arange(len(rtypes))
    return rows


def test_stretches_come_in_order_each_with_its_own_dtype() -> None:
    trade, quote = RType.STOCK_TRADE, RType.STOCK_QUOTE

    stretches = list(split_by_rtype(stocks(trade, trade, quote, trade)))

    assert [(kind.name, rows["sequence"].tolist()) for kind, rows in stretches] == [
        ("StockTrade", [0, 1]),
        ("StockQuote", [2]),
        ("StockTrade", [3]),
    ]
    assert [rows.dtype for _, rows in stretches] == [STOCK_TRADE, STOCK_QUOTE, STOCK_TRADE]


def test_stretches_are_views() -> None:
    rows = stocks(RType.STOCK_QUOTE)

    ((_, quotes),) = split_by_rtype(rows)
    quotes["bid_sz"] = 7

    assert rows.view(STOCK_QUOTE)["bid_sz"].tolist() == [7]


def test_no_records_have_no_stretches() -> None:
    assert list(split_by_rtype(np.zeros(0, MBP10))) == []


@pytest.mark.parametrize("rtype", [0x55, RType.OPTION_TRADE])
def test_an_rtype_of_another_size_or_none_is_refused(rtype: int) -> None:
    with pytest.raises(BadDataError, match="in 64 bytes"):
        list(split_by_rtype(stocks(rtype)))


def test_records_shorter_than_their_rtype_says_are_refused() -> None:
    rows = np.zeros(1, LIVE_HEAD)
    rows["rtype"] = RType.STOCK_TRADE

    with pytest.raises(BadDataError, match="0xe0 in 32 bytes"):
        list(split_by_rtype(rows))
