"""The class that writes past nats-py, and who is let in."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import uvloop

from ingestor.model.errors import IngestorError, NatsRefusedError, NatsUnreachableError
from ingestor.nats.answers import ForbiddenError, Frame, NobodyListensError, RefusedError, Status
from ingestor.nats.connection import MAX_REMEMBERED, Connection
from ingestor.nats.options import ConnectOptions
from tests.publish.certificates import make_certificates
from tests.publish.plain import connect, until
from tests.publish.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path

    from nats.aio.msg import Msg

    from tests.conftest import StartNatsServer
    from tests.nats_servers import NatsServer

LOOPS = pytest.mark.parametrize("run", [asyncio.run, uvloop.run])


def connection(
    options: ConnectOptions, changes: list[bool] | None = None, **more: Any
) -> Connection:
    made: Connection
    made = Connection(options, on_change=lambda: (changes or []).append(made.up), **more)
    return made


class Seen:
    """A receiver that keeps payloads."""

    def __init__(self, payloads: list[bytes]) -> None:
        self._payloads = payloads

    def receive(self, frames: list[Frame]) -> None:
        self._payloads += [payload for _, _, payload in frames]

    def status(self, status: Status) -> None:
        raise AssertionError(status)


async def tapped(link: Connection, payloads: list[bytes]) -> bytes:
    """An inbox whose payloads are kept."""
    inbox, _ = await link.tap(Seen(payloads))
    return inbox.encode()


async def opened(options: ConnectOptions, **more: Any) -> None:
    """Connect and close again."""
    link = connection(options, **more)
    try:
        async with asyncio.timeout(8):
            await link.open()
            assert link.up
    finally:
        await link.close()


def refused(options: ConnectOptions, error: type[IngestorError], match: str, **more: Any) -> str:
    with pytest.raises(error, match=match) as raised:
        asyncio.run(opened(options, **more))
    return str(raised.value)


@LOOPS
def test_frames_arrive_whole_and_in_order_beside_the_clients_own(
    nats_server: NatsServer, run: Callable[[Coroutine[Any, Any, None]], None]
) -> None:
    async def check() -> None:
        link = connection(ConnectOptions(url=nats_server.url))
        await link.open()
        seen: list[bytes] = []
        inbox = await tapped(link, seen)
        for number in range(500):
            assert link.write(b"PUB %b.%d 3\r\n%03d\r\n" % (inbox, number, number))
            if not number % 100:
                await link.request("the account", "$JS.API.INFO")
        await until(lambda: len(seen) == 500)
        assert seen == [b"%03d" % number for number in range(500)]
        await link.close()

    run(check())


@LOOPS
def test_nothing_is_written_before_the_subscriptions_are_back(
    nats_server: NatsServer, run: Callable[[Coroutine[Any, Any, None]], None]
) -> None:
    async def check() -> None:
        async with Proxy(nats_server.port) as proxy:
            link = connection(ConnectOptions(url=proxy.url))
            assert not link.write(b"PUB a 0\r\n\r\n")
            await link.open()
            seen: list[bytes] = []
            inbox = await tapped(link, seen)
            for cuts in range(1, 4):
                proxy.cut()
                await until(lambda: not link.up)
                assert not link.write(b"PUB a 0\r\n\r\n")
                await until(lambda: link.up)
                assert link.write(b"PUB %b.1 1\r\n%d\r\n" % (inbox, cuts))
                await until(lambda cuts=cuts: len(seen) == cuts)
                assert link.reconnects == cuts
            await link.close()
            assert seen == [b"1", b"2", b"3"]
            assert not link.write(b"PUB a 0\r\n\r\n")

    run(check())


@LOOPS
def test_a_dropped_connection_comes_back_though_the_server_reads_nothing(
    nats_server: NatsServer, run: Callable[[Coroutine[Any, Any, None]], None]
) -> None:
    async def check() -> None:
        link = connection(ConnectOptions(url=nats_server.url))
        await link.open()
        nats_server.pause()
        payload = b"x" * 1_000_000
        for _ in range(32):
            assert link.write(b"PUB a 1000000\r\n%b\r\n" % payload)
        link.drop()
        await until(lambda: not link.up)
        nats_server.resume()
        await until(lambda: link.up)
        await link.close()

    run(check())


@LOOPS
def test_a_connection_that_was_closed_under_a_write_is_none(
    nats_server: NatsServer, run: Callable[[Coroutine[Any, Any, None]], None]
) -> None:
    async def check() -> None:
        link = connection(ConnectOptions(url=nats_server.url))
        await link.open()
        link.drop()
        for _ in range(5):
            assert not link.write(b"PUB a 1\r\nx\r\n" * 100_000)
            await asyncio.sleep(0)
        await until(lambda: link.up)
        assert link.write(b"PUB a 1\r\nx\r\n")
        await link.close()

    run(check())


def test_changes_are_told(nats_server: NatsServer) -> None:
    async def check() -> None:
        async with Proxy(nats_server.port) as proxy:
            changes: list[bool] = [True]
            link = connection(ConnectOptions(url=proxy.url), changes)
            await link.open()
            proxy.cut()
            await until(lambda: changes == [True, False, True])
            await link.close()

    asyncio.run(check())


def test_nobody_listening_is_told_with_the_servers_name() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"127.0.0.1:{taken.getsockname()[1]}"
        options = ConnectOptions(url=f"nats://jo:s3cret@{url}")
        text = refused(options, NatsUnreachableError, url, open_timeout_s=0.5)
    assert "s3cret" not in text


def test_a_server_that_is_away_is_passed_over_where_another_is_named(
    nats_server: NatsServer,
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        away = f"nats://127.0.0.1:{taken.getsockname()[1]}"
        options = ConnectOptions(url=f"{away},{nats_server.url}")
        asyncio.run(opened(options, open_timeout_s=None, dont_randomize=True))


def test_a_listener_that_says_nothing_is_unreachable() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"nats://127.0.0.1:{silent.getsockname()[1]}"
        told = "no NATS server answers"
        refused(ConnectOptions(url=url), NatsUnreachableError, told, open_timeout_s=0.5)


@pytest.mark.parametrize(
    ("config", "options", "wrong"),
    [
        (
            'authorization { token: "t0ken" }',
            ConnectOptions(token="t0ken"),
            ConnectOptions(token="t0kem"),
        ),
        (
            'authorization { user: "jo", password: "s3cret" }',
            ConnectOptions(user="jo", password="s3cret"),
            ConnectOptions(user="jo", password="s3creq"),
        ),
    ],
)
def test_secrets_open_the_door_and_wrong_ones_do_not(
    start_nats_server: StartNatsServer, config: str, options: ConnectOptions, wrong: ConnectOptions
) -> None:
    url = start_nats_server(extra_config=config).url
    asyncio.run(opened(replace(options, url=url)))
    for attempt in (replace(wrong, url=url), ConnectOptions(url=url)):
        text = refused(attempt, NatsRefusedError, "(?i)authorization violation")
        assert not any(secret in text for secret in ("t0ke", "s3cre"))


def test_secrets_in_the_url_open_the_door_too(start_nats_server: StartNatsServer) -> None:
    server = start_nats_server(extra_config='authorization { user: "jo", password: "p@ss" }')
    asyncio.run(opened(ConnectOptions(url=server.url.replace("//", "//jo:p%40ss@"))))


def test_parts_arrive_in_one_piece_through_tls(
    start_nats_server: StartNatsServer, tmp_path: Path
) -> None:
    async def check() -> None:
        link = connection(
            ConnectOptions(url=server.url.replace("nats:", "tls:"), tls_ca_file=files.ca)
        )
        await link.open()
        seen: list[bytes] = []
        inbox = await tapped(link, seen)
        for number in range(50):
            rows = memoryview(bytes([number]) * 130_000)
            assert link.write(b"PUB %b.1 130002\r\n<" % inbox, rows, b">\r\n")
        await until(lambda: len(seen) == 50)
        assert seen == [b"<%b>" % (bytes([number]) * 130_000) for number in range(50)]
        await link.close()

    files = make_certificates(tmp_path)
    server = start_nats_server(
        extra_config=f'tls {{ cert_file: "{files.server}", '
        f'key_file: "{files.server.with_suffix(".key")}" }}'
    )
    asyncio.run(check())
    uvloop.run(check())


def test_tls_is_used_where_the_authority_is_known(
    start_nats_server: StartNatsServer, tmp_path: Path
) -> None:
    files = make_certificates(tmp_path)
    config = (
        f'tls {{ cert_file: "{files.server}", key_file: "{files.server.with_suffix(".key")}" }}'
    )
    server = start_nats_server(extra_config=config)
    url = server.url.replace("nats:", "tls:")
    asyncio.run(opened(ConnectOptions(url=url, tls_ca_file=files.ca)))
    refused(ConnectOptions(url=url), NatsRefusedError, "TLS.*certificate verify failed")


def test_a_client_certificate_is_shown_and_missed(
    start_nats_server: StartNatsServer, tmp_path: Path
) -> None:
    files = make_certificates(tmp_path)
    config = (
        f'tls {{ cert_file: "{files.server}", key_file: "{files.server.with_suffix(".key")}", '
        f'ca_file: "{files.ca}", verify: true }}'
    )
    server = start_nats_server(extra_config=config)
    shown = ConnectOptions(
        url=server.url,
        tls_ca_file=files.ca,
        tls_cert_file=files.client,
        tls_key_file=files.client.with_suffix(".key"),
    )
    asyncio.run(opened(shown))
    refused(ConnectOptions(url=server.url, tls_ca_file=files.ca), NatsRefusedError, "TLS")


def test_no_password_is_told_to_a_server_that_offers_no_tls(
    start_nats_server: StartNatsServer,
) -> None:
    server = start_nats_server(extra_config='authorization { user: "jo", password: "s3cret" }')

    async def check() -> None:
        async with Proxy(server.port) as proxy:
            url = proxy.url.replace("nats://", "tls://jo:s3cret@")
            with pytest.raises(NatsRefusedError, match="secure connection"):
                await opened(ConnectOptions(url=url))
            assert proxy.passed_bytes == 0

    asyncio.run(check())


def test_a_permission_that_is_missing_ends_a_running_connection(
    start_nats_server: StartNatsServer,
) -> None:
    server = start_nats_server(
        extra_config='authorization { users: [ { user: "jo", password: "pw", '
        'permissions: { publish: ["_INBOX.>", "$JS.>"] } } ] }'
    )

    async def check() -> None:
        link = connection(ConnectOptions(url=server.url, user="jo", password="pw"))
        await link.open()
        link.write(b"PUB market.x 0\r\n\r\n")
        await until(lambda: link.failure)
        assert isinstance(link.failure, NatsRefusedError)
        assert "market.x" in str(link.failure)
        await link.close()

    asyncio.run(check())


def test_a_request_that_nobody_answers_times_out_and_one_nobody_hears_says_so(
    nats_server: NatsServer,
) -> None:
    async def check() -> None:
        link = connection(ConnectOptions(url=nats_server.url))
        await link.open()
        mute = await connect(nats_server)
        await mute.subscribe("mute")
        await mute.flush()
        with pytest.raises(NobodyListensError, match="nobody listens on deaf"):
            await link.request("a test", "deaf", timeout_s=1)
        with pytest.raises(TimeoutError, match="mute"):
            await link.request("a test", "mute", timeout_s=0.05)
        await mute.close()
        await link.close()

    asyncio.run(check())


def test_by_its_marks_another_process_knows_when_a_connection_is_read_to_its_end(
    nats_server: NatsServer,
) -> None:
    async def check() -> None:
        one, other = (connection(ConnectOptions(nats_server.url)) for _ in range(2))
        await one.open()
        await other.open()
        marks = one.marks
        assert not await other.former_closed(0.1, marks)
        await one.close()
        assert await other.former_closed(5.0, marks)
        await other.close()

    asyncio.run(check())


def test_a_subject_we_may_not_ask_on_ends_the_request_and_nothing_else(
    start_nats_server: StartNatsServer,
) -> None:
    server = start_nats_server(
        extra_config='authorization { users: [ { user: "jo", password: "pw", permissions: '
        '{ publish: { deny: "secret.>" } } } ] }'
    )

    async def check() -> None:
        link = connection(ConnectOptions(url=server.url, user="jo", password="pw"))
        await link.open()
        await link.client.subscribe("mute")
        other = asyncio.create_task(link.request("a test", "mute", timeout_s=60))
        async with asyncio.timeout(10):  # It is not waited for an answer that cannot come.
            for _ in range(2):
                with pytest.raises(ForbiddenError, match=r'"secret\.x"'):
                    await link.request("a test", "secret.x", timeout_s=60)
        assert not other.done()
        other.cancel()
        assert link.up
        assert await link.api("the account", "INFO", dict)
        await link.close()

    asyncio.run(check())


def test_only_so_many_subjects_are_remembered_and_the_oldest_are_forgotten() -> None:
    link = connection(ConnectOptions())
    for number in range(MAX_REMEMBERED + 2):
        link._remember(f"s.{number}")
    link._remember(f"s.{MAX_REMEMBERED}")
    assert len(link._forbidden) == MAX_REMEMBERED
    assert next(iter(link._forbidden)) == "s.2"


def test_an_answer_that_makes_no_sense_may_be_better_next_time(nats_server: NatsServer) -> None:
    async def check() -> None:
        link = connection(ConnectOptions(url=nats_server.url, api_prefix="fake"))
        await link.open()
        fake = await connect(nats_server)

        async def answer(message: Msg) -> None:
            await message.respond(b"[" if message.subject.endswith("cut") else b'{"error":7}')

        await fake.subscribe("fake.>", cb=answer)
        await fake.flush()
        for subject in ("cut", "odd"):
            with pytest.raises(RefusedError, match="no JSON object of ours") as refused:
                await link.api("a test", subject, dict)
            assert refused.value.transient
        await fake.close()
        await link.close()

    asyncio.run(check())
