from __future__ import annotations

import pytest

from ingestor.feeds.databento.symbol_filter import NAMES_SHOWN, SymbolFilter

NAMES = ("ES.c.0", "ESH4", "17077")


def published(chosen: SymbolFilter, *names: str) -> str | None:
    return chosen.published(iter(names))


@pytest.mark.parametrize("name", NAMES)
def test_an_instrument_is_found_under_any_of_its_names_and_published_under_it(name: str) -> None:
    assert published(SymbolFilter([name, "NQ"]), *NAMES) == name


def test_of_two_names_asked_for_the_preferred_one_is_published() -> None:
    assert published(SymbolFilter(["ESH4", "ES.c.0"]), *NAMES) == "ES.c.0"


def test_what_is_not_asked_for_is_not_published() -> None:
    assert published(SymbolFilter(["NQ"]), *NAMES) is None


def test_without_symbols_the_preferred_name_is_published() -> None:
    assert published(SymbolFilter(), *NAMES) == "ES.c.0"


@pytest.mark.parametrize("name", NAMES)
def test_any_name_can_be_renamed(name: str) -> None:
    assert published(SymbolFilter(rename={name: "ES"}), *NAMES) == "ES"


def test_the_preferred_name_is_renamed_first() -> None:
    rename = {"ESH4": "H4", "ES.c.0": "ES"}
    assert published(SymbolFilter(rename=rename), *NAMES) == "ES"
    assert published(SymbolFilter(["ESH4"], rename), *NAMES) == "H4"


@pytest.mark.parametrize("symbol", ["ES.c.0", "ES"])
def test_an_instrument_is_asked_for_by_its_old_or_its_new_name(symbol: str) -> None:
    chosen = SymbolFilter([symbol], {"ES.c.0": "ES"})
    assert published(chosen, *NAMES) == "ES"
    chosen.see(["ES.c.0"])
    assert not chosen.missing


def test_what_nothing_bears_is_said_with_what_there_is() -> None:
    chosen = SymbolFilter(["ESZ9", "ES.c.0", "AA"])
    chosen.see(["NQ.c.0", "ES.c.0"])
    assert chosen.complaint() == "no file bears the symbol AA, ESZ9; there are ES.c.0, NQ.c.0"


def test_of_many_names_the_nearest_are_said() -> None:
    chosen = SymbolFilter(["ESZ9"])
    chosen.see(f"AB{number}" for number in range(100_000))
    chosen.see(["ESH4", "ESZ8", "ES.c.0"])
    complaint = chosen.complaint()
    start = "no file bears the symbol ESZ9; of those there are the nearest are "
    assert complaint.startswith(start)
    assert {"ESH4", "ESZ8", "ES.c.0"} < set(complaint.removeprefix(start).split(", "))
    assert len(complaint.split(", ")) == NAMES_SHOWN


def test_where_there_are_no_names_at_all_that_is_said() -> None:
    assert SymbolFilter(["A"]).complaint() == (
        "no file bears the symbol A: the files name no instrument at all"
    )


def test_what_other_feeds_bear_is_not_missed() -> None:
    assert SymbolFilter(["SPY", "ES"], elsewhere=["SPY"]).missing == {"ES"}


def test_foreign_names_cannot_forge_a_line() -> None:
    chosen = SymbolFilter(["A\nB"])
    chosen.see(["C\nD\x1b[2K"])
    assert chosen.complaint() == r"no file bears the symbol A\nB; there are C\nD\x1b[2K"
