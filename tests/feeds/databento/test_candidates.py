from __future__ import annotations

import datetime as dt
from collections import Counter
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingestor.feeds.databento import candidates as candidates_module
from ingestor.feeds.databento.candidates import (
    GLANCE_BYTES,
    Candidate,
    Contents,
    choose,
    contents_of,
    front_of,
    laid,
)
from ingestor.feeds.databento.files import DbnSchema, Listed, VendorName, vendor_name
from ingestor.feeds.databento.header import header_of
from ingestor.model.bounds import MAX_TIME_NS
from ingestor.model.errors import BadDataError, ConfigurationError, NoDataError
from ingestor.model.units import utc_date
from tests.dbn_files import compressed, header_bytes, trades

FIRST = dt.date(2024, 1, 1)
START_AT, END_AT = 26, 34
"""Where in a header of version 3 its range stands."""


def day(number: int) -> dt.date:
    return FIRST + dt.timedelta(days=number)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fronts")


@given(
    schema=st.sampled_from(["trades", "mbp-10", None]),
    version=st.integers(1, 3),
    instruments=st.integers(0, 300),
    zstd=st.booleans(),
)
@settings(max_examples=40)
def test_a_glance_agrees_with_the_whole_header(
    scratch: Path, schema: str | None, version: int, instruments: int, *, zstd: bool
) -> None:
    mappings = {f"S{number}": [(FIRST, day(1), str(number))] for number in range(instruments)}
    content = header_bytes(schema, version=version, mappings=mappings)
    body = trades(2).tobytes()
    path = scratch / f"{schema}-{version}-{instruments}-{zstd}"
    path.write_bytes(compressed(content, body) if zstd else content + body)
    header, front, contents = header_of(content, path), front_of(path), contents_of(path)
    assert (front.dataset, front.schema) == (header.dataset, header.schema)
    assert header.start_ns is not None
    assert front.first == utc_date(header.start_ns)
    assert contents.instruments == (frozenset(map(str, range(instruments))) or None)
    assert contents.record == body[:48]


def test_a_first_block_that_is_longer_than_a_glance_is_read_to_its_end(tmp_path: Path) -> None:
    names = Random(7).sample(range(10**12), 2_000)
    mappings = {f"S{name}": [(FIRST, day(1), str(name))] for name in names}
    path = tmp_path / "x.dbn.zst"
    path.write_bytes(compressed(header_bytes("trades", mappings=mappings), trades(2).tobytes()))
    assert candidates_module._open(path, GLANCE_BYTES)[0] == b""
    assert front_of(path).schema == "trades"


@given(st.data())
def test_a_damaged_front_is_read_or_refused_and_may_then_hold_anything(
    scratch: Path, data: st.DataObject
) -> None:
    damaged = bytearray(header_bytes("trades") + trades(2).tobytes())
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    del damaged[data.draw(st.integers(0, len(damaged))) :]
    path = scratch / "damaged"
    path.write_bytes(damaged)
    contents_of.cache_clear()
    with suppress(BadDataError):
        front_of(path)
    try:
        size = header_of(bytes(damaged), path).size_bytes
    except BadDataError:
        assert contents_of(path) == Contents(None, frozenset(), b"")
    else:
        assert contents_of(path).record == damaged[size : size + 48]


@pytest.mark.parametrize("ts_ns", [0, 1, MAX_TIME_NS, MAX_TIME_NS + 1])
def test_days_are_those_of_times_that_an_int64_holds(tmp_path: Path, ts_ns: int) -> None:
    content = bytearray(header_bytes("trades"))
    content[START_AT : START_AT + 8] = ts_ns.to_bytes(8, "little")
    path = tmp_path / "x.dbn"
    path.write_bytes(content)
    known = utc_date(ts_ns) if 0 < ts_ns <= MAX_TIME_NS else None
    assert front_of(path).first == known
    record = bytes(8) + ts_ns.to_bytes(8, "little") + bytes(32)
    assert Contents(None, frozenset(), record).date == known


def test_the_last_day_is_that_of_the_last_nanosecond(tmp_path: Path) -> None:
    content = bytearray(header_bytes("trades"))
    midnight_ns = (day(0) - dt.date(1970, 1, 1)).days * 86_400 * 10**9
    path = tmp_path / "x.dbn"
    for end_ns, last in ((midnight_ns + 1, day(0)), (midnight_ns, None)):
        content[START_AT : START_AT + 8] = midnight_ns.to_bytes(8, "little")
        content[END_AT : END_AT + 8] = end_ns.to_bytes(8, "little")
        path.write_bytes(content)
        assert (front_of(path).first, front_of(path).last) == (day(0), last)


def test_a_file_that_is_gone_is_named(tmp_path: Path) -> None:
    with pytest.raises(NoDataError, match=r"gone\.dbn cannot be opened: No such file"):
        front_of(tmp_path / "gone.dbn")
    assert contents_of(tmp_path / "gone.dbn").instruments is None


@given(
    st.builds(
        VendorName,
        st.sampled_from(["glbx-mdp3", "xnas-itch", "opra"]),
        st.dates(day(0), day(30)),
        st.dates(day(40), day(50)),
        st.sampled_from(["trades", "mbp-10", "ohlcv-1s"]),
        st.none() | st.sampled_from(["ESH6", "ES.c.0", "a b"]),
        st.none() | st.integers(0, 9999),
    ),
    st.sampled_from(["", ".zst"]),
)
def test_a_name_of_the_vendors_form_says_what_it_was_made_of(name: VendorName, end: str) -> None:
    text = f"{name.dataset}-{name.first:%Y%m%d}-{name.last:%Y%m%d}.{name.schema}"
    text += "" if name.symbol is None else f".{name.symbol}"
    text += "" if name.piece is None else f".{name.piece:04d}"
    assert vendor_name(f"{text}.dbn{end}") == name


def candidate(path: Path, first: int, last: int) -> Candidate:
    listed = Listed(path, 1, vendor_name(path.name))
    front = candidates_module.Front("GLBX.MDP3", "trades", day(first), day(last))
    return Candidate(listed, frozenset({DbnSchema.TRADES}), day(first), day(last), front)


SPANS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 4)), max_size=12)


@given(SPANS)
def test_lanes_hold_every_file_once_without_overlap_and_no_lane_too_many(
    spans: list[tuple[int, int]],
) -> None:
    files = [
        candidate(Path(f"/data/{number}.dbn"), first, first + length)
        for number, (first, length) in enumerate(sorted(spans))
    ]
    lanes = laid([(one, one.days) for one in files])
    assert sorted(file.path for lane in lanes for file in lane) == sorted(one.path for one in files)
    for lane in lanes:
        days = [one for file in lane for one in sorted(file.taken)]
        assert days == sorted(set(days))
    busy = Counter(one for file in files for one in file.days)
    assert len(lanes) == max(busy.values(), default=0)


@given(
    st.lists(
        st.tuples(
            st.integers(0, 3),
            st.integers(0, 2),
            st.none() | st.frozensets(st.sampled_from("ABC"), min_size=1),
        ),
        min_size=1,
        max_size=6,
    ),
    st.frozensets(st.integers(0, 5).map(day), max_size=4),
)
def test_of_each_day_every_instrument_is_read_once_or_people_are_asked(
    files: list[tuple[int, int, frozenset[str] | None]], dates: frozenset[dt.date]
) -> None:
    contents = {
        Path(f"/data/{number}.dbn"): Contents(held, frozenset(), b"")
        for number, (_, _, held) in enumerate(files)
    }
    # Each file lies in a folder of its own, so none is a part of another's delivery.
    contents = {path.with_suffix("") / "x.dbn": held for path, held in contents.items()}
    every = [
        candidate(path, first, first + length)
        for path, (first, length, _) in zip(contents, files, strict=True)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(candidates_module, "contents_of", contents.__getitem__)
        try:
            choice = choose(every, dates)
        except ConfigurationError:
            assert any(held is not None and len(held) > 1 for _, _, held in files)
            return
        assert choose(every[::-1], dates).taken == choice.taken
    for one in {each for file in every for each in file.days} & (dates or {*map(day, range(9))}):
        there = [contents[file.path].instruments for file in every if one in file.days]
        read = [contents[file.path].instruments for file, days in choice.taken if one in days]
        times = Counter(name for held in read for name in held or "ABC")
        assert set(times) == {name for held in there for name in held or "ABC"}
        assert set(times.values()) == {1}
