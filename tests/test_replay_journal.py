"""Replaying a journal as its user meets it: the messages are those that were published live."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ingestor.encode.reference import payloads
from ingestor.journal.format import Market
from ingestor.journal.segment_writer import compress
from ingestor.journal.segments import list_segments
from ingestor.model.blocks import Block, Source, whole_block
from ingestor.model.errors import ExitCode
from ingestor.model.records import Records
from ingestor.model.units import NS_PER_S, UINT64_MAX, new_york_ns
from tests.dbn_files import DAY, INSTRUMENT, dbn_path, depth, trades, write_dbn
from tests.journal.tapes import (
    Message,
    Received,
    live_messages,
    option_frames,
    record,
    stock_frames,
)
from tests.nats_servers import NatsServer
from tests.replay_cli import Finished, read_stream, replay

START_NS = new_york_ns(DAY, dt.time(10, 0))
NEXT = DAY + dt.timedelta(days=1)
NEXT_NS = new_york_ns(NEXT, dt.time(10, 0))
STOCKS = [
    stock_frames(300, start_ns=START_NS),
    stock_frames(200, start_ns=START_NS + 4 * NS_PER_S, seed=2),
]
OPTIONS = [option_frames(300, start_ns=START_NS, seed=3)]
TRADES = trades(300, start_ns=START_NS, step_ns=10**7)
DEPTH = depth(900, start_ns=START_NS, step_ns=10**7 // 3)
FEEDS = ("stocks", "options", "trades", "mbp10")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two runs of stocks and one of options, recorded; some segments are compressed."""
    for frames in STOCKS:
        record(tmp_path / "journal", "stocks", frames, segment_bytes=15_000)
    for frames in OPTIONS:
        record(tmp_path / "journal", "options", frames, roots=("SPY", "QQQ"))
    for one in segments(tmp_path)[::2]:
        compress(one)
    return tmp_path


@pytest.fixture
def with_files(folder: Path) -> Path:
    """And the DBN files of the day."""
    write_dbn(dbn_path(folder / "data", "trades"), TRADES, schema="trades")
    write_dbn(dbn_path(folder / "data", "mbp-10"), DEPTH, schema="mbp-10")
    return folder


def segments(folder: Path, market: Market = Market.STOCKS) -> list[Path]:
    """The paths that the segments have when they are plain."""
    return [one.path for one in list_segments(folder / "journal", market)]


def run(folder: Path, server: NatsServer, *more: str) -> Finished:
    return replay(
        "--journal", str(folder / "journal"), "--data-dir", str(folder / "data"),
        "--nats", server.url, "--summary", "json", *more, cwd=folder,
    )  # fmt: skip


def published(server: NatsServer) -> list[Message]:
    return [(one.subject, one.data) for one in read_stream(server.url)]


def of_files(records: Records) -> list[Message]:
    return list(payloads(whole_block(Block(0, records, {INSTRUMENT: "ES.c.0"}, Source.REPLAY))))


def everything() -> dict[str, list[Message]]:
    """What each feed says, in its order."""
    return {
        "stocks": live_messages("stocks", STOCKS),
        "options": live_messages("options", OPTIONS),
        "trades": of_files(TRADES),
        "mbp10": of_files(DEPTH),
    }


def merged(feeds: dict[str, list[Message]]) -> list[Message]:
    """The one order of several feeds, told in the plainest way."""
    keyed: list[tuple[tuple[int, ...], int, int, Message]] = []
    for rank, name in enumerate(FEEDS):
        highest: tuple[int, ...] = ()
        for number, message in enumerate(feeds.get(name, [])):
            event: dict[str, Any] = json.loads(message[1])
            seq = UINT64_MAX if event["seq"] is None else event["seq"]
            highest = max(highest, (event["ts_event_ns"], event["ts_recv_ns"], seq))
            keyed.append((highest, rank, number, message))
    return [message for *_, message in sorted(keyed)]


def only(messages: Sequence[Message], **wanted: object) -> list[Message]:
    return [one for one in messages if wanted.items() <= json.loads(one[1]).items()]


@pytest.mark.parametrize("speed", ["0", "20"])
def test_a_journal_and_files_of_its_day_become_one_stream_of_what_was_published_live(
    with_files: Path, nats_server: NatsServer, speed: str
) -> None:
    finished = run(with_files, nats_server, "--speed", speed, "--date", DAY.isoformat())
    assert finished.exit_code == ExitCode.OK
    expected = merged(everything())
    assert published(nats_server) == expected
    assert finished.summary["published"] == len(expected)
    assert len(finished.summary["by_subject"]) == 5


def test_without_files_the_journal_is_replayed_alone(folder: Path, nats_server: NatsServer) -> None:
    finished = run(folder, nats_server)
    assert finished.exit_code == ExitCode.OK
    feeds = everything()
    expected = merged({name: feeds[name] for name in ("stocks", "options")})
    assert published(nats_server) == expected
    assert "replaying stocks, options; there is nothing of trades, mbp10" in finished.err


@pytest.mark.parametrize("names", ["stocks", "options", "mbp10,stocks"])
def test_feeds_that_are_named_are_replayed_and_no_others(
    with_files: Path, nats_server: NatsServer, names: str
) -> None:
    assert run(with_files, nats_server, "--feeds", names).exit_code == ExitCode.OK
    feeds = everything()
    assert published(nats_server) == merged({name: feeds[name] for name in names.split(",")})


def test_files_of_other_days_are_left_out_where_a_date_is_asked_for(
    with_files: Path, nats_server: NatsServer
) -> None:
    frames = stock_frames(20, start_ns=NEXT_NS)
    record(with_files / "journal", "stocks", frames)
    assert run(with_files, nats_server, "--date", NEXT.isoformat()).exit_code == ExitCode.OK
    assert published(nats_server) == live_messages("stocks", [frames])


def test_a_session_and_symbols_are_chosen_as_in_files(
    with_files: Path, nats_server: NatsServer
) -> None:
    later: list[Received] = stock_frames(50, start_ns=START_NS + 60 * NS_PER_S, seed=4)
    record(with_files / "journal", "stocks", later)
    more = ("--start", "10:01", "--end", "10:02", "--symbols", "SPY", "--feeds", "stocks")
    assert run(with_files, nats_server, *more).exit_code == ExitCode.OK
    start_ns = START_NS + 60 * NS_PER_S
    assert published(nats_server) == [
        one
        for one in only(live_messages("stocks", [later]), symbol="SPY")
        if json.loads(one[1])["ts_event_ns"] >= start_ns
    ]


def test_an_underlying_means_its_options(with_files: Path, nats_server: NatsServer) -> None:
    assert run(with_files, nats_server, "--symbols", "QQQ").exit_code == ExitCode.OK
    feeds = everything()
    expected = merged(
        {
            "stocks": only(feeds["stocks"], symbol="QQQ"),
            "options": only(feeds["options"], underlying="QQQ"),
        }
    )
    assert published(nats_server) == expected


def test_a_journal_cut_in_the_middle_of_an_entry_gives_all_before_it(
    folder: Path, nats_server: NatsServer
) -> None:
    last = segments(folder)[-1]
    assert last.exists()
    last.write_bytes(last.read_bytes()[:-1])
    finished = run(folder, nats_server, "--feeds", "stocks")
    assert finished.exit_code == ExitCode.OK
    assert published(nats_server) == live_messages("stocks", [STOCKS[0], STOCKS[1][:-1]])
    assert f"{last} ends in the middle of an entry" in finished.err


def test_damage_ends_with_exit_code_4_and_all_that_is_whole(
    folder: Path, nats_server: NatsServer
) -> None:
    plain = next(path for path in segments(folder) if path.exists())
    content = bytearray(plain.read_bytes())
    content[200] ^= 1
    plain.write_bytes(content)
    finished = run(folder, nats_server, "--feeds", "stocks")
    assert finished.exit_code == ExitCode.BAD_DATA
    assert f"ingestor-replay: {plain} is damaged from byte 44 to " in finished.err
    assert finished.summary["skipped"] == 1
    found = published(nats_server)
    everything_live = live_messages("stocks", STOCKS)
    missing = len(everything_live) - len(found)
    assert 1 <= missing <= 4
    assert found[-1] == everything_live[-1]


# What is wrong before anything starts


def refused(cwd: Path, *arguments: str) -> tuple[int, str]:
    """How a replay that cannot start ends; no server is asked for anything."""
    finished = replay(*arguments, "--nats", "nats://127.0.0.1:9", cwd=cwd)
    return finished.exit_code, finished.err.strip().splitlines()[-1]


def test_a_journal_folder_that_is_missing(tmp_path: Path) -> None:
    code, said = refused(tmp_path, "--journal", "gone")
    assert code == ExitCode.NO_DATA
    assert said == (
        "ingestor-replay: the journal folder gone cannot be listed: No such file or directory"
    )


def test_a_folder_that_is_no_journal(with_files: Path) -> None:
    code, said = refused(with_files, "--journal", "data", "--data-dir", "data")
    assert code == ExitCode.NO_DATA
    assert said == (
        "ingestor-replay: data holds no journal: no file is named "
        "stocks-YYYYMMDD-NNNNNN.journal[.zst] or options-..."
    )


@pytest.mark.parametrize(
    ("feeds", "said"),
    [
        ((), "the journal in journal holds nothing of 2020-02-03; dates there are: 2024-01-02"),
        (
            ("--feeds", "options"),
            "journal holds no options of 2020-02-03; dates there are: 2024-01-02",
        ),
    ],
)
def test_a_date_that_the_journal_lacks(with_files: Path, feeds: tuple[str, ...], said: str) -> None:
    found = refused(with_files, "--journal", "journal", "--date", "2020-02-03", *feeds)
    assert found == (ExitCode.NO_DATA, f"ingestor-replay: {said}")


def test_one_of_several_dates_that_a_feed_lacks(with_files: Path) -> None:
    record(with_files / "journal", "stocks", stock_frames(5, start_ns=NEXT_NS))
    dates = ("--date", DAY.isoformat(), "--date", NEXT.isoformat())
    code, said = refused(with_files, "--journal", "journal", *dates)
    assert code == ExitCode.NO_DATA
    assert said == (
        "ingestor-replay: journal holds no options of 2024-01-03; dates there are: 2024-01-02"
    )


def test_feeds_that_only_a_journal_has_need_one(with_files: Path) -> None:
    code, said = refused(with_files, "--data-dir", "data", "--feeds", "stocks,trades")
    assert code == ExitCode.CONFIGURATION
    assert said == (
        "ingestor-replay: replay.feeds names stocks, which only a journal has: "
        "name its folder with --journal or replay.journal_dir"
    )


def test_files_that_are_named_must_be_there(folder: Path) -> None:
    more = ("--data-dir", "data", "--feeds", "stocks,trades")
    code, said = refused(folder, "--journal", "journal", *more)
    assert code == ExitCode.NO_DATA
    assert said.startswith("ingestor-replay: the data folder data does not exist")
