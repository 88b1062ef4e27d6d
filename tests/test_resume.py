"""A replay that is started again goes on exactly behind what the stream holds."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nats
import pytest

from ingestor.config.schema import Nats
from ingestor.encode.packed import take_apart
from ingestor.model.errors import ExitCode, NatsUnreachableError
from ingestor.nats.answers import NoAnswerError
from ingestor.nats.connection import Connection
from ingestor.nats.options import ConnectOptions
from ingestor.runtime.run_keeper import begin
from ingestor.runtime.run_records import Leases, RunRecord, new_record
from tests.dbn_files import write_small_day
from tests.nats_servers import NatsServer
from tests.replay_cli import Finished, Stored, finish, read_stream, replay, start

TRADES = "market.futures.trades"
PATIENCE_S = 30


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_small_day(tmp_path / "data")


def arguments(data: Path, server: NatsServer, *more: str) -> list[str]:
    return ["--data-dir", str(data), "--nats", server.url, *more]


def run(data: Path, server: NatsServer, *more: str) -> Finished:
    finished = replay(*arguments(data, server, *more), "--summary", "json", cwd=data.parent)
    assert finished.exit_code == ExitCode.OK, finished.err
    return finished


def events(messages: list[Stored]) -> list[tuple[str, bytes]]:
    """The rows of packed messages; others as they are."""
    found = []
    for message in messages:
        if not message.data.startswith(b"\xab"):
            found.append((message.subject, message.data))
            continue
        opening, rows = take_apart(message.data)
        width = int.from_bytes(opening[6:8], "little")
        data = bytes(rows)
        found += [(message.subject, data[at : at + width]) for at in range(0, len(data), width)]
    return found


def kill_amid(data: Path, server: NatsServer, *more: str) -> None:
    """Start a replay, and kill it at some moment after it has stored something more."""
    before = stored(server)
    process = start(*arguments(data, server, *more), cwd=data.parent)
    deadline = time.monotonic() + PATIENCE_S
    while stored(server) == before:
        assert time.monotonic() < deadline, "nothing is stored"
        assert process.poll() is None, process.communicate()
    time.sleep(random.uniform(0, 0.5))
    process.kill()
    finish(process)


def stored(server: NatsServer) -> int:
    try:
        return len(read_stream(server.url))
    except nats.js.errors.NotFoundError:
        return 0


def test_a_job_that_is_complete_is_published_once(data: Path, nats_server: NatsServer) -> None:
    assert run(data, nats_server).summary["published"] == 1200
    again = run(data, nats_server)
    assert again.summary["published"] == 0
    assert "holds all of these files, 1,200 events from sequence 1 to 1,200" in again.err
    assert stored(nats_server) == 1200


def test_again_publishes_it_once_more_and_fresh_in_place_of_it(
    data: Path, nats_server: NatsServer
) -> None:
    first = run(data, nats_server)
    assert run(data, nats_server, "--again").summary["first_seq"] == 1201
    assert stored(nats_server) == 2400
    fresh = run(data, nats_server, "--fresh")
    assert fresh.summary["published"] == first.summary["published"]
    assert stored(nats_server) == 1200


def test_refuse_ends_with_a_code_where_something_is_there(
    data: Path, nats_server: NatsServer
) -> None:
    assert run(data, nats_server, "--existing", "refuse").summary["published"] == 1200
    refused = replay(*arguments(data, nats_server, "--existing", "refuse"), cwd=data.parent)
    assert refused.exit_code == ExitCode.STREAM
    assert "holds these files, or a part of them, from sequence 1 on" in refused.err
    assert stored(nats_server) == 1200


@pytest.mark.parametrize("encoding", [pytest.param("json", marks=pytest.mark.slow), "packed"])
def test_a_replay_that_was_killed_goes_on_where_the_stream_stands(
    data: Path, nats_server: NatsServer, encoding: str
) -> None:
    """Twice killed, at the pace of 5: the third run is not paced, and tells what it adds."""
    more = ("--encoding", encoding)
    kill_amid(data, nats_server, *more, "--speed", "5")
    kill_amid(data, nats_server, *more, "--speed", "5")
    there = len(events(read_stream(nats_server.url)))
    last = run(data, nats_server, *more)
    assert 0 < last.summary["published"] == 1200 - there < 1200
    assert last.summary["not_stored"] == last.summary["unknown"] == 0
    assert f"going on behind {there:,} events" in last.err
    stitched = events(read_stream(nats_server.url))
    run(data, nats_server, *more, "--fresh")
    assert stitched == events(read_stream(nats_server.url))


@contextlib.contextmanager
def written_beside(server: NatsServer) -> Iterator[None]:
    """Another run writes other subjects of the stream, fifty messages a second."""
    over = threading.Event()

    async def write() -> None:
        client = await nats.connect(server.url)
        while not over.is_set():
            await client.jetstream().publish("market.stocks.trades", b"{}")
            await asyncio.sleep(0.02)
        await client.close()

    with ThreadPoolExecutor(1) as others:
        writing = others.submit(asyncio.run, write())
        try:
            yield
        finally:
            over.set()
            writing.result()


def test_a_replay_goes_on_in_a_stream_in_which_another_run_writes(
    data: Path, nats_server: NatsServer
) -> None:
    kill_amid(data, nats_server, "--speed", "5")
    there = stored(nats_server)
    with written_beside(nats_server):
        last = run(data, nats_server)
    assert last.summary["published"] == 1200 - there
    ours = [one for one in read_stream(nats_server.url) if "futures" in one.subject]
    assert len(ours) == 1200


def test_a_replay_that_is_started_before_its_server_goes_on_where_the_stream_stands(
    data: Path, nats_server: NatsServer
) -> None:
    kill_amid(data, nats_server, "--speed", "5")
    expected = stored(nats_server)
    nats_server.kill()
    process = start(*arguments(data, nats_server, "--summary", "json"), cwd=data.parent)
    time.sleep(2)
    nats_server.start()
    finished = finish(process)
    assert finished.exit_code == ExitCode.OK, finished.err
    assert f"going on behind {expected:,} events" in finished.err
    assert finished.summary["published"] == 1200 - expected
    assert stored(nats_server) == 1200


def test_a_replay_of_which_nobody_says_where_it_stands_does_not_begin(
    nats_server: NatsServer,
) -> None:
    async def silent(_: Connection, __: RunRecord) -> RunRecord:
        raise NoAnswerError("no answer within 5 s")

    record = new_record("replay", "MARKET_DATA", subjects=(TRADES,))
    with pytest.raises(NatsUnreachableError, match="where the stream stands is not known"):
        begin(ConnectOptions((nats_server.url,)), record, Nats(), silent)


def test_a_live_run_that_nobody_answers_who_writes_does_not_begin_without_a_lease(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def silent(*_: object) -> None:
        raise NoAnswerError("no answer within 5 s")

    monkeypatch.setattr(Leases, "take", silent)
    record = new_record("live", "MARKET_DATA", subjects=(TRADES,))
    options = ConnectOptions((nats_server.url,))
    with pytest.raises(NatsUnreachableError, match="who writes to the stream is not known"):
        begin(options, record, Nats())
    assert begin(options, record, Nats(lease=False)) is not None


def test_what_another_wrote_to_the_subjects_meanwhile_does_not_count(
    data: Path, nats_server: NatsServer
) -> None:
    kill_amid(data, nats_server, "--speed", "5")
    foreign = b'{"foreign":true}'

    async def write() -> None:
        client = await nats.connect(nats_server.url)
        await client.jetstream().publish(TRADES, foreign)
        await client.close()

    asyncio.run(write())
    run(data, nats_server)
    ours = [one for one in events(read_stream(nats_server.url)) if one[1] != foreign]
    run(data, nats_server, "--fresh")
    assert ours == events(read_stream(nats_server.url))


def test_what_the_stream_no_longer_holds_is_published_anew(
    data: Path, nats_server: NatsServer
) -> None:
    run(data, nats_server)

    async def purge() -> None:
        client = await nats.connect(nats_server.url)
        await client.jetstream().purge_stream("MARKET_DATA")
        await client.close()

    asyncio.run(purge())
    anew = run(data, nats_server)
    assert anew.summary["published"] == 1200
    assert "no longer holds what run " in anew.err


def test_other_filters_are_another_job_and_that_is_said(
    data: Path, nats_server: NatsServer
) -> None:
    run(data, nats_server, "--feeds", "trades")
    other = run(data, nats_server)
    assert other.summary["published"] == 1200
    assert "holds another job on the same subjects" in other.err
