from __future__ import annotations

from typing import Any

import databento_dbn
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestor.feeds.databento.record_reader import mapping_of, text_of
from tests.dbn_files import control_record, mapping_record, text_record


def test_the_vendors_own_records_are_read() -> None:
    stypes: Any = databento_dbn.SType
    mapping: Any = databento_dbn.SymbolMappingMsg(
        publisher_id=1,
        instrument_id=17077,
        ts_event=1,
        stype_in=stypes.CONTINUOUS,
        stype_in_symbol="ES.c.0",
        stype_out=stypes.RAW_SYMBOL,
        stype_out_symbol="ESH6",
        start_ts=1,
        end_ts=2,
    )
    assert mapping_of(bytes(mapping)) == (17077, ("ESH6", "ES.c.0"))
    error: Any = databento_dbn.ErrorMsg(ts_event=1, err="slow", is_last=True)
    assert text_of(bytes(error)) == "slow"
    system: Any = databento_dbn.SystemMsg(ts_event=1, msg="Heartbeat")
    assert text_of(bytes(system)) == "Heartbeat"


SYMBOLS = st.text(st.characters(codec="ascii", exclude_characters="\0"), max_size=21)


@given(st.integers(0, 2**32 - 1), SYMBOLS, SYMBOLS, st.integers(1, 3), st.booleans())
def test_mappings_of_all_versions_are_read(
    instrument: int, out: str, given: str, version: int, ts_out: bool
) -> None:
    record = mapping_record(instrument, out, given, version=version, ts_out=ts_out)
    assert mapping_of(record) == (instrument, (out, given))


@given(st.text(st.characters(codec="ascii", exclude_characters="\0"), max_size=63))
def test_texts_of_all_versions_are_read(text: str) -> None:
    for version in (1, 3):
        assert text_of(text_record(0x15, text, version=version)) == text
        assert text_of(text_record(0x17, text, version=version)) == text


@given(st.binary(max_size=1020))
def test_any_bytes_are_read_or_refused(record: bytes) -> None:
    record = record.ljust(16, b"\0")
    assert isinstance(text_of(record), str)
    found = mapping_of(record)
    assert found is None or found[0] == int.from_bytes(record[4:8], "little")


@pytest.mark.parametrize("size", [0, 8, 56])
def test_a_mapping_that_is_too_short_is_none(size: int) -> None:
    assert mapping_of(control_record(0x16, bytes(size))) is None


def test_bytes_that_are_no_text_are_replaced_in_a_message() -> None:
    record = text_record(0x15, "slow").replace(b"slow", b"sl\xffw")
    assert text_of(record) == "sl\N{REPLACEMENT CHARACTER}w"
