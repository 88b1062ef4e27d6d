"""What Databento delivers, as it is delivered, through the real command into a real server."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ingestor.model.errors import ExitCode
from ingestor.model.units import NS_PER_S
from tests.dbn_files import DAY, DAY_NS, INSTRUMENT, depth, trades
from tests.deliveries import ONE, Row, at, by_symbol, deliver, hourly, job, merged, rows
from tests.nats_servers import NatsServer
from tests.replay_cli import Finished, read_stream, replay

T = at(trades(40), sequence=100)
D = at(depth(60, step_ns=NS_PER_S // 2), sequence=500)


def published(server: NatsServer) -> list[Row]:
    events = [json.loads(one.data) for one in read_stream(server.url)]
    return [(e["ts_event_ns"], e["ts_recv_ns"], e["seq"], "levels" in e) for e in events]


def symbols_of(server: NatsServer) -> set[str]:
    return {json.loads(one.data)["symbol"] for one in read_stream(server.url)}


def run(cwd: Path, server: NatsServer, *arguments: str | Path) -> Finished:
    words = [str(argument) for argument in arguments]
    finished = replay(*words, "--nats", server.url, "--summary", "json", cwd=cwd)
    assert finished.exit_code == 0, finished.err
    return finished


def last_line(finished: Finished) -> str:
    return finished.err.strip().splitlines()[-1]


def test_a_folder_of_jobs_is_replayed_as_it_is_delivered(
    tmp_path: Path, nats_server: NatsServer
) -> None:
    base = tmp_path / "data" / "2024" / "q1" / "es"
    for name, records, schema in (("AAAAAAAAAA", T, "trades"), ("BBBBBBBBBB", D, "mbp-10")):
        folder = job(base / f"GLBX-20240103-{name}")
        deliver(folder / f"glbx-mdp3-20240102.{schema}.dbn.zst", records, schema)
    finished = run(tmp_path, nats_server, "--data-dir", "data")
    assert published(nats_server) == merged(T, D)
    assert "passed over" not in finished.err


def test_files_and_folders_named_together_are_one_replay(
    tmp_path: Path, nats_server: NatsServer
) -> None:
    one = deliver(tmp_path / "a.dbn", T, "trades")
    deliver(tmp_path / "job" / "b.dbn.zst", D, "mbp-10")
    run(tmp_path, nats_server, one, "--speed", "0", tmp_path / "job", one)
    assert published(nats_server) == merged(T, D)


def test_pieces_are_read_in_the_order_of_their_numbers(
    tmp_path: Path, nats_server: NatsServer
) -> None:
    """Steps back in time at the seams stay where they are: the pieces are one file."""
    whole = at(trades(120), sequence=1)
    whole["ts_event_ns"][40] -= np.uint64(5 * NS_PER_S)
    for number in range(3):
        name = f"glbx-mdp3-20240102.trades.{number:04d}.dbn.zst"
        deliver(job(tmp_path / "job") / name, whole[number * 40 : number * 40 + 40], "trades")
    run(tmp_path, nats_server, "--data-dir", "job", "--feeds", "trades")
    assert published(nats_server) == rows(whole)


def test_a_delivery_split_by_symbol_is_merged_in_time(
    tmp_path: Path, nats_server: NatsServer
) -> None:
    files = by_symbol(job(tmp_path / "job"), 30, 40)
    deliver(job(tmp_path / "other") / "glbx-mdp3-20240102.mbp-10.dbn.zst", D, "mbp-10")
    run(tmp_path, nats_server, "job", "other")
    assert published(nats_server) == merged(*files, D)
    assert symbols_of(nats_server) == {f"S{number:03d}" for number in range(30)} | {"ES.c.0"}


def test_datasets_that_give_one_number_to_two_instruments_keep_their_symbols(
    tmp_path: Path, nats_server: NatsServer
) -> None:
    es, nvda = at(trades(20), sequence=1), at(trades(20, start_ns=DAY_NS + 5), sequence=900)
    deliver(tmp_path / "trades" / "glbx-mdp3-20240102.trades.dbn", es, "trades")
    deliver(
        tmp_path / "trades" / "xnas-itch-20240102.trades.dbn", nvda, "trades",
        symbols={"NVDA": INSTRUMENT}, dataset="XNAS.ITCH",
    )  # fmt: skip
    run(tmp_path, nats_server, "--data-dir", tmp_path, "--feeds", "trades")
    assert published(nats_server) == merged(es, nvda)
    found = {(e["seq"] >= 900, e["symbol"]) for e in events(nats_server)}
    assert found == {(False, "ES.c.0"), (True, "NVDA")}


def events(server: NatsServer) -> Iterable[dict[str, Any]]:
    return [json.loads(one.data) for one in read_stream(server.url)]


def test_a_broken_file_among_those_merged_costs_its_own_rest_alone(
    tmp_path: Path, nats_server: NatsServer
) -> None:
    files = by_symbol(tmp_path, 3, 40)
    path = tmp_path / "glbx-mdp3-20240102.trades.S001.dbn.zst"
    plain = deliver(tmp_path / path.stem, files[1], "trades", symbols={"S001": 101})
    plain.write_bytes(plain.read_bytes()[:-1])
    path.unlink()
    finished = replay(
        "--data-dir", str(tmp_path), "--feeds", "trades", "--nats", nats_server.url,
        "--summary", "json", cwd=tmp_path,
    )  # fmt: skip
    assert finished.exit_code == ExitCode.BAD_DATA
    assert str(plain) in last_line(finished)
    assert published(nats_server) == merged(files[0], files[1][:-1], files[2])


def test_the_same_day_in_two_jobs_is_published_once_and_told(
    tmp_path: Path, nats_server: NatsServer
) -> None:
    for name in ("GLBX-20240103-AAAAAAAAAA", "GLBX-20240105-BBBBBBBBBB"):
        deliver(job(tmp_path / name) / "glbx-mdp3-20240102.trades.dbn.zst", T, "trades")
    finished = run(tmp_path, nats_server, "--data-dir", tmp_path, "--feeds", "trades")
    assert published(nats_server) == rows(T)
    (line,) = [line for line in finished.err.splitlines() if "passed over" in line]
    assert "GLBX-20240103-AAAAAAAAAA/glbx-mdp3-20240102.trades.dbn.zst: " in line
    assert "GLBX-20240105-BBBBBBBBBB/glbx-mdp3-20240102.trades.dbn.zst holds the same data" in line


@pytest.mark.parametrize("name", ["week.dbn.zst", "trades/glbx-mdp3-20240102.trades.dbn.zst"])
def test_of_a_longer_file_a_date_means_its_records_of_that_day(
    tmp_path: Path, nats_server: NatsServer, name: str
) -> None:
    """By the time of receipt, by which the vendor cuts days too."""
    week = hourly(24 * 4)
    week["ts_event_ns"][48] -= np.uint64(NS_PER_S)
    deliver(tmp_path / name, week, "trades", days=(DAY, DAY + 3 * ONE))
    dates = ("2024-01-03,2024-01-04", "2024-01-04")
    flags = [word for date in dates for word in ("--date", date)]
    run(tmp_path, nats_server, "--data-dir", tmp_path, "--feeds", "trades", *flags)
    assert published(nats_server) == rows(week[24:72])


def test_a_window_applies_to_each_day_of_a_longer_file(
    tmp_path: Path, nats_server: NatsServer
) -> None:
    week = hourly(24 * 4)
    path = deliver(tmp_path / "week.dbn.zst", week, "trades", days=(DAY, DAY + 3 * ONE))
    run(tmp_path, nats_server, path, "--start", "09:30", "--end", "16:00")
    assert published(nats_server) == [
        row for hour, row in enumerate(rows(week)) if 15 <= hour % 24 < 21
    ]


def test_what_is_seen_and_not_used_is_named_once_with_the_reason(
    tmp_path: Path, nats_server: NatsServer
) -> None:
    deliver(tmp_path / "trades.dbn", T, "trades")
    deliver(tmp_path / "glbx-mdp3-20240102.ohlcv-1m.dbn.zst", trades(0), "ohlcv-1m")
    deliver(tmp_path / "bars.dbn", trades(0), "ohlcv-1m")
    other = (DAY + ONE, DAY + ONE)
    deliver(tmp_path / "glbx-mdp3-20240103.trades.dbn.zst", T, "trades", days=other)
    deliver(tmp_path / "tomorrow.dbn", T, "trades", days=other)
    (tmp_path / "text.dbn").write_bytes(b"this is not DBN at all")
    (tmp_path / "empty.dbn").write_bytes(b"")
    (tmp_path / "glbx.csv.zst").write_bytes(b"x")
    (tmp_path / "job.zip").write_bytes(b"x")
    (tmp_path / "cut.dbn.zst.part").write_bytes(b"x")
    flags = ("--feeds", "trades", "--date", "2024-01-02")
    finished = run(tmp_path, nats_server, "--data-dir", tmp_path, *flags)
    assert published(nats_server) == rows(T)
    lines = [line for line in finished.err.splitlines() if "passed over" in line]
    expected = {
        "glbx-mdp3-20240102.ohlcv-1m.dbn.zst": "schema ohlcv-1m",
        "bars.dbn": "schema ohlcv-1m",
        "glbx-mdp3-20240103.trades.dbn.zst": "2024-01-03",
        "tomorrow.dbn": "2024-01-03",
        "text.dbn": "not a DBN file",
        "empty.dbn": "is empty",
        "glbx.csv.zst": "another encoding",
        "job.zip": "unpack it",
        "cut.dbn.zst.part": "not complete",
    }
    for name, reason in expected.items():
        (line,) = [line for line in lines if f"{tmp_path}/{name}" in line]
        assert reason in line
    assert len(lines) == len(expected)


def test_a_thousand_files_passed_over_make_one_line(
    tmp_path: Path, nats_server: NatsServer
) -> None:
    deliver(tmp_path / "trades.dbn", T, "trades")
    for number in range(1_000):
        (tmp_path / f"{number:04d}.dbn").write_bytes(b"text %d" % number)
    finished = run(tmp_path, nats_server, "--data-dir", tmp_path, "--feeds", "trades")
    lines = [line for line in finished.err.splitlines() if "passed over" in line]
    assert len(lines) == 1
    assert "1000 files, such as" in lines[0]


@pytest.mark.parametrize(
    ("symbols", "exit_code"), [("S001", 0), ("S001,ES.c.0", 0), ("ES", 3), ("S001,ESZ9", 3)]
)
def test_symbols_are_looked_for_in_all_files_of_all_feeds(
    tmp_path: Path, nats_server: NatsServer, symbols: str, exit_code: int
) -> None:
    files = by_symbol(tmp_path, 3, 10)
    deliver(tmp_path / "d.dbn", D, "mbp-10")
    finished = replay(
        "--data-dir", str(tmp_path), "--symbols", symbols, "--nats", nats_server.url,
        "--summary", "json", cwd=tmp_path,
    )  # fmt: skip
    assert finished.exit_code == exit_code, finished.err
    expected = [files[1]] * ("S001" in symbols) + [D] * ("ES.c.0" in symbols)
    assert finished.summary["published"] == sum(map(len, expected))
    if exit_code:
        wanted = symbols.rpartition(",")[2]
        assert f"no file bears the symbol {wanted}" in last_line(finished)
        assert "S000, S001, S002" in last_line(finished)
