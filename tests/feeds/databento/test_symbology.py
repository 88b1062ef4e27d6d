from __future__ import annotations

import datetime as dt
import logging
from pathlib import Path

import pytest
from databento_dbn import SType
from hypothesis import given
from hypothesis import strategies as st

from ingestor.feeds.databento import symbology
from ingestor.feeds.databento.header import parse_metadata
from ingestor.feeds.databento.symbology import (
    Named,
    SymbolTables,
    names_in_metadata,
    names_in_symbology,
)
from tests.dbn_files import Mappings, Symbology, header_bytes

MONDAY = dt.date(2024, 1, 1)
DAY = dt.timedelta(days=1)
NUMBER = (MONDAY - dt.date(1970, 1, 1)).days
"""Of `MONDAY`, days since 1970."""


def in_metadata(mappings: Mappings | Symbology) -> list[Named]:
    encoded = header_bytes("trades", mappings=mappings)
    return names_in_metadata(parse_metadata(encoded[3], encoded[8:], Path("x.dbn")))


def write(folder: Path, text: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "symbology.json").write_text(text)


def symbology_json(symbol: str, first: dt.date, end: dt.date, text: str, more: str = "") -> str:
    return (
        f'{{"result": {{"{symbol}": [{{"d0": "{first}", "d1": "{end}", "s": "{text}"}}]}}{more}}}'
    )


def test_metadata_names_instruments_by_date_interval() -> None:
    roll = {"ES.c.0": [(MONDAY, MONDAY + DAY, "1"), (MONDAY + DAY, MONDAY + 3 * DAY, "2")]}
    assert in_metadata(roll) == [
        Named(1, "ES.c.0", NUMBER, NUMBER + 1),
        Named(2, "ES.c.0", NUMBER + 1, NUMBER + 3),
    ]


def test_metadata_from_instrument_ids_to_symbols_is_read_the_other_way_round() -> None:
    inverse = Symbology(
        {"17077": [(MONDAY, MONDAY + DAY, "ESH4")]}, SType.INSTRUMENT_ID, SType.RAW_SYMBOL
    )
    assert in_metadata(inverse) == [Named(17077, "ESH4", NUMBER, NUMBER + 1)]


def test_mappings_that_name_no_instrument_id_are_left_out() -> None:
    span = (MONDAY, MONDAY + DAY)
    odd = {"A": [(*span, "ESH4")], "B": [(*span, "")], "C": [(*span, "4294967296")]}
    assert in_metadata(odd) == []


def test_symbology_json_names_instruments_too(tmp_path: Path) -> None:
    write(tmp_path, symbology_json("ES.c.0", MONDAY, MONDAY + DAY, "17077"))
    assert names_in_symbology([tmp_path / "none", tmp_path]) == [
        Named(17077, "ES.c.0", NUMBER, NUMBER + 1)
    ]


def test_symbology_json_can_be_the_other_way_round(tmp_path: Path) -> None:
    more = ', "stype_in": "instrument_id", "stype_out": "raw_symbol", "status": 0'
    write(tmp_path, symbology_json("17077", MONDAY, MONDAY + DAY, "ESH4", more))
    assert names_in_symbology([tmp_path]) == [Named(17077, "ESH4", NUMBER, NUMBER + 1)]


def test_the_file_beside_comes_before_the_one_in_the_data_folder(tmp_path: Path) -> None:
    write(tmp_path, symbology_json("far", MONDAY, MONDAY + DAY, "1"))
    write(tmp_path / "near", symbology_json("near", MONDAY, MONDAY + DAY, "1"))
    (name,) = names_in_symbology([tmp_path / "near", tmp_path])
    assert name.symbol == "near"


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"result": 3}', '{"result": {"ES": [{"d0": "soon", "d1": "", "s": ""}]}}'],
)
def test_a_malformed_symbology_json_is_a_warning_that_names_it(
    tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, text)
    assert names_in_symbology([tmp_path]) == []
    (message,) = caplog.messages
    assert message.startswith(f"{tmp_path}/symbology.json is of no use, its symbols stay unknown: ")


def test_bytes_that_are_no_text_are_a_warning_too(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "symbology.json").write_bytes(b'{"result": {"\xff": []}}')
    assert names_in_symbology([tmp_path]) == []
    assert "is of no use" in caplog.text


def test_no_more_of_a_symbology_json_is_read_than_the_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    text = symbology_json("ES.c.0", MONDAY, MONDAY + DAY, "1")
    write(tmp_path, text)
    monkeypatch.setattr(symbology, "MAX_SYMBOLOGY_BYTES", len(text))
    assert len(names_in_symbology([tmp_path])) == 1
    monkeypatch.setattr(symbology, "MAX_SYMBOLOGY_BYTES", len(text) - 1)
    assert names_in_symbology([tmp_path]) == []
    assert "is of no use" in caplog.text


def test_the_table_changes_with_the_day() -> None:
    tables = SymbolTables([Named(1, "A", 10, 12), Named(1, "B", 12, 13), Named(2, "C", 0, 99)])
    assert tables.table(11, [1]) == {1: "A", 2: "C"}
    assert tables.table(12, [1]) == {1: "B", 2: "C"}
    assert tables.table(11, [1]) == {1: "A", 2: "C"}


def test_while_nothing_is_new_the_table_is_the_same_object() -> None:
    tables = SymbolTables([Named(1, "A", 10, 12)])
    first = tables.table(10, [1])
    assert tables.table(10, [1]) is first


def test_a_table_handed_out_does_not_change_when_an_instrument_turns_up() -> None:
    tables = SymbolTables([Named(1, "A", 10, 12)])
    first = tables.table(10, [1])
    second = tables.table(10, [1, 7])
    assert (first, second) == ({1: "A"}, {1: "A", 7: "7"})


def test_what_metadata_does_not_name_is_looked_up_in_symbology_json(tmp_path: Path) -> None:
    write(tmp_path, symbology_json("NQ.c.0", MONDAY, MONDAY + DAY, "7"))
    tables = SymbolTables([Named(1, "A", 0, 99_999)], fallback=[tmp_path])
    assert tables.table(NUMBER, [1, 7]) == {1: "A", 7: "NQ.c.0"}
    assert tables.table(NUMBER + 1, [1, 7]) == {1: "A", 7: "7"}


def test_symbology_json_is_not_read_while_metadata_says_enough(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, "malformed")
    tables = SymbolTables([Named(1, "A", 0, 99)], fallback=[tmp_path])
    tables.table(5, [1])
    assert not caplog.messages
    tables.table(5, [2])
    assert "is of no use" in caplog.text


def test_an_unknown_instrument_is_logged_once_in_a_run(caplog: pytest.LogCaptureFixture) -> None:
    reported: set[int] = set()
    for _ in range(2):
        tables = SymbolTables([], reported=reported)
        tables.table(NUMBER, [7])
        tables.table(NUMBER + 1, [7])
    assert caplog.messages == [
        "instrument 7 has no symbol on 2024-01-01, neither in its file's metadata "
        "nor in symbology.json: its id stands for it"
    ]
    assert caplog.records[0].levelno == logging.WARNING


def test_of_two_symbols_for_one_instrument_the_first_holds() -> None:
    assert SymbolTables([Named(1, "A", 0, 9), Named(1, "B", 0, 9)]).table(3, [1]) == {1: "A"}


def test_symbols_are_renamed_by_configuration() -> None:
    tables = SymbolTables([Named(1, "ES.c.0", 0, 9)], rename={"ES.c.0": "ES", "7": "SEVEN"})
    assert tables.table(3, [1, 7]) == {1: "ES", 7: "SEVEN"}


@pytest.mark.parametrize("text", ["ES.c.0", "ES"])
def test_an_instrument_is_wanted_under_its_old_and_its_new_name(text: str) -> None:
    tables = SymbolTables([Named(1, "ES.c.0", 0, 9), Named(2, "NQ", 0, 9)], rename={"ES.c.0": "ES"})
    tables.table(3, [1, 2])
    assert tables.is_wanted(1, frozenset({text}))
    assert not tables.is_wanted(2, frozenset({text}))


@given(
    st.lists(
        st.builds(
            Named, st.integers(0, 3), st.sampled_from("ABC"), st.integers(0, 9), st.integers(0, 9)
        ),
        max_size=8,
    ),
    st.lists(st.tuples(st.integers(0, 9), st.lists(st.integers(0, 4), max_size=3)), max_size=6),
)
def test_tables_say_what_a_search_through_the_intervals_says(
    named: list[Named], asked: list[tuple[int, list[int]]]
) -> None:
    tables = SymbolTables(named)
    for day, instruments in asked:
        table = tables.table(day, instruments)
        for number in instruments:
            hits = [n.symbol for n in named if n.instrument == number and n.first <= day < n.end]
            assert table[number] == (hits[0] if hits else str(number))
