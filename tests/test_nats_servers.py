"""The servers that the tests run on keep what they promise."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import nats
import psutil
import pytest

from tests.nats_servers import NatsServer, ServerFailedError
from tests.processes import ended

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import StartNatsServer


async def _publish(server: NatsServer) -> int:
    client = await nats.connect(server.url, allow_reconnect=False)
    try:
        stream = client.jetstream()
        await stream.add_stream(name="S", subjects=["s.>"])
        return (await stream.publish("s.a", b"x")).seq
    finally:
        await client.close()


def _run(server: NatsServer) -> int:
    return asyncio.run(_publish(server))


def test_a_started_server_stores_messages(any_nats_server: NatsServer) -> None:
    assert _run(any_nats_server) == 1
    assert any(any_nats_server.store_dir.rglob("*.blk"))


def test_the_old_server_is_a_2_10(old_nats_server: NatsServer) -> None:
    assert "Version:  2.10." in old_nats_server.log()


def test_two_servers_have_ports_of_their_own(start_nats_server: StartNatsServer) -> None:
    first, second = start_nats_server(), start_nats_server()
    assert first.port != second.port


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_a_restarted_server_has_its_port_and_its_messages_again(
    nats_server: NatsServer, end: str
) -> None:
    port = nats_server.port
    assert _run(nats_server) == 1
    getattr(nats_server, end)()
    assert not nats_server.running
    nats_server.restart()
    assert nats_server.port == port
    assert _run(nats_server) == 2


def test_a_paused_server_can_be_stopped(nats_server: NatsServer) -> None:
    pid = nats_server.pid
    nats_server.pause()
    nats_server.stop()
    assert not psutil.pid_exists(pid)


def test_extra_configuration_reaches_the_server(start_nats_server: StartNatsServer) -> None:
    server = start_nats_server(extra_config='authorization { token: "secret" }')
    with pytest.raises(nats.errors.Error, match=r"(?i)authorization"):
        _run(server)


def test_a_server_that_cannot_start_shows_its_log(start_nats_server: StartNatsServer) -> None:
    with pytest.raises(ServerFailedError, match="no_such_setting"):
        start_nats_server(extra_config="no_such_setting: 1")


def test_a_server_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from tests.nats_servers import start_server\n"
        "print(start_server(Path(sys.argv[1])).pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        server = psutil.Process(int(owner.stdout.readline()))
        os.kill(owner.pid, signal.SIGKILL)
        assert ended(server)
