"""What a server may say without breaking, filling or fooling the client."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import json
import re
import resource
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import nats.aio.client
import nats.aio.subscription
import nats.aio.transport
import nats.protocol.parser
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from nats.errors import Error, ProtocolError

from ingestor.model.errors import NatsRefusedError, NatsUnreachableError
from ingestor.nats import guarded
from ingestor.nats.answers import MAX_LINE_BYTES
from ingestor.nats.connection import Connection
from ingestor.nats.guarded import MAX_POOL, GuardedClient, GuardedParser
from ingestor.nats.options import ConnectOptions, resolve
from tests.publish.plain import until
from tests.publish.rude_server import RudeServer, info_line

if TYPE_CHECKING:
    from collections.abc import Sequence

ABSURD = [
    pytest.param(b"\x00\xff\x80" * 400 + b"\r\n", id="binary"),
    pytest.param(b"\x00\xff\x80" * 2000 + b"\r\n", id="binary of more than 4 KiB"),
    pytest.param(b"-ERR\r\n", id="an error without words"),
    pytest.param(b"-ERR \r\n", id="an error of a space"),
    pytest.param(b"-ERR '\xff\xfe'\r\n", id="an error that is no text"),
    pytest.param(b"-ERR 'a\x1b[2Jb'\r\n", id="an error with escapes"),
    pytest.param(b"-ERR 'a\nb'\r\n", id="an error of two lines"),
    pytest.param(b"-ERR 'Parser Error'\r\n", id="an error of the server's parser"),
    pytest.param(b"MSG\r\n", id="a message of nothing"),
    pytest.param(b"MSG a 1 99999999999\r\n", id="a message of 100 GB"),
    pytest.param(b"MSG a 1 2147483647\r\n" + b"x" * 100_000, id="a message of 2 GB"),
    pytest.param(b"MSG a 1 " + b"9" * 5000 + b"\r\n", id="a length of 5,000 digits"),
    pytest.param(b"INFO []\r\n", id="an INFO that is a list"),
    pytest.param(b"INFO {\r\n", id="an INFO that is cut"),
    pytest.param(info_line(connect_urls=7), id="addresses that are a number"),
    pytest.param(info_line(max_payload="much"), id="a bound that is a text"),
    pytest.param(b"INFO " + b"[" * 100_000 + b"\r\n", id="an INFO that is nested"),
    pytest.param(b"PONG\r\nPONG\r\nPUB a 1\r\n", id="a client's command"),
    pytest.param(b"x" * (2 * MAX_LINE_BYTES), id="a line without end"),
]

GREETINGS = [
    pytest.param(b"", id="nothing"),
    pytest.param(b"HTTP/1.1 400 Bad Request\r\n\r\n", id="a web server"),
    pytest.param(b"INFO []\r\n", id="a list"),
    pytest.param(b"INFO 7\r\n", id="a number"),
    pytest.param(b"INFO {}\xff\r\n", id="no UTF-8"),
    pytest.param(b"INFO " + b"[" * 30_000 + b"\r\n", id="nested"),
    pytest.param(b"INFO " + b"x" * (2 * MAX_LINE_BYTES), id="a line without end"),
    pytest.param(info_line(connect_urls=["[", "a:b", 7]), id="addresses that are none"),
    pytest.param(info_line(nonce=7), id="a nonce that is a number"),
    pytest.param(info_line(max_payload=-1), id="a negative bound"),
    pytest.param(info_line(max_payload=10**30), id="an endless bound"),
    pytest.param(info_line(version=7), id="a version that is a number"),
]


async def opened(options: ConnectOptions, **how: Any) -> None:
    """Connect, for half a second at most, and close again."""
    link = Connection(options, on_change=lambda: None, open_timeout_s=0.5, **how)
    try:
        await link.open()
    finally:
        await link.close()


def open_at(*greetings: bytes, **how: Any) -> str:
    """Return why there is no connection; fails when there is one, or when anything else comes."""

    async def check() -> str:
        async with RudeServer(*greetings, **how) as server:
            with pytest.raises(NatsUnreachableError) as raised:
                await opened(ConnectOptions(url=server.url))
            assert "\x1b" not in str(raised.value)
            return str(raised.value)

    return asyncio.run(check())


@pytest.mark.parametrize("greeting", GREETINGS)
def test_a_greeting_that_makes_no_sense_is_a_server_that_cannot_be_reached(greeting: bytes) -> None:
    assert "no NATS server answers" in open_at(greeting)


def test_a_server_that_hangs_up_at_every_connect_cannot_be_reached() -> None:
    assert "unexpected EOF" in open_at(info_line(), hangs_up=True)


def test_what_a_server_says_cannot_forge_a_line() -> None:
    said = b"-ERR 'well\x1b[2K\x0b" + b"x" * 1000 + b"'\r\n"
    text = open_at(info_line() + said)
    assert "well\\x1b[2K" in text
    assert len(text) < 400


def test_a_greeting_of_more_than_64_kib_is_read() -> None:
    async def check() -> None:
        urls = [f"10.0.{n // 250}.{n % 250}:4222" for n in range(5000)]
        async with RudeServer(info_line(connect_urls=urls)) as server:
            link = Connection(ConnectOptions(url=server.url), on_change=lambda: None)
            await link.open()
            assert len(link.client._server_pool) == MAX_POOL
            await link.close()

    asyncio.run(check())


@pytest.mark.parametrize("absurd", ABSURD)
def test_what_makes_no_sense_in_the_middle_of_a_run_costs_the_connection_only(
    absurd: bytes,
) -> None:
    async def check() -> None:
        async with RudeServer(then=[absurd]) as server:
            link = Connection(ConnectOptions(url=server.url), on_change=lambda: None)
            await link.open()
            await until(lambda: link.reconnects == 1 and link.up)
            assert link.failure is None
            assert server.connections == 2
            await link.close()

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    asyncio.run(check())
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024


def test_a_half_line_that_the_rest_follows_is_nothing_amiss() -> None:
    async def check() -> None:
        async with RudeServer(then=[b"+O"]) as server:
            link = Connection(ConnectOptions(url=server.url), on_change=lambda: None)
            await link.open()
            await asyncio.sleep(0.1)
            assert link.reconnects == 0
            await link.close()

    asyncio.run(check())


def test_a_refusal_is_told_in_the_servers_own_case() -> None:
    async def check() -> None:
        said = b"-ERR 'Permissions Violation for Publish to \"market.Futures.ES\"'\r\n"
        async with RudeServer(then=[said]) as server:
            link = Connection(ConnectOptions(url=server.url), on_change=lambda: None)
            with pytest.raises(NatsRefusedError, match=r'"market\.Futures\.ES"'):
                await link.open()
            await link.close()

    asyncio.run(check())


def test_a_server_that_takes_less_than_an_event_is_refused_at_the_start() -> None:
    async def check() -> None:
        async with RudeServer(info_line(max_payload=1024)) as server:
            with pytest.raises(NatsRefusedError, match=r"at most 1024 bytes.*events need 4096"):
                await opened(ConnectOptions(url=server.url), min_payload_bytes=4096)

    asyncio.run(check())


def test_the_bound_is_that_of_the_server_we_are_at() -> None:
    async def check() -> None:
        news = info_line(max_payload=50_000)
        greetings = (info_line(max_payload=300_000), info_line(max_payload=200_000))
        async with RudeServer(*greetings, then=[b"", news]) as server:
            link = Connection(ConnectOptions(url=server.url), on_change=lambda: None)
            await link.open()
            assert link.max_payload_bytes == 300_000
            link.drop()
            await until(lambda: link.reconnects == 1 and link.up)
            await until(lambda: link.max_payload_bytes == 50_000)
            await link.close()

    asyncio.run(check())


def test_every_server_is_told_its_own_secret() -> None:
    async def check() -> None:
        async with RudeServer(hangs_up=True) as one, RudeServer(hangs_up=True) as two:
            urls = [
                one.url.replace("//", "//ann:pa%2Fss@"),
                two.url.replace("//", "//t0k%40n@"),
            ]
            with pytest.raises(NatsUnreachableError) as raised:
                await opened(ConnectOptions(url=urls))
            assert "pa" not in str(raised.value).replace("NATS", "")
            first, second = ({**json.loads(s.heard.split(b"\r\n")[0][8:])} for s in (one, two))
            assert (first["user"], first["pass"]) == ("ann", "pa/ss")
            assert second["auth_token"] == "t0k@n"
            assert "pass" not in second

    asyncio.run(check())


@pytest.mark.parametrize(
    ("said", "version"),
    [("2.14.1", (2, 14)), ("2.10.26-RC.1", (2, 10)), ("dev", (0, 0)), (None, (0, 0))],
)
def test_a_servers_version_is_its_major_and_minor_number(
    said: str | None, version: tuple[int, int]
) -> None:
    client = GuardedClient(resolve(ConnectOptions()))
    client._server_info = {} if said is None else {"version": said}
    assert client.server_version == version


def test_every_private_name_of_nats_py_that_is_used_is_there() -> None:
    """What nats-py renames in a later version fails here, not in a run."""
    client = nats.aio.client.Client()
    parser = nats.protocol.parser.Parser(client)
    transport = nats.aio.transport.TcpTransport()  # type: ignore[no-untyped-call]
    subscription = nats.aio.subscription.Subscription(client, id=7)
    used = {
        client: _private_names("GuardedClient", "self"),
        parser: _private_names("GuardedParser", "self"),
        transport: _private_names("GuardedTransport", "self"),
        subscription: {"_id"},
    }
    ours = {"_credentials", "_taps", "_splitter", "_parse", "_closing_task"}
    for owner, names in used.items():
        missing = {name for name in names - ours if not hasattr(owner, name)}
        assert not missing, owner
    assert {"_process_connect_init", "_flush_pending", "_ps"} <= used[client]


def test_no_other_module_uses_private_names_of_nats_py() -> None:
    folder = Path(guarded.__file__).parent.parent
    users = {
        str(path.relative_to(folder))
        for path in folder.rglob("*.py")
        if re.search(r"^(from|import) nats\b", path.read_text(), re.MULTILINE)
    }
    assert "nats/guarded.py" in users
    for user in users - {"nats/guarded.py"}:
        assert not re.search(r"(client|subscription|message)\._", (folder / user).read_text()), user


def _private_names(class_name: str, owner: str) -> set[str]:
    """Names with one underscore that a class of `guarded` reads of itself, sets or overrides."""
    tree = ast.parse(Path(guarded.__file__).read_text())
    (body,) = (
        node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == class_name
    )
    names = {
        node.name for node in body.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    names |= {
        node.attr
        for node in ast.walk(body)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == owner
    }
    return {name for name in names if name.startswith("_") and not name.startswith("__")}


class _Deaf:
    """What a parser tells of, without a connection."""

    def __init__(self) -> None:
        self.said = 0

    async def _take(self, *_: object) -> None:
        self.said += 1

    _process_err = _process_ping = _process_pong = _process_info = _process_msg = _error_cb = _take


LINES = st.one_of(
    st.binary(max_size=60),
    st.sampled_from(
        [b"PING\r\n", b"PONG\r\n", b"+OK\r\n", b"MSG a 1 3\r\nabc\r\n", b"-ERR 'x'\r\n"]
    ),
    st.builds(lambda n: b"MSG a.b 12 %d\r\n" % n, st.integers(0, 10**12)),
    st.builds(lambda n, m: b"HMSG a 1 %d %d\r\n" % (n, m), st.integers(0, 99), st.integers(0, 99)),
    st.builds(lambda t: b"-ERR '" + t + b"'\r\n", st.binary(max_size=40)),
    st.builds(lambda v: b"INFO " + json.dumps(v).encode() + b"\r\n", st.lists(st.integers())),
)


@settings(max_examples=150)
@given(pieces=st.lists(LINES, max_size=12), cut=st.integers(1, 50))
@example(pieces=[b"-ERR \r\n"], cut=7)
@example(pieces=[b"MSG a 1 2147483647\r\n"], cut=50)
def test_a_parser_raises_one_kind_of_error_and_keeps_no_more_than_its_bound(
    pieces: Sequence[bytes], cut: int
) -> None:
    parser = GuardedParser(_Deaf(), {})
    data = b"".join(pieces)

    async def check() -> None:
        with contextlib.suppress(ProtocolError):
            for at in range(0, len(data), cut):
                await parser.parse(data[at : at + cut])
                assert len(parser.buf) <= MAX_LINE_BYTES
                assert parser._splitter._size <= MAX_LINE_BYTES

    asyncio.run(check())


@settings(max_examples=30)
@given(
    st.dictionaries(
        st.sampled_from(["version", "max_payload", "connect_urls", "nonce", "tls_required", "ldm"]),
        st.recursive(st.none() | st.integers() | st.text(max_size=20), st.lists, max_leaves=4),
    )
)
def test_any_info_is_taken_or_refused_with_one_kind_of_error(info: dict[str, Any]) -> None:
    client = GuardedClient(resolve(ConnectOptions()))

    async def check() -> None:
        # `ValidationError` is what connecting and parsing make a `NonsenseError` of.
        with contextlib.suppress(Error, msgspec.ValidationError):
            await client._process_info(info, initial_connection=True)

    client._current_server = client._server_pool[0] if client._server_pool else _server(client)
    asyncio.run(check())
    assert len(client._server_pool) <= MAX_POOL


def _server(client: GuardedClient) -> Any:
    client._setup_server_pool(["nats://127.0.0.1:4222"])
    return client._server_pool[0]
