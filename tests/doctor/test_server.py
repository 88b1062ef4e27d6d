"""Servers that are set up wrong, each of them real."""

from __future__ import annotations

import asyncio
import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nats
import pytest
from nats.js.api import StreamConfig

from ingestor.config.schema import Config, Nats, Publish
from ingestor.doctor import CheckResult, Mark
from ingestor.doctor.server import (
    default_server_check,
    limits_check,
    payload_check,
    server_checks,
    sync_check,
    version_check,
)
from ingestor.model.errors import ExitCode
from ingestor.nats.connection import Connection
from ingestor.nats.options import ConnectOptions
from ingestor.runtime.run_records import Leases, new_record
from tests.conftest import StartNatsServer
from tests.doctor.typing_shell import ROOT, assert_right, assert_wrong
from tests.nats_servers import NatsServer, current_executable
from tests.ports import free_port


def findings(config: Config) -> dict[str, CheckResult]:
    async def work() -> dict[str, CheckResult]:
        return {finding.code: finding async for finding in server_checks(config)}

    return asyncio.run(work())


def at(server: NatsServer, **more: Any) -> Config:
    return Config(nats=Nats(**{"url": server.url, **more}))


def make_stream(server: NatsServer, **config: Any) -> None:
    async def work() -> None:
        async with await nats.connect(server.url) as client:
            await client.jetstream().add_stream(StreamConfig(**config))

    asyncio.run(work())


def test_all_is_right_with_a_new_server(nats_server: NatsServer) -> None:
    found = findings(at(nats_server))
    assert list(found) == [
        *("NATS_SERVER", "NATS_ACCESS", "NATS_VERSION", "NATS_PAYLOAD", "JETSTREAM"),
        *("JETSTREAM_LIMITS", "NATS_SYNC", "STREAM", "LEASE"),
    ]
    assert {one.mark for one in found.values()} <= {Mark.OK, Mark.UNKNOWN}
    assert "the first run makes it" in found["STREAM"].found


def test_a_server_that_is_not_there_is_started_by_what_is_typed(tmp_path: Path) -> None:
    config = Config(nats=Nats(url=f"nats://127.0.0.1:{free_port()}"))
    finding = findings(config)["NATS_SERVER"]
    assert_wrong(finding, "NATS_SERVER", ExitCode.NATS_UNREACHABLE)
    command = finding.mend.replace("bin/ingestor", str(ROOT / "bin/ingestor")).removesuffix(" &")
    process = subprocess.Popen(["bash", "-c", f"exec {command}"], cwd=tmp_path, env=environment())
    try:
        deadline = time.monotonic() + 30
        while findings(config)["NATS_SERVER"].mark is not Mark.OK:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def environment() -> dict[str, str]:
    return {**os.environ, "INGESTOR_VENV": sys.prefix}


def test_a_server_elsewhere_is_not_ours_to_start() -> None:
    config = Config(nats=Nats(url="nats://nowhere.invalid:4222"))
    finding = findings(config)["NATS_SERVER"]
    assert_wrong(finding, "NATS_SERVER", ExitCode.NATS_UNREACHABLE)
    assert finding.mend == ""


def test_wrong_credentials_are_told_without_them(start_nats_server: StartNatsServer) -> None:
    server = start_nats_server(extra_config='authorization { token: "right-one" }')
    found = findings(at(server, token="wr0ng-one"))
    assert list(found) == ["NATS_ACCESS"]
    assert_wrong(found["NATS_ACCESS"], "NATS_ACCESS", ExitCode.NATS_REFUSED)
    assert "wr0ng-one" not in found["NATS_ACCESS"].found
    assert_right(findings(at(server, token="right-one"))["NATS_ACCESS"], "NATS_ACCESS")


def test_contradicting_credentials_are_told(nats_server: NatsServer) -> None:
    found = findings(at(nats_server, user="me", token="t"))
    assert_wrong(found["NATS_ACCESS"], "NATS_ACCESS", ExitCode.CONFIGURATION)


def test_a_server_without_jetstream_is_told(tmp_path: Path) -> None:
    port = free_port()
    process = subprocess.Popen(
        [str(current_executable()), "-a", "127.0.0.1", "-p", str(port)],
        stderr=subprocess.DEVNULL,
    )
    try:
        config = Config(nats=Nats(url=f"nats://127.0.0.1:{port}"))
        deadline = time.monotonic() + 15
        while "JETSTREAM" not in (found := findings(config)):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        process.terminate()
        process.wait(15)
    assert_wrong(found["JETSTREAM"], "JETSTREAM", ExitCode.STREAM)
    assert "-js" in found["JETSTREAM"].found


def test_an_old_server_is_slower_and_said_so(old_nats_server: NatsServer) -> None:
    found = findings(at(old_nats_server))
    assert_wrong(found["NATS_VERSION"], "NATS_VERSION")
    assert_right(version_check((2, 14)), "NATS_VERSION")
    assert_wrong(version_check((2, 9)), "NATS_VERSION", ExitCode.STREAM)


def test_a_bound_on_messages_is_judged_by_what_is_sent(start_nats_server: StartNatsServer) -> None:
    server = start_nats_server(extra_config="max_payload: 2KB")
    found = findings(at(server))
    assert_wrong(found["NATS_PAYLOAD"], "NATS_PAYLOAD", ExitCode.NATS_REFUSED)
    assert_right(payload_check(1_048_576, packed=False), "NATS_PAYLOAD")
    assert_wrong(payload_check(1_048_576, packed=True), "NATS_PAYLOAD")
    assert_right(payload_check(8_388_608, packed=True), "NATS_PAYLOAD")
    assert Config(publish=Publish(encoding="packed")).publish.encoding == "packed"


@pytest.mark.parametrize(
    ("used", "judge"),
    [
        (850, lambda one: assert_right(one, "JETSTREAM_LIMITS")),
        (950, lambda one: assert_wrong(one, "JETSTREAM_LIMITS")),
        (1_000, lambda one: assert_wrong(one, "JETSTREAM_LIMITS", ExitCode.STREAM)),
    ],
)
def test_an_account_that_is_nearly_full_is_told(
    used: int, judge: Callable[[CheckResult], None]
) -> None:
    judge(limits_check({"limits": {"max_storage": 1_000}, "storage": used}))
    assert_right(limits_check({"limits": {"max_storage": -1}, "storage": used}), "JETSTREAM_LIMITS")


def test_how_often_the_store_syncs_is_read_where_the_server_is_monitored(
    start_nats_server: StartNatsServer,
) -> None:
    port = free_port()
    server = start_nats_server(extra_config=f'http: "127.0.0.1:{port}"')
    found = sync_check([server.url], port)
    assert_right(found, "NATS_SYNC")
    assert found.found.startswith("every 120 s")
    assert sync_check([server.url], free_port()).mark is Mark.UNKNOWN


def test_a_stream_that_takes_nothing_is_told(nats_server: NatsServer) -> None:
    make_stream(nats_server, name="MARKET_DATA", subjects=["market.>"], no_ack=True)
    finding = findings(at(nats_server))["STREAM"]
    assert_wrong(finding, "STREAM", ExitCode.STREAM)
    assert "no_ack" in finding.found


def test_a_stream_that_has_the_subjects_is_named_and_looked_at_by_the_mend(
    nats_server: NatsServer, tmp_path: Path
) -> None:
    make_stream(nats_server, name="OTHER", subjects=["market.stocks.>"])
    finding = findings(at(nats_server))["STREAM"]
    assert_wrong(finding, "STREAM", ExitCode.STREAM)
    assert finding.mend.endswith(f"doctor nats --nats {nats_server.url} --stream OTHER")
    assert findings(at(nats_server, stream="OTHER"))["STREAM"].exit_code == 0


def test_what_the_next_run_changes_of_a_stream_is_told(nats_server: NatsServer) -> None:
    make_stream(nats_server, name="MARKET_DATA", subjects=["market.>"], storage="memory")
    assert_right(findings(at(nats_server))["STREAM"], "STREAM")
    finding = findings(at(nats_server, storage="file", max_bytes=1_000_000))["STREAM"]
    assert_wrong(finding, "STREAM")
    assert "storage 'memory' stays, wanted 'file'" in finding.found
    assert "max_bytes -1 becomes 1000000" in finding.found


def test_a_run_that_is_writing_is_named(nats_server: NatsServer) -> None:
    record = new_record("replay", "MARKET_DATA", subjects=("market.futures.trades",))

    async def take() -> None:
        connection = Connection(ConnectOptions(url=nats_server.url), on_change=lambda: None)
        await connection.open()
        await Leases(connection, record).take()
        await connection.close()

    asyncio.run(take())
    finding = findings(at(nats_server))["LEASE"]
    assert_wrong(finding, "LEASE")
    assert record.run in finding.found


@pytest.mark.usefixtures("default_port")
def test_where_no_server_is_named_the_default_port_decides(tmp_path: Path) -> None:
    assert_right(default_server_check(), "NATS_SERVER")
    other = http.server.HTTPServer(("127.0.0.1", 4222), http.server.BaseHTTPRequestHandler)
    thread = threading.Thread(target=other.serve_forever, daemon=True)
    thread.start()
    try:
        finding = default_server_check()
    finally:
        other.shutdown()
        other.server_close()
    assert_wrong(finding, "NATS_SERVER", ExitCode.EMBEDDED_SERVER)
    assert finding.mend.endswith("nats --port 4333 &")
    assert json.dumps(finding.found)
