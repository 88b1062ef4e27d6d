from __future__ import annotations

import datetime as dt
import logging
from pathlib import Path

import pytest

from ingestor.feeds.databento import (
    Catalog,
    DbnSchema,
    available_dates,
    candidates,
    find_files,
    selection,
)
from ingestor.feeds.databento.candidates import Front, front_of
from ingestor.feeds.databento.files import VendorName, vendor_name
from ingestor.model.errors import NoDataError
from tests.dbn_files import dbn_path

FIRST, SECOND, THIRD = (dt.date(2024, 1, day) for day in (2, 3, 4))


def touch(data_dir: Path, schema: str, *dates: dt.date, zstd: bool = True) -> None:
    for date in dates:
        dbn_path(data_dir, schema, date, zstd=zstd).write_bytes(b"12345")


def test_files_are_found_by_schema_and_date(tmp_path: Path) -> None:
    touch(tmp_path, "trades", FIRST, SECOND)
    touch(tmp_path, "mbp-10", FIRST, zstd=False)
    (file,) = find_files(tmp_path, DbnSchema.TRADES, [SECOND])
    assert file.path == tmp_path / "trades" / "glbx-mdp3-20240103.trades.dbn.zst"
    assert (file.date, file.size) == (SECOND, 5)
    (file,) = find_files(tmp_path, DbnSchema.MBP10, [FIRST])
    assert file.path == tmp_path / "MBP-10" / "glbx-mdp3-20240102.mbp-10.dbn"


def test_no_dates_means_every_date_there_is_in_order(tmp_path: Path) -> None:
    touch(tmp_path, "trades", THIRD, FIRST)
    touch(tmp_path, "trades", SECOND, zstd=False)
    found = find_files(tmp_path, DbnSchema.TRADES)
    assert [file.date for file in found] == [FIRST, SECOND, THIRD]
    assert available_dates(tmp_path, DbnSchema.TRADES) == [FIRST, SECOND, THIRD]


def test_dates_come_in_order_and_once_however_they_are_listed(tmp_path: Path) -> None:
    touch(tmp_path, "trades", FIRST, SECOND, THIRD)
    found = find_files(tmp_path, DbnSchema.TRADES, [THIRD, FIRST, THIRD])
    assert [file.date for file in found] == [FIRST, THIRD]


def test_of_a_plain_and_a_compressed_file_the_plain_one_is_read_and_said_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    touch(tmp_path, "trades", FIRST)
    touch(tmp_path, "trades", FIRST, zstd=False)
    with caplog.at_level(logging.INFO):
        (file,) = find_files(tmp_path, DbnSchema.TRADES, [FIRST])
    assert file.path.suffix == ".dbn"
    (message,) = caplog.messages
    assert "glbx-mdp3-20240102.trades.dbn and glbx-mdp3-20240102.trades.dbn.zst" in message
    assert "reading the plain one" in message


@pytest.mark.parametrize(
    "name",
    [
        "glbx-mdp3-20240102.mbp-10.dbn",
        "glbx-mdp3-20241302.trades.dbn",
        "glbx-mdp3-20240102.trades.dbn.zst.part",
        "glbx-mdp3-2024010\uff12.trades.dbn",
        "symbology.json",
        ".hidden",
    ],
)
def test_files_of_other_names_are_left_alone(tmp_path: Path, name: str) -> None:
    touch(tmp_path, "trades", SECOND)
    (tmp_path / "trades" / name).touch()
    assert available_dates(tmp_path, DbnSchema.TRADES) == [SECOND]


def test_another_dataset_is_a_file_like_any_other(tmp_path: Path) -> None:
    touch(tmp_path, "trades", SECOND)
    (tmp_path / "trades" / "xnas-itch-20240102.trades.dbn").touch()
    assert available_dates(tmp_path, DbnSchema.TRADES) == [FIRST, SECOND]


def test_a_missing_data_folder_is_named_with_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(NoDataError) as caught:
        find_files(tmp_path / "nowhere", DbnSchema.TRADES)
    assert str(caught.value) == (
        f"the data folder {tmp_path}/nowhere does not exist; DBN files are looked for in it and "
        f"below, such as {tmp_path}/nowhere/trades/glbx-mdp3-YYYYMMDD.trades.dbn[.zst]"
    )


def test_a_missing_schema_is_named_with_what_was_looked_for_and_what_is_there(
    tmp_path: Path,
) -> None:
    touch(tmp_path, "trades", FIRST)
    assert available_dates(tmp_path, DbnSchema.MBP10) == []
    with pytest.raises(NoDataError) as caught:
        find_files(tmp_path, DbnSchema.MBP10)
    assert str(caught.value) == (
        f"no mbp-10 file: looked in {tmp_path} and below for "
        "MBP-10/glbx-mdp3-YYYYMMDD.mbp-10.dbn[.zst] or any DBN file of that schema; "
        "there are trades files, but no mbp-10: --feeds trades replays them alone"
    )


def test_a_file_where_the_folder_should_be_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "trades").touch()
    with pytest.raises(NoDataError, match="there is no DBN file of any kind"):
        find_files(tmp_path, DbnSchema.TRADES)


def test_a_date_without_a_file_is_answered_with_the_names_and_the_dates_there_are(
    tmp_path: Path,
) -> None:
    touch(tmp_path, "trades", FIRST, THIRD)
    with pytest.raises(NoDataError) as caught:
        find_files(tmp_path, DbnSchema.TRADES, [FIRST, SECOND])
    assert str(caught.value) == (
        f"no trades file for 2024-01-03: looked in {tmp_path} and below for "
        "trades/glbx-mdp3-20240103.trades.dbn[.zst] or any DBN file of that schema and day; "
        "dates there are: 2024-01-02, 2024-01-04"
    )


def test_all_missing_dates_are_named_at_once(tmp_path: Path) -> None:
    touch(tmp_path, "trades", FIRST)
    with pytest.raises(NoDataError, match=r"for 2024-01-03, 2024-01-04: .*dates there are: "):
        find_files(tmp_path, DbnSchema.TRADES, [THIRD, SECOND])


@pytest.mark.parametrize("dates", [[], [FIRST]])
def test_a_folder_without_any_file_is_said_to_hold_none(
    tmp_path: Path, dates: list[dt.date]
) -> None:
    (tmp_path / "trades").mkdir()
    with pytest.raises(NoDataError, match=r"glbx-mdp3-YYYY.*there is no DBN file of any kind"):
        find_files(tmp_path, DbnSchema.TRADES, dates)


def test_a_link_to_nowhere_cannot_be_opened(tmp_path: Path) -> None:
    dbn_path(tmp_path, "trades", FIRST).symlink_to(tmp_path / "gone")
    with pytest.raises(NoDataError, match=r"trades\.dbn\.zst cannot be opened: No such file"):
        find_files(tmp_path, DbnSchema.TRADES)


def test_of_thousands_of_files_the_headers_of_those_that_are_needed_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dates = [FIRST + number * (SECOND - FIRST) for number in range(300)]
    touch(tmp_path, "trades", *dates)
    touch(tmp_path, "mbp-10", *dates)
    opened: list[Path] = []

    def counted(path: Path) -> Front:
        opened.append(path)
        return front_of(path)

    monkeypatch.setattr(selection, "front_of", counted)
    (file,) = find_files(tmp_path, DbnSchema.TRADES, [dates[100]])
    assert opened == [file.path]


def test_names_of_the_vendor_are_understood() -> None:
    name = vendor_name("glbx-mdp3-20251201-20251231.mbp-10.ES.c.0.0012.dbn.zst")
    last = dt.date(2025, 12, 31)
    assert name == VendorName("glbx-mdp3", dt.date(2025, 12, 1), last, "mbp-10", "ES.c.0", 12)
    name = vendor_name("opra-pillar-20251201.ohlcv-1m.2025.dbn")
    assert name is not None
    assert (name.symbol, name.piece) == (None, 2025)
    assert vendor_name("foo.dbn") is None
    assert vendor_name("glbx-mdp3-20251301.trades.dbn") is None


def test_folders_that_lie_too_deep_are_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    touch(tmp_path.joinpath(*"abcdef"), "trades", FIRST)
    touch(tmp_path, "trades", SECOND)
    catalog = Catalog([tmp_path])
    assert catalog.dates(DbnSchema.TRADES) == [SECOND]
    caplog.set_level(logging.INFO)
    catalog.tell_unused()
    assert f"passed over {tmp_path}/a/b/c/d/e/f/trades: lies too deep" in caplog.text


def test_a_delivery_split_by_symbol_costs_no_look_at_instruments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(50):
        for date in (FIRST, SECOND):
            name = f"glbx-mdp3-{date:%Y%m%d}.trades.S{number}.dbn"
            (tmp_path / name).write_bytes(b"12345")
    monkeypatch.setattr(candidates, "contents_of", None)
    assert len(Catalog([tmp_path]).lanes(DbnSchema.TRADES)) == 50
