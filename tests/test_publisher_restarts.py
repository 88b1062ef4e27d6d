"""A publisher that dies, or stands still, amid a run: nothing is missing, and nothing is twice.

Of a live run the journal knows what was received, since no feed dies here, and `ingestor verify`
compares the stream with it, event by event. A replay's stream is compared with an undisturbed one.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import psutil
import pytest

from ingestor.model.errors import ExitCode
from ingestor.model.feed_status import STATUS_STREAM, FeedStatus, What, decode_status
from ingestor.runtime.supervisor import MAX_RESTARTS, RESTARTS_WITHIN_NS
from tests.conftest import StartNatsServer
from tests.dbn_files import dbn_path, depth, trades, write_dbn
from tests.live_cli import feeds_of, simulator, stored, subscriptions, until
from tests.live_cli import start as start_live
from tests.nats_servers import NatsServer
from tests.processes import kill_to_the_end, named
from tests.replay_cli import Finished, finish, read_stream, replay
from tests.replay_cli import start as start_replay

SMALL_RINGS = "[process]\nblock_bytes = 65536\nring_bytes = 1048576\n"
PAUSE_S = 1.2 * RESTARTS_WITHIN_NS / 1e9 / MAX_RESTARTS
"""So far apart publishers may die for as long as one likes."""


def more_stored(server: NatsServer, than: int) -> bool:
    return stored(server.url) > than


def hit(process: subprocess.Popen[str], number: signal.Signals, server: NatsServer) -> float:
    """Hit the publisher, and return how long it took until another one stored something, s."""
    publisher = named(process.pid, "publisher")
    began_s = time.monotonic()
    publisher.send_signal(number)
    until(lambda: not alive(publisher), "it is gone")
    until(lambda: bool(publishers(process.pid)), "it is started again")
    before = stored(server.url)
    until(partial(more_stored, server, before), "events are stored again")
    return time.monotonic() - began_s


def alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def publishers(pid: int) -> list[psutil.Process]:
    found = psutil.Process(pid).children()
    return [one for one in found if alive(one) and one.name() == "publisher"]


def verified(server: NatsServer, cwd: Path, *what: str) -> str:
    """What ``ingestor verify`` says of the stream."""
    finished = subprocess.run(
        [sys.executable, "-m", "ingestor", "verify", "--nats", server.url, *what],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert finished.returncode == ExitCode.OK, finished.stdout + finished.stderr
    return finished.stdout


def live_through(
    hits: list[tuple[signal.Signals, float]],
    server: NatsServer,
    cwd: Path,
    *,
    encoding: str,
    rate: int,
) -> tuple[Finished, list[float]]:
    """Run live, hit the publisher again and again, each time after a pause; then stop."""
    (config := cwd / "live.toml").write_text(f'[publish]\nencoding = "{encoding}"\n')
    rates = ("--rate", str(rate), "--options-rate", str(rate // 10))
    with simulator(*rates) as vendor:
        process = start_live(
            *("--nats", server.url, "--config", str(config), "--summary", "json"),
            *("--record", str(cwd / "journal")),
            cwd=cwd,
            env=feeds_of(vendor),
        )
        until(lambda: bool(subscriptions(vendor, "options")), "options subscribed")
        until(partial(more_stored, server, 100), "events stored")
        took_s = []
        for number, pause_s in hits:
            time.sleep(pause_s)
            took_s.append(hit(process, number, server))
        process.send_signal(signal.SIGTERM)
        return finish(process), took_s


def statuses(server: NatsServer) -> list[FeedStatus]:
    return [decode_status(one.data) for one in read_stream(server.url, STATUS_STREAM)]


def check_live(finished: Finished, server: NatsServer, journal: Path, hits: int) -> None:
    assert finished.exit_code == 143, finished.err
    assert "equal" in verified(server, journal.parent, "--journal", str(journal))
    summary, feeds = finished.summary, finished.summary["feeds"]
    records = sum(feed["records"] for feed in feeds.values())
    assert (summary["published"], summary["not_stored"], summary["unknown"]) == (records, 0, 0)
    assert summary["first_seq"] == 1
    for feed in feeds.values():
        assert {feed[name] for name in ("gaps", "restarts", "undelivered")} == {0}
    told = statuses(server)
    assert not [one for one in told if one.what is What.GAP]
    restarts = [one.feed for one in told if one.what is What.RESTART]
    assert (restarts.count("stocks"), restarts.count("options")) == (hits, hits)


@pytest.mark.parametrize("encoding", ["json", pytest.param("packed", marks=pytest.mark.slow)])
def test_a_live_publisher_that_is_killed_costs_nothing(
    nats_server: NatsServer, tmp_path: Path, encoding: str
) -> None:
    hits = [(signal.SIGKILL, 0.3)] * 2
    finished, took_s = live_through(hits, nats_server, tmp_path, encoding=encoding, rate=3_000)
    check_live(finished, nats_server, tmp_path / "journal", len(hits))
    assert max(took_s) < 10


@pytest.mark.slow
@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("encoding", ["json", "packed"])
def test_a_live_publisher_that_is_killed_and_stopped_forty_times_costs_nothing(
    nats_server: NatsServer, tmp_path: Path, encoding: str
) -> None:
    hits = [(signal.SIGKILL, PAUSE_S)] * 30 + [(signal.SIGSTOP, PAUSE_S)] * 10
    finished, took_s = live_through(hits, nats_server, tmp_path, encoding=encoding, rate=5_000)
    kills, stops = sorted(took_s[:30]), sorted(took_s[30:])
    print(f"{encoding}: streaming again after a kill {kills[15]:.2f} s, at most {kills[-1]:.2f} s;")
    print(f"after a stop {stops[5]:.2f} s, at most {stops[-1]:.2f} s")
    check_live(finished, nats_server, tmp_path / "journal", len(hits))


def test_a_publisher_that_dies_again_and_again_ends_the_run_with_its_causes(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    process = start_live("--demo", "--nats", nats_server.url, cwd=tmp_path)
    until(partial(more_stored, nats_server, 0), "events stored")
    kill_to_the_end(process, "publisher")
    finished = finish(process)
    assert finished.exit_code == ExitCode.CHILD_FAILED
    assert f"process publisher has died {MAX_RESTARTS + 1} times within a minute" in finished.err
    assert "was killed by SIGKILL" in finished.err.strip().splitlines()[-1]


@pytest.mark.slow
def test_a_live_publisher_that_is_started_again_waits_for_a_server_that_is_away(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    with simulator("--rate", "500", "--options-rate", "50") as vendor:
        process = start_live(
            *("--nats", nats_server.url, "--summary", "json", "--record", str(tmp_path / "j")),
            cwd=tmp_path,
            env=feeds_of(vendor),
        )
        until(partial(more_stored, nats_server, 100), "events stored")
        nats_server.kill()
        named(process.pid, "publisher").kill()
        # Longer than a first start waits for a server.
        time.sleep(7)
        nats_server.start()
        before = stored(nats_server.url)
        until(partial(more_stored, nats_server, before), "events are stored again")
        process.send_signal(signal.SIGTERM)
        finished = finish(process)
    assert finished.exit_code == 143, finished.err
    assert "equal" in verified(nats_server, tmp_path, "--journal", str(tmp_path / "j"))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """More rows than `SMALL_RINGS` hold: no feed is at its end when the publisher dies."""
    folder = tmp_path / "data"
    write_dbn(dbn_path(folder, "trades"), trades(20_000, step_ns=15 * 10**5), schema="trades")
    write_dbn(dbn_path(folder, "mbp-10"), depth(10_000, step_ns=3 * 10**6), schema="mbp-10")
    return folder


def replay_through(
    kills: int, data: Path, server: NatsServer, *more: str, pause_s: float = 0.0
) -> Finished:
    (small := data.parent / "small.toml").write_text(SMALL_RINGS)
    process = start_replay(
        *("--data-dir", str(data), "--nats", server.url, "--summary", "json", *more),
        *("--config", str(small)),
        cwd=data.parent,
    )
    for kill in range(kills):
        until(partial(more_stored, server, 5_000 * kill), "the run goes on")
        time.sleep(pause_s)
        hit(process, signal.SIGKILL, server)
    return finish(process)


@pytest.mark.parametrize("encoding", [pytest.param("json", marks=pytest.mark.slow), "packed"])
def test_a_replay_whose_publisher_is_killed_leaves_the_stream_as_if_it_had_not_been(
    data: Path, start_nats_server: StartNatsServer, encoding: str
) -> None:
    undisturbed, disturbed = start_nats_server(), start_nats_server()
    more = ("--encoding", encoding)
    if encoding == "json":
        replay("--data-dir", str(data), "--nats", undisturbed.url, cwd=data.parent)
    kills = 2 if encoding == "json" else 1
    finished = replay_through(kills, data, disturbed, "--speed", "8", *more)
    check_replay(finished, data, disturbed, undisturbed, packed=encoding == "packed")


def check_replay(
    finished: Finished, data: Path, disturbed: NatsServer, undisturbed: NatsServer, *, packed: bool
) -> None:
    assert finished.exit_code == ExitCode.OK, finished.err
    summary = finished.summary
    assert (summary["published"], summary["not_stored"], summary["unknown"]) == (30_000, 0, 0)
    if packed:
        assert "30,000 rows equal" in verified(disturbed, data.parent, "--data-dir", str(data))
        return
    expected = [(one.subject, one.data) for one in read_stream(undisturbed.url)]
    assert [(one.subject, one.data) for one in read_stream(disturbed.url)] == expected
