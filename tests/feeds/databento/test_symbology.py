from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from databento_dbn import SType
from hypothesis import given
from hypothesis import strategies as st

from ingestor.feeds.databento import symbology
from ingestor.feeds.databento.header import header_of
from ingestor.feeds.databento.symbology import (
    NAMES_SHOWN,
    UNKNOWN_TOLD,
    HeaderNames,
    SymbolFilter,
    SymbologyNames,
    SymbolTables,
)
from tests.dbn_files import Mappings, Symbology, header_bytes

MONDAY = dt.date(2024, 1, 1)
DAY = dt.timedelta(days=1)
NUMBER = (MONDAY - dt.date(1970, 1, 1)).days
"""Of `MONDAY`, days since 1970."""
ON_MONDAY = (MONDAY, MONDAY + DAY)


def in_header(mappings: Mappings | Symbology, symbols: Iterable[str] | None = None) -> HeaderNames:
    encoded = header_bytes("trades", mappings=mappings, symbols=symbols)
    return HeaderNames(header_of(encoded, Path("x.dbn")))


def monday(**names: str) -> Mappings:
    """Names of instrument ids on `MONDAY`, in the order given."""
    return {name.replace("_", "."): [(*ON_MONDAY, text)] for name, text in names.items()}


def tables(mappings: Mappings | Symbology | None = None, **more: Any) -> SymbolTables:
    return SymbolTables(in_header(mappings or {}), **more)


def write(folder: Path, text: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "symbology.json").write_text(text)


def symbology_json(symbol: str, first: str, end: str, text: str, more: str = "") -> str:
    return (
        f'{{"result": {{"{symbol}": [{{"d0": "{first}", "d1": "{end}", "s": "{text}"}}]}}{more}}}'
    )


def json_for_monday(symbol: str, text: str, more: str = "") -> str:
    return symbology_json(symbol, str(MONDAY), str(MONDAY + DAY), text, more)


def test_a_header_names_instruments_by_date_interval() -> None:
    roll = {"ES.c.0": [(*ON_MONDAY, "1"), (MONDAY + DAY, MONDAY + 3 * DAY, "2")]}
    names = in_header(roll)
    assert [names.of(1, NUMBER + day) for day in range(-1, 2)] == [[], ["ES.c.0"], []]
    assert [names.of(2, NUMBER + day) for day in range(4)] == [[], ["ES.c.0"], ["ES.c.0"], []]
    assert names.of(3, NUMBER) == []
    assert list(names) == ["ES.c.0"]


@pytest.mark.parametrize("stype_out", [SType.RAW_SYMBOL, SType.CONTINUOUS])
def test_a_header_from_instrument_ids_to_symbols_is_read_the_other_way_round(
    stype_out: Any,
) -> None:
    inverse = Symbology({"17077": [(*ON_MONDAY, "ESH4")]}, SType.INSTRUMENT_ID, stype_out)
    names = in_header(inverse)
    assert names.of(17077, NUMBER) == ["ESH4"]
    assert list(names) == ["ESH4"]


@pytest.mark.parametrize("stype_in", [SType.RAW_SYMBOL, SType.PARENT, SType.CONTINUOUS, None])
def test_symbols_of_any_type_are_names(stype_in: Any) -> None:
    names = in_header(Symbology(monday(ESH4="1", ESM4="2"), stype_in))
    assert (names.of(1, NUMBER), names.of(2, NUMBER)) == (["ESH4"], ["ESM4"])


def test_one_symbol_may_name_many_instruments() -> None:
    parent = {"ES.FUT": [(*ON_MONDAY, "1"), (*ON_MONDAY, "2")]}
    names = in_header(Symbology(parent, SType.PARENT))
    assert (names.of(1, NUMBER), names.of(2, NUMBER)) == (["ES.FUT"], ["ES.FUT"])


def test_mappings_that_name_no_instrument_id_are_left_out() -> None:
    texts = [
        "ESH4",
        "",
        "4294967296",
        "-1",
        "+1",
        "1 ",
        " 1",
        "1.0",
        "12345678901",
        "0x1",
        "1" * 60,
    ]
    odd = {f"S{place}": [(*ON_MONDAY, text)] for place, text in enumerate(texts)}
    names = in_header(odd)
    assert list(names) == []
    assert names.of(1, NUMBER) == names.of(0, NUMBER) == []


def test_instrument_ids_are_read_as_they_are_written() -> None:
    names = in_header(monday(A="4294967295", B="0", C="0000000007"))
    assert [names.of(number, NUMBER) for number in (2**32 - 1, 0, 7)] == [["A"], ["B"], ["C"]]


@pytest.mark.parametrize("order", [["ES.c.0", "ESH4"], ["ESH4", "ES.c.0"]])
def test_of_two_names_the_one_that_stands_first_in_the_list_of_symbols_comes_first(
    order: list[str],
) -> None:
    both = monday(ES_c_0="1", ESH4="1")
    assert in_header(both, symbols=["NQ", *order]).of(1, NUMBER) == order


def test_names_that_the_list_of_symbols_has_not_come_last_in_the_order_of_the_mappings() -> None:
    names = in_header(monday(B="1", C="1", A="1", D="1"), symbols=["A"])
    assert names.of(1, NUMBER) == ["A", "B", "C", "D"]


def test_a_name_that_could_not_be_published_is_none() -> None:
    assert in_header(monday(**{"": "1"})).of(1, NUMBER) == []


def test_symbology_json_names_instruments_too(tmp_path: Path) -> None:
    write(tmp_path, json_for_monday("ES.c.0", "17077"))
    names = SymbologyNames([tmp_path / "none", tmp_path])
    assert [names.of(17077, NUMBER + day) for day in (-1, 0, 1)] == [[], ["ES.c.0"], []]
    assert list(names) == ["ES.c.0"]


def test_symbology_json_can_be_the_other_way_round(tmp_path: Path) -> None:
    more = ', "stype_in": "instrument_id", "stype_out": "raw_symbol", "status": 0'
    write(tmp_path, json_for_monday("17077", "ESH4", more))
    assert SymbologyNames([tmp_path]).of(17077, NUMBER) == ["ESH4"]


def test_the_file_beside_comes_before_the_one_in_the_data_folder(tmp_path: Path) -> None:
    write(tmp_path, json_for_monday("far", "1"))
    write(tmp_path / "near", json_for_monday("near", "1"))
    assert SymbologyNames([tmp_path / "near", tmp_path]).of(1, NUMBER) == ["near"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"result": 3}',
        '{"result": {"ES": [{"d0": "soon", "d1": "", "s": ""}]}}',
        symbology_json("ES", "0000-01-01", "2024-01-02", "1"),
        symbology_json("ES", "10000-01-01", "2024-01-02", "1"),
        '{"result": ' + "[" * 100_000,
        '{"result": ' + '{"a":' * 100_000,
        '{"other": ' + "[" * 100_000 + "]" * 100_000 + "}",
        '{"result": {"\\ud800": [{"d0": "2024-01-01", "d1": "2024-01-02", "s": "1"}]}}',
        '{"result": {"ES": [{"d0": ' + "1" * 5000 + ', "d1": "2024-01-02", "s": "1"}]}}',
        '{"result": {"evil\\n": [{"d0": "2024-01-01", "d1": 3, "s": "1"}]}}',
    ],
    ids=range(13),
)
def test_a_symbology_json_that_cannot_be_read_is_one_warning_that_names_it(
    tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, text)
    names = SymbologyNames([tmp_path])
    assert names.of(1, NUMBER) == names.of(2, NUMBER) == list(names) == []
    (message,) = caplog.messages
    assert message.startswith(f"{tmp_path}/symbology.json is of no use, its symbols stay unknown: ")
    assert len(message.splitlines()) == 1


def test_bytes_that_are_no_text_are_a_warning_too(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "symbology.json").write_bytes(b'{"result": {"\xff": []}}')
    assert SymbologyNames([tmp_path]).of(1, NUMBER) == []
    assert "is of no use" in caplog.text


@pytest.mark.parametrize("text", ["1" * 5000, "-1", "", "4294967296", "\N{ARABIC-INDIC DIGIT ONE}"])
def test_an_id_in_symbology_json_that_is_none_costs_only_itself(
    tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    spans = [{"d0": "2024-01-01", "d1": "2024-01-02", "s": one} for one in (text, "1")]
    write(tmp_path, f'{{"result": {{"ES": {spans}}}}}'.replace("'", '"'))
    assert list(SymbologyNames([tmp_path])) == ["ES"]
    assert not caplog.messages


def test_a_symbology_json_beyond_the_bound_counts_as_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    text = json_for_monday("ES.c.0", "1")
    write(tmp_path, text)
    monkeypatch.setattr(symbology, "MAX_SYMBOLOGY_BYTES", len(text))
    assert SymbologyNames([tmp_path]).of(1, NUMBER) == ["ES.c.0"]
    monkeypatch.setattr(symbology, "MAX_SYMBOLOGY_BYTES", len(text) - 1)
    assert SymbologyNames([tmp_path]).of(1, NUMBER) == []
    assert f"it has more than {len(text) - 1} bytes" in caplog.text


def test_a_name_goes_by_the_day() -> None:
    roll = {"A": [(*ON_MONDAY, "1")], "B": [(MONDAY + DAY, MONDAY + 2 * DAY, "1")]}
    of_file = tables(roll)
    assert [of_file.name(1, NUMBER + day) for day in (0, 1, 0, 2)] == ["A", "B", "A", "1"]


def test_the_order_of_preference_is_metadata_records_symbology_json_id(tmp_path: Path) -> None:
    write(tmp_path, json_for_monday("by json", "1"))
    of_file = tables(monday(by_metadata="1"), symbology=SymbologyNames([tmp_path]))
    assert of_file.name(1, NUMBER) == "by.metadata"
    assert list(of_file.names_of(1, NUMBER)) == ["by.metadata", "by json", "1"]
    bare = tables(symbology=SymbologyNames([tmp_path]))
    assert bare.name(1, NUMBER) == "by json"
    bare.hear(1, ("ESH4", "ES.c.0"))
    assert list(bare.names_of(1, NUMBER)) == ["ESH4", "ES.c.0", "by json", "1"]
    assert (bare.name(1, NUMBER), bare.name(1, NUMBER + 1)) == ("ESH4", "ESH4")
    bare.hear(1, ("ESM4", ""))
    assert list(bare.names_of(1, NUMBER)) == ["ESM4", "by json", "1"]
    assert bare.name(1, NUMBER) == "ESM4"
    assert bare.name(2, NUMBER) == "2"


def test_symbology_json_is_not_read_while_metadata_says_enough(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, "malformed")
    of_file = tables(monday(A="1"), symbology=SymbologyNames([tmp_path]))
    of_file.name(1, NUMBER)
    assert not caplog.messages
    of_file.name(2, NUMBER)
    assert "is of no use" in caplog.text


def test_a_table_grows_while_names_stay_and_another_begins_where_one_changes() -> None:
    of_file = tables()
    first = of_file.table({1: "A"})
    assert of_file.table({1: "A", 7: "7"}) is first
    assert first == {1: "A", 7: "7"}
    second = of_file.table({1: "B", 8: "C"})
    assert (first, second) == ({1: "A", 7: "7"}, {1: "B", 8: "C"})
    assert of_file.table({1: "B"}) is second


def test_an_unknown_instrument_is_logged_once_in_a_run(caplog: pytest.LogCaptureFixture) -> None:
    reported: set[int] = set()
    for _ in range(2):
        of_file = tables(reported=reported)
        of_file.name(7, NUMBER)
        of_file.name(7, NUMBER + 1)
    assert caplog.messages == [
        "instrument 7 has no symbol on 2024-01-01, neither in its file's metadata "
        "nor in symbology.json: its id stands for it"
    ]
    assert caplog.records[0].levelno == logging.WARNING


def test_of_many_unknown_instruments_only_some_are_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    of_file = tables()
    assert of_file.name(5000, NUMBER) == "5000"
    for number in range(2 * UNKNOWN_TOLD):
        assert of_file.name(number, NUMBER) == str(number)
    assert len(caplog.messages) == UNKNOWN_TOLD + 1
    assert caplog.messages[-1] == "more instruments have no symbol; they are not named here"


NAMES = st.sampled_from(["A", "B", "C", "D"])


@given(
    st.dictionaries(
        NAMES,
        st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 3)), max_size=3),
        max_size=4,
    ),
    st.permutations(["A", "B", "C", "D"]).map(lambda order: order[:3]),
    st.integers(0, 5),
    st.integers(0, 3),
)
def test_a_header_says_what_a_search_through_its_intervals_says(
    mappings: dict[str, list[tuple[int, int, int]]],
    symbols: list[str],
    day: int,
    instrument: int,
) -> None:
    dated = {
        name: [(MONDAY + a * DAY, MONDAY + b * DAY, str(number)) for a, b, number in spans]
        for name, spans in mappings.items()
    }
    hits = [
        name
        for name, spans in mappings.items()
        if any(first <= day < end and number == instrument for first, end, number in spans)
    ]
    expected = sorted(hits, key=lambda name: symbols.index(name) if name in symbols else 9)
    assert in_header(dated, symbols).of(instrument, NUMBER + day) == expected


def test_a_filter_is_told_of_every_name_that_turns_up(tmp_path: Path) -> None:
    write(tmp_path, json_for_monday("NQ.c.0", "1"))
    symbols = ["NQ.c.0", "ESH4", "1", "2", "ESZ9"]
    wanted = SymbolFilter(symbols)
    of_file = tables(symbology=SymbologyNames([tmp_path]), symbol_filter=wanted)
    of_file.hear(3, ("ESH4", "ES.c.0"))
    assert of_file.name(1, NUMBER) == "NQ.c.0"
    assert of_file.name(9, NUMBER) is None
    assert wanted.missing == {"2", "ESZ9"}


ITS_NAMES = ("ES.c.0", "ESH4", "17077")


def name_published(chosen: SymbolFilter, *names: str) -> str | None:
    return chosen.published(iter(names))


@pytest.mark.parametrize("name", ITS_NAMES)
def test_an_instrument_is_found_under_any_of_its_names_and_published_under_it(name: str) -> None:
    assert name_published(SymbolFilter([name, "NQ"]), *ITS_NAMES) == name


def test_of_two_names_asked_for_the_preferred_one_is_published() -> None:
    assert name_published(SymbolFilter(["ESH4", "ES.c.0"]), *ITS_NAMES) == "ES.c.0"


def test_what_is_not_asked_for_is_not_published() -> None:
    assert name_published(SymbolFilter(["NQ"]), *ITS_NAMES) is None


def test_without_symbols_the_preferred_name_is_published() -> None:
    assert name_published(SymbolFilter(), *ITS_NAMES) == "ES.c.0"


@pytest.mark.parametrize("name", ITS_NAMES)
def test_any_name_can_be_renamed(name: str) -> None:
    assert name_published(SymbolFilter(rename={name: "ES"}), *ITS_NAMES) == "ES"


def test_the_preferred_name_is_renamed_first() -> None:
    rename = {"ESH4": "H4", "ES.c.0": "ES"}
    assert name_published(SymbolFilter(rename=rename), *ITS_NAMES) == "ES"
    assert name_published(SymbolFilter(["ESH4"], rename), *ITS_NAMES) == "H4"


@pytest.mark.parametrize("symbol", ["ES.c.0", "ES"])
def test_an_instrument_is_asked_for_by_its_old_or_its_new_name(symbol: str) -> None:
    chosen = SymbolFilter([symbol], {"ES.c.0": "ES"})
    assert name_published(chosen, *ITS_NAMES) == "ES"
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
