from __future__ import annotations

import asyncio
import contextlib
import ssl
import subprocess
from pathlib import Path
from typing import Any

import nats
import pytest

from ingestor.client import connect
from ingestor.model.errors import NatsRefusedError, NatsUnreachableError
from ingestor.nats.answers import Frame, Status
from ingestor.nats.connection import Connection
from ingestor.nats.options import ConnectOptions
from tests.client.streams import as_json, publish, sequences, trades
from tests.conftest import StartNatsServer
from tests.nats.test_guarded import ABSURD, GREETINGS
from tests.nats_servers import NatsServer
from tests.ports import free_port
from tests.publish.rude_server import RudeServer, info_line


def enter(url: str, **options: Any) -> None:
    async def entering() -> None:
        async with asyncio.timeout(20), connect(url, **options):
            pass

    asyncio.run(entering())


class Recorder:
    """A receiver that keeps what it is given."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []
        self.statuses: list[Status] = []
        self.got = asyncio.Event()

    def receive(self, frames: list[Frame]) -> None:
        self.frames += frames
        self.got.set()

    def status(self, status: Status) -> None:
        self.statuses.append(status)
        self.got.set()


def test_no_server_is_said_at_once_and_by_name() -> None:
    port = free_port()
    with pytest.raises(NatsUnreachableError, match=f"no NATS server answers at 127.0.0.1:{port}"):
        enter(f"nats://127.0.0.1:{port}")


def test_one_server_of_several_is_enough(nats_server: NatsServer) -> None:
    enter(f"nats://127.0.0.1:{free_port()},{nats_server.url}", dont_randomize=True)


def test_wrong_credentials_are_refused_at_once(start_nats_server: StartNatsServer) -> None:
    server = start_nats_server(extra_config='authorization { token: "right" }')
    with pytest.raises(NatsRefusedError, match="Authorization Violation"):
        enter(server.url, token="wrong")
    enter(server.url, token="right")


@pytest.mark.parametrize("start", ["nats://ann:secret@", "ann:secret@", "nats://secret@"])
def test_no_message_holds_a_secret(start: str) -> None:
    with pytest.raises(NatsUnreachableError) as caught:
        enter(f"{start}127.0.0.1:{free_port()}")
    assert "secret" not in str(caught.value)


def test_a_server_we_may_not_ask_is_a_refusal(start_nats_server: StartNatsServer) -> None:
    permissions = 'permissions: { publish: { deny: "$JS.API.>" } }'
    users = f"authorization {{ users: [ {{ user: u, password: p, {permissions} }} ] }}"
    server = start_nats_server(extra_config=users)

    async def reading() -> None:
        async with connect(server.url, user="u", password="p") as client:
            async for _ in client.subscribe().events():
                pass

    with pytest.raises(NatsRefusedError, match="Permissions Violation"):
        asyncio.run(reading())


def test_a_tls_server_is_read_like_any_other(
    start_nats_server: StartNatsServer, tmp_path: Path
) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        f"openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost "
        f"-addext subjectAltName=IP:127.0.0.1 -keyout {key} -out {certificate}".split(),
        check=True,
        capture_output=True,
    )
    server = start_nats_server(
        extra_config=f'tls {{ cert_file: "{certificate}", key_file: "{key}" }}'
    )
    url = server.url.replace("nats://", "tls://")
    trusting = ssl.create_default_context(cafile=certificate)

    async def storing_and_reading() -> list[int]:
        async with await nats.connect(url, tls=trusting) as writer:
            await writer.jetstream().add_stream(name="MARKET_DATA", subjects=["market.>"])
            for subject, payload in as_json(trades(500)):
                await writer.jetstream().publish(subject, payload)
        async with connect(url, tls=trusting) as client:
            return sequences([event async for event in client.subscribe(follow=False).events()])

    assert asyncio.run(storing_and_reading()) == list(range(500))
    with pytest.raises(NatsRefusedError, match="certificate"):
        enter(url)


def test_tapped_messages_pass_nats_py_and_others_do_not(nats_server: NatsServer) -> None:
    async def tapping() -> None:
        connection = Connection(ConnectOptions(nats_server.url), on_change=lambda: None)
        await connection.open()
        recorder = Recorder()
        inbox, subscription = await connection.tap(recorder)
        await connection.publish(f"{inbox}.1", b"payload", "reply")
        await asyncio.wait_for(recorder.got.wait(), 10)
        assert recorder.frames == [(f"{inbox}.1".encode(), b"reply", b"payload")]
        assert await connection.api("account", "INFO", dict)
        recorder.got.clear()
        await connection.untap(subscription)
        await connection.publish(f"{inbox}.1", b"late", "reply")
        assert await connection.api("account", "INFO", dict)
        assert not recorder.got.is_set()
        await connection.close()

    asyncio.run(tapping())


def test_large_messages_and_commands_among_them_are_all_handled(nats_server: NatsServer) -> None:
    async def tapping() -> None:
        connection = Connection(ConnectOptions(nats_server.url), on_change=lambda: None)
        await connection.open()
        recorder = Recorder()
        inbox, _ = await connection.tap(recorder)
        payloads = [bytes([index]) * (index * 9_000 + 1) for index in range(60)]
        for payload in payloads:
            await connection.publish(f"{inbox}.1", payload, "reply")
            await connection.api("account", "INFO", dict)
        while len(recorder.frames) < len(payloads):
            recorder.got.clear()
            await asyncio.wait_for(recorder.got.wait(), 10)
        assert [payload for _, _, payload in recorder.frames] == payloads
        await connection.close()

    asyncio.run(tapping())


def test_a_connection_that_may_not_come_back_fails_the_iteration(nats_server: NatsServer) -> None:
    async def reading() -> None:
        await publish(nats_server, as_json(trades(1)))
        async with connect(nats_server.url, allow_reconnect=False) as client:
            async for _ in client.subscribe().events():
                nats_server.kill()

    with pytest.raises(NatsUnreachableError, match=r"127\.0\.0\.1"):
        asyncio.run(asyncio.wait_for(reading(), 20))


@pytest.mark.parametrize("greeting", GREETINGS)
def test_a_greeting_that_makes_no_sense_is_a_server_that_cannot_be_reached(greeting: bytes) -> None:
    async def check() -> None:
        async with RudeServer(greeting) as server, asyncio.timeout(20):
            with pytest.raises(NatsUnreachableError):
                async with connect(server.url, connect_timeout=0.3):
                    pass

    asyncio.run(check())


@pytest.mark.parametrize("hangs_up", [True, False])
def test_a_server_that_hangs_up_or_refuses_is_no_traceback(*, hangs_up: bool) -> None:
    async def check() -> None:
        said = info_line() if hangs_up else info_line() + b"-ERR 'Parser Error \x1b[2J'\r\n"
        async with RudeServer(said, hangs_up=hangs_up) as server, asyncio.timeout(20):
            with pytest.raises(NatsUnreachableError) as raised:
                async with connect(server.url, connect_timeout=0.3):
                    pass
            assert "\x1b" not in str(raised.value)

    asyncio.run(check())


@pytest.mark.parametrize("absurd", ABSURD)
def test_what_makes_no_sense_later_costs_the_connection_only(absurd: bytes) -> None:
    async def check() -> None:
        async with RudeServer(then=[absurd]) as server, asyncio.timeout(20):
            link = Connection(ConnectOptions(server.url), on_change=lambda: None)
            await link.open()
            # What comes with it in one piece, here a PONG, may be lost with it.
            with contextlib.suppress(nats.errors.Error):
                await link.client.flush(1)
            while server.connections < 2 or not link.client.is_connected:
                await asyncio.sleep(0.01)
            assert link.failure is None
            await link.close()

    asyncio.run(check())
