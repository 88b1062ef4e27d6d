"""Bars as candles in a terminal."""

from __future__ import annotations

import pytest
from rich.console import Console, RenderableType

from ingestor.cli.tables import CANDLE_ROWS, MAX_PLOTS, VOLUME_ROWS, Bar, BarPlots, Bars, plot
from ingestor.model.units import NS_PER_S
from tests.cli.test_tables import trade

MINUTE = 60 * NS_PER_S
OPEN_NS = 1_765_895_400 * NS_PER_S


def bar(number: int, *prices: float, volume: int = 1) -> Bar:
    """A bar of these: open, high, low, close."""
    first, high, low, close = prices
    return Bar("SPY", OPEN_NS + number * MINUTE, first, high, low, close, volume, 1)


def lines(*bars: Bar, columns: int = 80) -> list[str]:
    return [line.plain for line in plot(bars, columns)]


def drawn(picture: RenderableType, columns: int) -> list[str]:
    console = Console(width=columns, color_system=None)
    with console.capture() as captured:
        console.print(picture)
    return captured.get().splitlines()


def column(drawn_: list[str], number: int) -> str:
    """One bar from its highest row to its lowest, and its volume."""
    margin = drawn_[1].index("11") + len("11 ")
    return "".join(f"{line:<80}"[margin + number] for line in drawn_[1:-1])


def test_a_candle_is_thick_between_open_and_close_and_thin_to_high_and_low() -> None:
    found = lines(bar(0, 2.0, 11.0, 0.0, 9.0, volume=4), bar(1, 11.0, 11.0, 11.0, 11.0))
    wick_and_body, dash = column(found, 0), column(found, 1)
    assert wick_and_body[:CANDLE_ROWS].strip("│╽╿┃") == ""
    assert wick_and_body[0] == wick_and_body[CANDLE_ROWS - 1] == "│"
    assert wick_and_body[CANDLE_ROWS // 2] == "┃"
    assert dash[:CANDLE_ROWS].strip() == "╹"
    assert wick_and_body[CANDLE_ROWS:] == "██"
    assert dash[CANDLE_ROWS:] == " ▄"


def test_prices_and_times_stand_at_the_edges() -> None:
    found = lines(bar(0, 686.0, 687.5, 685.25, 686.5), bar(1, 686.5, 686.5, 686.5, 686.5))
    assert len(found) == 1 + CANDLE_ROWS + VOLUME_ROWS + 1
    assert found[0] == "SPY  686.5  2 bars"
    assert found[1].startswith(" 687.5 ")
    assert found[CANDLE_ROWS].startswith("685.25 ")
    assert found[-1] == "2025-12-16 14:30 to 2025-12-16 14:31 UTC"
    (*_, wide) = lines(bar(0, 686.0, 686.0, 686.0, 686.0), columns=120)
    both = "2025-12-16 14:30:00 UTC (09:30:00 New York)"
    assert wide == f"    {both} to {both}"


@pytest.mark.parametrize("columns", [40, 80, 160])
def test_no_line_is_wider_than_the_terminal_and_the_last_bars_are_shown(columns: int) -> None:
    bars = [
        bar(number, 686.0, 687.0 + number, 685.0, 686.25, volume=number) for number in range(390)
    ]
    found = lines(*bars, columns=columns)
    assert max(map(len, found)) <= columns
    assert len(found[1]) == columns
    assert found[0].startswith("SPY  686.25  last ")
    assert "of 390 bars" in found[0]
    assert "UTC" in found[-1]
    assert len(drawn(BarPlots(Bars(MINUTE)).picture(columns), columns)) == 1


def test_a_single_price_is_a_line_of_its_own_and_divides_by_nothing() -> None:
    found = lines(bar(0, 5.0, 5.0, 5.0, 5.0, volume=0))
    assert found[CANDLE_ROWS] == "5 ╻"
    assert found[CANDLE_ROWS + 1].strip() == "0"


def test_each_symbol_has_its_plot_up_to_a_number_and_the_others_are_counted() -> None:
    plots = BarPlots(Bars(MINUTE))
    names = [f"S{number}" for number in range(MAX_PLOTS + 2)]
    for name in names:
        assert not plots.add(trade(1, 1.0, symbol=name))
        assert plots.add(trade(MINUTE, 2.0, symbol=name))
    found = drawn(plots.picture(80), 80)
    heads = [line for line in found if "2 bars" in line]
    assert [line.split()[0] for line in heads] == names[:MAX_PLOTS]
    assert found[-1] == "and 2 other symbols: --symbol chooses"
