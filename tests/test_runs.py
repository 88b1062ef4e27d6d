"""Records and leases of runs, as their users meet them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import nats
import pytest

from ingestor.model.errors import ExitCode
from tests.conftest import StartNatsServer
from tests.dbn_files import dbn_path, trades, write_dbn
from tests.nats_servers import NatsServer
from tests.processes import named
from tests.replay_cli import finish, replay, start

TRADES = "market.futures.trades"
PATIENCE_S = 20


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Half a minute of trades, ten a second."""
    folder = tmp_path / "data"
    write_dbn(dbn_path(folder, "trades"), trades(300, step_ns=10**8), schema="trades")
    return folder


def arguments(data: Path, server: NatsServer, *more: str) -> list[str]:
    return ["--data-dir", str(data), "--feeds", "trades", "--nats", server.url, *more]


def runs(server: NatsServer, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ingestor", "runs", "--nats", server.url, *more],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )


def records(server: NatsServer) -> list[dict[str, Any]]:
    return [json.loads(line) for line in runs(server, "--json").stdout.splitlines()]


def until_record(server: NatsServer, state: str) -> dict[str, Any]:
    """Wait for a record in this state that tells of something stored, and return it."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        found = [one for one in records(server) if one["state"] == state and one["published"]]
        if found:
            return found[-1]
        assert time.monotonic() < deadline, "no such record"


def leases(server: NatsServer) -> list[str]:
    async def read() -> list[str]:
        client = await nats.connect(server.url)
        context = client.jetstream()
        # The leader's own word: a bucket's list of keys may be out of date, or time out.
        name = f"MARKET_DATA.{TRADES}"
        try:
            stored = await context.get_last_msg("KV_INGESTOR_LEASES", f"$KV.INGESTOR_LEASES.{name}")
        except nats.js.errors.NotFoundError:
            return []
        finally:
            await client.close()
        return [name] if stored.data else []

    return asyncio.run(read())


def test_a_run_leaves_a_record_of_who_what_where_and_how_it_ended(
    data: Path, nats_server: NatsServer
) -> None:
    process = start(*arguments(data, nats_server), cwd=data.parent)
    assert finish(process).exit_code == ExitCode.OK
    (record,) = records(nats_server)
    assert (record["kind"], record["state"], record["exit_code"]) == ("replay", "done", 0)
    assert record["pid"] == process.pid
    assert (record["stream"], record["subjects"]) == ("MARKET_DATA", [TRADES])
    assert (record["first_seq"], record["last_seq"]) == (1, 300)
    assert record["published"] == {TRADES: 300}
    assert record["checkpoint"] == {"seq": 300, "rows": {TRADES: 300}}
    (file,) = record["what"]["files"]
    assert file["size"] == dbn_path(data, "trades").stat().st_size
    lines = runs(nats_server).stdout.splitlines()
    assert lines[0].split()[:4] == ["started", "(UTC)", "kind", "state"]
    assert lines[1].split()[2:4] == ["replay", "done"]
    assert lines[1].endswith(" 1 to 300   300")


def test_nothing_has_been_left_where_nothing_ran(nats_server: NatsServer) -> None:
    assert runs(nats_server).stdout == "no run has left a record here\n"


def test_a_record_holds_no_secret(data: Path, start_nats_server: StartNatsServer) -> None:
    server = start_nats_server(extra_config='authorization { user: me, password: "hush-hush" }')
    url = server.url.replace("//", "//me:hush-hush@")
    named = [*arguments(data, server)[:-1], url]
    assert replay(*named, cwd=data.parent).exit_code == ExitCode.OK
    listed = subprocess.run(
        [sys.executable, "-m", "ingestor", "runs", "--nats", url, "--json"],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout
    assert TRADES in listed
    assert "hush" not in listed


def test_a_run_tells_how_far_it_is_while_it_runs(data: Path, nats_server: NatsServer) -> None:
    process = start(*arguments(data, nats_server, "--speed", "5"), cwd=data.parent)
    record = until_record(nats_server, "running")
    assert 0 < record["checkpoint"]["rows"][TRADES] <= 300
    assert record["checkpoint"]["seq"] == record["checkpoint"]["rows"][TRADES]
    process.send_signal(signal.SIGINT)
    assert finish(process).exit_code == ExitCode.INTERRUPTED
    (record,) = records(nats_server)
    assert (record["state"], record["exit_code"]) == ("stopped", 130)


def test_a_second_run_on_the_same_subjects_is_refused_naming_the_first(
    data: Path, nats_server: NatsServer
) -> None:
    first = start(*arguments(data, nats_server, "--speed", "0.2"), cwd=data.parent)
    record = until_record(nats_server, "running")
    assert leases(nats_server) == [f"MARKET_DATA.{TRADES}"]
    second = replay(*arguments(data, nats_server), cwd=data.parent)
    assert second.exit_code == ExitCode.STREAM_IN_USE
    last = second.err.strip().splitlines()[-1]
    assert f"{TRADES} of stream MARKET_DATA is being written by run {record['run']}" in last
    assert f"(host {record['host']}, pid {first.pid}, since " in last
    knows = replay(*arguments(data, nats_server, "--no-lease"), cwd=data.parent)
    assert knows.exit_code == ExitCode.OK, knows.err
    first.send_signal(signal.SIGINT)
    assert finish(first).exit_code == ExitCode.INTERRUPTED
    assert leases(nats_server) == []


def test_a_lease_of_a_process_that_was_killed_is_free(data: Path, nats_server: NatsServer) -> None:
    first = start(*arguments(data, nats_server, "--speed", "1"), cwd=data.parent)
    until_record(nats_server, "running")
    first.kill()
    finish(first)
    assert leases(nats_server) == [f"MARKET_DATA.{TRADES}"]
    assert replay(*arguments(data, nats_server), cwd=data.parent).exit_code == ExitCode.OK


# The lease lives for ten seconds; a shorter life is waited out in tests/nats/test_buckets.py.
@pytest.mark.slow
def test_a_lease_that_nobody_renews_is_free_within_ten_seconds(
    data: Path, nats_server: NatsServer
) -> None:
    """Its holder seems to live elsewhere, so only time can tell that it is dead."""
    holder = b'{"run":"theirs","host":"elsewhere","pid":1,"since_ns":0,"place":"another boot"}'

    async def hold() -> None:
        client = await nats.connect(nats_server.url)
        await client.jetstream().publish(f"$KV.INGESTOR_LEASES.MARKET_DATA.{TRADES}", holder)
        await client.close()

    assert replay(*arguments(data, nats_server), cwd=data.parent).exit_code == ExitCode.OK
    asyncio.run(hold())
    began = time.monotonic()
    refused = replay(*arguments(data, nats_server), cwd=data.parent)
    assert refused.exit_code == ExitCode.STREAM_IN_USE
    assert "run theirs (host elsewhere, pid 1, since 1970-" in refused.err
    while leases(nats_server):
        assert time.monotonic() - began < 10
        time.sleep(0.05)
    assert replay(*arguments(data, nats_server), cwd=data.parent).exit_code == ExitCode.OK


def test_a_run_whose_lease_another_has_taken_ends(data: Path, nats_server: NatsServer) -> None:
    first = start(*arguments(data, nats_server, "--speed", "1"), cwd=data.parent)
    until_record(nats_server, "running")
    holder = b'{"run":"theirs","host":"elsewhere","pid":1,"since_ns":0}'

    async def take() -> None:
        client = await nats.connect(nats_server.url)
        await client.jetstream().publish(f"$KV.INGESTOR_LEASES.MARKET_DATA.{TRADES}", holder)
        await client.close()

    asyncio.run(take())
    finished = finish(first)
    assert finished.exit_code == ExitCode.STREAM_IN_USE
    assert "is being written by run theirs" in finished.err.strip().splitlines()[-1]


def test_without_permission_it_is_said_once_and_the_run_goes_on(
    data: Path, start_nats_server: StartNatsServer
) -> None:
    server = start_nats_server(
        extra_config="""
        authorization { users: [
            {user: all, password: all},
            {user: some, password: some, permissions: {publish: {deny: ["$KV.>"]}}},
        ] }"""
    )
    url = server.url.replace("//", "//some:some@")
    finished = replay(*arguments(data, server)[:-1], url, cwd=data.parent)
    assert finished.exit_code == ExitCode.OK, finished.err
    assert finished.err.count("no record of this run is kept, and no lease") == 1


def test_a_keeper_that_is_killed_is_started_again_and_keeps_the_lease(
    data: Path, nats_server: NatsServer
) -> None:
    process = start(*arguments(data, nats_server, "--speed", "0.5"), cwd=data.parent)
    before = until_record(nats_server, "running")
    named(process.pid, "records").kill()
    deadline = time.monotonic() + PATIENCE_S
    while until_record(nats_server, "running")["published"] == before["published"]:
        assert time.monotonic() < deadline, "the record stands still"
    assert leases(nats_server) == [f"MARKET_DATA.{TRADES}"]
    process.send_signal(signal.SIGINT)
    assert finish(process).exit_code == ExitCode.INTERRUPTED
    (record,) = records(nats_server)
    assert record["state"] == "stopped"
