"""What listens on a port is told from what it says, within bounds."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest

from ingestor.runtime import nats_probe
from ingestor.runtime.nats_probe import (
    MAX_LINE_BYTES,
    NotNatsError,
    jetstream_answers,
    server_info,
)
from tests.conftest import StartNatsServer
from tests.nats_servers import NatsServer
from tests.ports import free_port

_INFO = b'INFO {"version":"9.9.9","jetstream":true}\r\n'


@contextlib.contextmanager
def _speaker(*answers: bytes) -> Iterator[int]:
    """A server that says `answers`, each to one client, and then hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            for answer in answers:
                client, _ = listener.accept()
                with client:
                    client.sendall(answer)
                    client.shutdown(socket.SHUT_WR)
                    with contextlib.suppress(ConnectionResetError):
                        while client.recv(4096):
                            pass

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(10)
        assert not thread.is_alive()


def test_a_server_tells_its_version(nats_server: NatsServer) -> None:
    info = server_info(nats_server.port)
    assert info is not None
    assert info.version.startswith("2.15.")
    assert info.jetstream


def test_jetstream_of_both_generations_answers(any_nats_server: NatsServer) -> None:
    assert jetstream_answers(any_nats_server.port)


def test_nothing_listens_on_a_free_port() -> None:
    port = free_port()
    assert server_info(port) is None
    assert not jetstream_answers(port)


def test_a_server_that_wants_credentials_is_known_but_does_not_answer(
    start_nats_server: StartNatsServer,
) -> None:
    port = start_nats_server(extra_config='authorization { token: "t" }').port
    assert server_info(port) is not None
    assert not jetstream_answers(port)


@pytest.mark.parametrize(
    "said",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"",
        b"INFO not json\r\n",
        b"INFO {}\r\n",
        b"INFO [1]\r\n",
        b"INFO \xff\r\n",
        b"x" * (MAX_LINE_BYTES + 1),
    ],
)
def test_whatever_does_not_greet_like_nats_is_not_nats(said: bytes) -> None:
    with _speaker(said) as port, pytest.raises(NotNatsError):
        server_info(port)


def test_a_silent_listener_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nats_probe, "ANSWER_TIMEOUT_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with pytest.raises(NotNatsError, match="timed out"):
            server_info(listener.getsockname()[1])
        assert not jetstream_answers(listener.getsockname()[1])


@pytest.mark.parametrize(
    ("answer", "yes"),
    [
        (b"PONG\r\nMSG x 1 9\r\n" + b'{"type":"io.nats.account_info_response"}\r\n', True),
        (b'MSG x 1 9\r\n{"type":"x_account_info_response","error":{"code":503}}\r\n', False),
        (b"-ERR 'Authorization Violation'\r\n", False),
        (b"PONG\r\n", False),
    ],
)
def test_only_an_account_report_counts_as_jetstream(answer: bytes, yes: bool) -> None:
    with _speaker(_INFO + answer) as port:
        assert jetstream_answers(port) is yes


def test_a_server_without_jetstream_is_not_asked() -> None:
    with _speaker(b'INFO {"version":"1"}\r\n') as port:
        assert not jetstream_answers(port)
