"""What was published live is published again from its journal: the same bytes but for `source`."""

from __future__ import annotations

import json
import signal
from collections import defaultdict
from pathlib import Path

from ingestor.model.errors import ExitCode
from ingestor.sim.polygon.simulator_process import SimulatorProcess
from tests.conftest import StartNatsServer
from tests.live_cli import feeds_of, simulator, start, stored, subscriptions, until
from tests.nats_servers import NatsServer
from tests.replay_cli import Finished, finish, read_stream, replay

MARKETS = ("stocks", "options")
SUBJECTS = {"market.stocks.trades", "market.stocks.quotes", "market.options.trades"}


def recorded_run(vendor: SimulatorProcess, server: NatsServer, cwd: Path) -> Finished:
    """Stream for a while into a journal; both sockets are lost once in the middle."""
    process = start(
        "--nats", server.url, "--summary", "json", "--record", "journal",
        cwd=cwd, env=feeds_of(vendor),
    )  # fmt: skip
    until(lambda: bool(subscriptions(vendor, "options")), "options subscribed")
    before = stored(server.url)
    until(lambda: stored(server.url) > before + 300, "events stored")
    opened = {market: sockets(vendor, market) for market in MARKETS}
    for market in MARKETS:
        vendor.control("drop", market=market)
    for market in MARKETS:
        until_subscribed_again(vendor, market, opened[market])
    before = stored(server.url)
    until(lambda: stored(server.url) > before + 300, "events stored again")
    process.send_signal(signal.SIGTERM)
    return finish(process)


def until_subscribed_again(vendor: SimulatorProcess, market: str, opened: int) -> None:
    def holds() -> bool:
        return sockets(vendor, market) > opened and bool(subscriptions(vendor, market))

    until(holds, f"{market} subscribed again")


def sockets(vendor: SimulatorProcess, market: str) -> int:
    """How many were opened so far."""
    return int(vendor.control("stats")[market]["opened"])


def by_subject(server: NatsServer) -> dict[str, list[bytes]]:
    found: dict[str, list[bytes]] = defaultdict(list)
    for one in read_stream(server.url):
        found[one.subject].append(one.data)
    return found


def test_a_replay_of_a_recorded_live_run_publishes_the_same_messages_but_for_their_source(
    start_nats_server: StartNatsServer, tmp_path: Path
) -> None:
    live_server, replay_server = start_nats_server(), start_nats_server()
    with simulator("--rate", "400", "--options-rate", "400", "--volatility", "0") as vendor:
        runs = [recorded_run(vendor, live_server, tmp_path) for _ in range(2)]
    for run in runs:
        assert run.exit_code == ExitCode.TERMINATED, run.err
        for feed in run.summary["feeds"].values():
            assert feed["dropped_trades"] == feed["dropped_quotes"] == 0
            assert feed["reconnects"] >= 1
    finished = replay(
        "--journal", "journal", "--nats", replay_server.url, "--summary", "json", cwd=tmp_path
    )
    assert finished.exit_code == ExitCode.OK, finished.err
    live, again = by_subject(live_server), by_subject(replay_server)
    assert set(live) == set(again) == SUBJECTS
    for subject in SUBJECTS:
        assert len(again[subject]) == len(live[subject])
        for was, now in zip(live[subject], again[subject], strict=True):
            assert now == was.replace(b'"source":"polygon_ws"', b'"source":"replay"')
            assert b'"source":"replay"' in now
    aggressors = {json.loads(one)["aggressor"] for one in live["market.stocks.trades"]}
    assert aggressors == {1, 0, -1}
