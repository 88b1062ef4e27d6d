"""The replay command as its user meets it: what it says, how it ends, what is in the stream."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from ingestor.model.errors import ExitCode
from ingestor.model.units import UNDEF_PRICE
from tests.conftest import StartNatsServer
from tests.dbn_files import DAY, DAY_NS, dbn_path, depth, trades, write_dbn, write_small_day
from tests.live_cli import stored as messages_in
from tests.live_cli import until
from tests.nats_servers import NatsServer
from tests.ports import free_port
from tests.processes import data_path
from tests.replay_cli import Finished, finish, read_stream, replay, start

PATIENCE_S = 20
TRADES, DEPTH = "market.futures.trades", "market.futures.mbp10"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A small day: 300 trades and 900 depth records, half a minute long."""
    return write_small_day(tmp_path / "data")


def run(data: Path, server: NatsServer, *more: str) -> Finished:
    return replay(
        "--data-dir", str(data), "--nats", server.url, "--summary", "json", *more, cwd=data.parent
    )


def last_line(finished: Finished) -> str:
    return finished.err.strip().splitlines()[-1]


def children(pid: int) -> list[int]:
    """Pids of the processes of a run: feeds that have not ended yet, then the publisher."""
    return data_path(pid)


def until_more_is_stored(server: NatsServer, than: int = 0) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while stored(server) <= than:
        assert time.monotonic() < deadline, "nothing more is stored"
        time.sleep(0.02)


def stored(server: NatsServer) -> int:
    try:
        return len(read_stream(server.url))
    except Exception:  # noqa: BLE001 - there is no stream yet
        return 0


def paced(data: Path, server: NatsServer, *more: str) -> subprocess.Popen[str]:
    """Start a replay at real time, and return once something of it is stored."""
    process = start(
        "--data-dir", str(data), "--nats", server.url, "--speed", "1", "--summary", "json", *more,
        cwd=data.parent,
    )  # fmt: skip
    until_more_is_stored(server)
    return process


# What is replayed


def test_one_feed_alone(data: Path, nats_server: NatsServer) -> None:
    assert run(data, nats_server, "--feeds", "trades").summary["by_subject"] == {TRADES: 300}


def test_a_session_by_new_york_time(data: Path, nats_server: NatsServer) -> None:
    """The files begin at midnight UTC, 19:00 in New York on the day before."""
    write_dbn(
        dbn_path(data, "trades"),
        trades(300, start_ns=DAY_NS + 14 * 3600 * 10**9, step_ns=60 * 10**9),
        schema="trades",
    )
    more = ("--feeds", "trades", "--start", "09:30", "--end", "10:00")
    assert run(data, nats_server, *more).summary["published"] == 30


def test_symbols_and_their_new_names(data: Path, nats_server: NatsServer) -> None:
    config = data.parent / "replay.toml"
    config.write_text('[replay]\nrename = { "ES.c.0" = "ES" }\n')
    assert run(data, nats_server, "--symbols", "NQ.c.0").summary["published"] == 0
    assert run(data, nats_server, "--config", str(config)).summary["published"] == 1200
    assert {json.loads(one.data)["symbol"] for one in read_stream(nats_server.url)} == {"ES"}


def test_the_environment_is_heard(data: Path, nats_server: NatsServer) -> None:
    env = {
        "NATS_URL": nats_server.url,
        "DBN_DATA_DIR": str(data),
        "REPLAY_DATE": DAY.isoformat(),
        "REPLAY_SPEED": "100",
    }
    finished = replay("--summary", "json", cwd=data.parent, env=env)
    assert finished.summary["published"] == 1200
    assert finished.summary["elapsed_s"] >= 0.29


def test_without_dates_every_day_is_replayed_one_after_the_other(
    data: Path, nats_server: NatsServer
) -> None:
    day = DAY.replace(day=3)
    later = trades(5, start_ns=DAY_NS + 86_400 * 10**9)
    write_dbn(dbn_path(data, "trades", day), later, schema="trades")
    write_dbn(dbn_path(data, "mbp-10", day), depth(0), schema="mbp-10")
    summary = run(data, nats_server).summary
    assert summary["published"] == 1205
    assert summary["last_ts_event_ns"] == int(later["ts_event_ns"][-1])


def test_packed_messages_carry_the_same_rows(data: Path, nats_server: NatsServer) -> None:
    summary = run(data, nats_server, "--encoding", "packed").summary
    assert summary["by_subject"] == {TRADES: 300, DEPTH: 900}
    assert summary["last_seq"] < 1200


def test_packed_messages_are_as_short_as_the_server_wants_them(
    data: Path, start_nats_server: StartNatsServer
) -> None:
    server = start_nats_server(extra_config="max_payload: 65536")
    summary = run(data, server, "--encoding", "packed", "--feeds", "mbp10").summary
    assert summary["by_subject"] == {DEPTH: 900}
    assert 60_000 < max(len(message.data) for message in read_stream(server.url)) <= 65_536


# What bad input gets


def test_a_file_cut_inside_a_record_is_published_as_far_as_it_is_whole(
    data: Path, nats_server: NatsServer
) -> None:
    path = write_dbn(dbn_path(data, "trades"), trades(300), schema="trades", zstd=True)
    whole = write_dbn(data / "plain", trades(300), schema="trades", zstd=False).read_bytes()
    path.unlink()
    path = dbn_path(data, "trades", zstd=False)
    path.write_bytes(whole[:-10])
    finished = run(data, nats_server)
    assert finished.exit_code == ExitCode.BAD_DATA
    assert str(path) in last_line(finished)
    assert finished.summary["by_subject"] == {TRADES: 299, DEPTH: 900}


def test_trades_without_a_price_are_skipped_counted_and_named(
    data: Path, nats_server: NatsServer
) -> None:
    records = trades(300)
    records["price_e9"][7:9] = UNDEF_PRICE
    path = write_dbn(dbn_path(data, "trades"), records, schema="trades")
    finished = run(data, nats_server)
    assert (finished.exit_code, finished.summary["skipped"]) == (0, 2)
    assert f"{path}: records skipped: 2, the first is number 7 (from 0)" in finished.err


def test_records_that_step_back_in_time_keep_their_place_and_are_counted(
    data: Path, nats_server: NatsServer
) -> None:
    records = trades(300, step_ns=10**8)
    records["ts_event_ns"][100] -= np.uint64(10**9)
    records["ts_recv_ns"][100] -= np.uint64(10**9)
    write_dbn(dbn_path(data, "trades"), records, schema="trades")
    summary = run(data, nats_server, "--feeds", "trades").summary
    assert (summary["late"], summary["published"]) == (1, 300)
    sequences = [json.loads(one.data)["seq"] for one in read_stream(nats_server.url)]
    assert sequences == records["sequence"].tolist()


@pytest.mark.parametrize(
    ("more", "exit_code", "sentence"),
    [
        (["--data-dir", "nowhere"], ExitCode.NO_DATA, "the data folder nowhere does not exist"),
        (["--date", "2031-05-05"], ExitCode.NO_DATA, "2024-01-02"),
        (["--speed", "-1"], ExitCode.CONFIGURATION, "replay.speed = '-1' (flag --speed)"),
        (["--speed", "fast"], ExitCode.CONFIGURATION, "replay.speed = 'fast' (flag --speed)"),
        (["--date", "yesterday"], ExitCode.CONFIGURATION, "replay.dates"),
        (["--sped", "1"], ExitCode.CONFIGURATION, "--sped"),
        (["--config", "none.toml"], ExitCode.CONFIGURATION, "none.toml cannot be read"),
        (["--nats", "http://x"], ExitCode.CONFIGURATION, "not of the form nats://host:port"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence_and_nothing_is_started(
    data: Path, more: list[str], exit_code: int, sentence: str
) -> None:
    finished = replay("--data-dir", str(data), "--nats", "nats://127.0.0.1:9", *more, cwd=data)
    assert finished.exit_code == exit_code
    assert sentence in last_line(finished)
    assert finished.out == ""
    assert not (data / ".data").exists()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [(b"this is not DBN at all", "is not a DBN file"), (b"", "empty")],
)
def test_a_file_that_is_not_dbn_is_named(
    data: Path, nats_server: NatsServer, content: bytes, sentence: str
) -> None:
    path = dbn_path(data, "trades")
    path.write_bytes(content)
    finished = run(data, nats_server)
    assert finished.exit_code == ExitCode.BAD_DATA
    assert str(path) in last_line(finished)
    assert sentence in last_line(finished)
    assert finished.summary["by_subject"] == {DEPTH: 900}


def test_a_wrong_schema_in_the_right_name_is_named(data: Path, nats_server: NatsServer) -> None:
    path = write_dbn(dbn_path(data, "trades"), depth(5), schema="mbp-10")
    finished = run(data, nats_server)
    assert finished.exit_code == ExitCode.BAD_DATA
    assert str(path) in last_line(finished)
    assert "mbp-10" in last_line(finished)


# What a server that says no gets


def test_no_server_is_one_sentence_and_a_code_to_restart_on(data: Path) -> None:
    config = data.parent / "replay.toml"
    config.write_text("[nats]\ngive_up_after_s = 1\n")
    where = f"nats://me:hunter2@127.0.0.1:{free_port()}"
    finished = replay(
        "--data-dir", str(data), "--nats", where, "--config", str(config), cwd=data.parent
    )
    assert finished.exit_code == ExitCode.NATS_UNREACHABLE
    assert "127.0.0.1" in last_line(finished)
    assert "hunter2" not in finished.err + finished.out


def test_wrong_credentials_are_one_sentence(data: Path, start_nats_server: StartNatsServer) -> None:
    server = start_nats_server(extra_config='authorization { user: "u", password: "right" }')
    where = server.url.replace("nats://", "nats://u:wr0ng@")
    finished = replay("--data-dir", str(data), "--nats", where, cwd=data.parent)
    assert finished.exit_code == ExitCode.NATS_REFUSED
    assert "wr0ng" not in finished.err
    assert "uthorization" in last_line(finished)


def test_a_stream_that_is_full_ends_the_run_with_what_was_stored(
    data: Path, nats_server: NatsServer
) -> None:
    config = data.parent / "replay.toml"
    config.write_text('[nats]\nmax_bytes = 100000\ndiscard = "new"\ngive_up_after_s = 1\n')
    finished = run(data, nats_server, "--config", str(config))
    assert finished.exit_code == ExitCode.STREAM
    assert "maximum bytes" in last_line(finished)
    assert 0 < finished.summary["published"] == len(read_stream(nats_server.url)) < 1200


# What happens while it runs


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_signal_flushes_and_reports_exactly_what_is_stored(
    data: Path, nats_server: NatsServer, number: signal.Signals, exit_code: int
) -> None:
    process = paced(data, nats_server)
    process.send_signal(number)
    finished = finish(process)
    assert finished.exit_code == exit_code
    assert 0 < finished.summary["published"] == len(read_stream(nats_server.url)) < 1200


def test_the_second_signal_ends_everything_at_once(data: Path, nats_server: NatsServer) -> None:
    process = paced(data, nats_server)
    os.kill(children(process.pid)[-1], signal.SIGSTOP)
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    assert finish(process).exit_code != 0
    assert time.monotonic() - began < 5


def more_than(messages: int, server: NatsServer) -> bool:
    return messages_in(server.url) > messages


def test_feeds_that_are_killed_are_started_again_and_the_stream_is_as_if_they_had_not_been(
    data: Path, start_nats_server: StartNatsServer
) -> None:
    """There are more rows than rings hold, so the feeds are still there when they are killed."""
    write_dbn(dbn_path(data, "trades"), trades(25_000, step_ns=12 * 10**5), schema="trades")
    write_dbn(dbn_path(data, "mbp-10"), depth(6_000, step_ns=5 * 10**6), schema="mbp-10")
    (small := data.parent / "small.toml").write_text(
        "[process]\nblock_bytes = 65536\nring_bytes = 1048576\n"
    )
    undisturbed, disturbed = start_nats_server(), start_nats_server()
    run(data, undisturbed, "--speed", "0")
    process = paced(data, disturbed, "--speed", "6", "--config", str(small))
    publisher = children(process.pid)[-1]
    for _ in range(4):
        before = messages_in(disturbed.url)
        until(partial(more_than, before + 1_500, disturbed), "the run goes on")
        for feed in {*children(process.pid)} - {publisher}:
            os.kill(feed, signal.SIGKILL)
    finished = finish(process)
    assert finished.exit_code == ExitCode.OK, finished.err
    assert finished.err.count("started again as pid") > 4
    assert finished.summary["published"] == 31_000
    assert finished.summary["not_stored"] == finished.summary["unknown"] == 0
    expected = [(one.subject, one.data) for one in read_stream(undisturbed.url)]
    assert [(one.subject, one.data) for one in read_stream(disturbed.url)] == expected


def test_a_frozen_process_is_noticed_and_started_again(data: Path, nats_server: NatsServer) -> None:
    config = data.parent / "replay.toml"
    config.write_text("[process]\nsilence_s = 1\n")
    process = paced(data, nats_server, "--config", str(config), "--speed", "5")
    os.kill(children(process.pid)[-1], signal.SIGSTOP)
    finished = finish(process)
    assert finished.exit_code == ExitCode.OK
    assert "process publisher" in finished.err
    assert "has given no sign of life for 1 s: started again" in finished.err
    assert finished.summary["published"] == stored(nats_server) == 1_200


def test_a_server_that_is_killed_and_comes_back_costs_nothing_and_repeats_nothing(
    data: Path, nats_server: NatsServer
) -> None:
    process = paced(data, nats_server, "--speed", "4")
    for _ in range(3):
        nats_server.kill()
        nats_server.start()
        until_more_is_stored(nats_server, than=stored(nats_server))
    finished = finish(process)
    assert finished.exit_code == 0, finished.err
    assert finished.summary["published"] == 1200
    events = [json.loads(one.data) for one in read_stream(nats_server.url)]
    keys = [(one["ts_event_ns"], one["ts_recv_ns"], one["seq"], "levels" in one) for one in events]
    assert len(keys) == len(set(keys)) == 1200
    assert keys == sorted(keys)


@pytest.mark.usefixtures("default_port")
def test_an_embedded_server_is_started_told_of_and_stopped(data: Path) -> None:
    finished = replay("--data-dir", str(data), cwd=data.parent)
    assert finished.exit_code == 0, finished.err
    assert "started an embedded NATS server" in finished.err
    assert "published     1,200 events" in finished.out
    assert (data.parent / ".data" / "nats" / "jetstream").is_dir()
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", 4222)) != 0


@pytest.mark.usefixtures("default_port")
def test_a_killed_embedded_server_is_noticed_at_once_and_has_its_exit_code(data: Path) -> None:
    process = start("--data-dir", str(data), "--speed", "0.1", cwd=data.parent)
    pid_file = data.parent / ".data" / "nats" / "nats-server.pid"
    deadline = time.monotonic() + PATIENCE_S
    while not (pid_file.exists() and len(children(process.pid)) > 1):
        assert time.monotonic() < deadline, "no server is started"
        time.sleep(0.02)
    os.kill(int(pid_file.read_text()), signal.SIGKILL)
    began = time.monotonic()
    finished = finish(process)
    assert finished.exit_code == ExitCode.EMBEDDED_SERVER, finished.err
    assert "the embedded NATS server ended by itself" in last_line(finished)
    assert time.monotonic() - began < 10
