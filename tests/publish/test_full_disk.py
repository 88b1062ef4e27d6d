"""A disk that is full under the server: told with its cause, waited for, and gone on with."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests import nats_servers
from tests.publish.plain import PlainEncoder, publisher, stored, trades, until
from tests.publish.test_publisher import request

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.nats_servers import NatsServer

DISK = "24m"
BALLAST_BYTES = 8_000_000
ROWS = 17_000
"""Of a kilobyte each: more than the disk holds beside the ballast, or than the server may use."""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small tmpfs needs root")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


@contextlib.contextmanager
def _server(disk: Path, store: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[NatsServer]:
    config = nats_servers._CONFIG.replace('store_dir: "{store_dir}"', store)
    monkeypatch.setattr(nats_servers, "_CONFIG", config)
    server = nats_servers.start_server(disk / "server")
    try:
        yield server
    finally:
        server.kill()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("store", "cause"),
    [
        ('store_dir: "{store_dir}", max_file_store: 12M', "insufficient resources"),
        ('store_dir: "{store_dir}", max_file_store: 1G', "a disk that was full"),
    ],
    ids=["limit", "no space"],
)
def test_a_full_disk_is_told_and_gone_on_with_once_there_is_room(
    disk: Path, store: str, cause: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def check(server: NatsServer) -> None:
        ballast = disk / "ballast"
        ballast.write_bytes(b"x" * BALLAST_BYTES)
        publishing = publisher(server, encoder=PlainEncoder(pad=1_000), give_up_after_s=60.0)
        await publishing.open()
        sending = asyncio.create_task(publishing.send(trades(0, ROWS)))
        await until(lambda: cause in (publishing.trouble or ""), 20.0)
        held = publishing.acked_rows
        assert 0 < held < ROWS
        ballast.unlink()
        if "1G" in store:
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)
        else:
            assert await stored(server) == list(range(held))
            await request(server, "STREAM.PURGE.MARKET_DATA")
        await sending
        await publishing.flush()
        report = await publishing.close()
        assert (report.messages, report.last_seq, report.lost_messages) == (ROWS, ROWS, 0)
        assert await stored(server) == list(range(0 if "1G" in store else held, ROWS))
        assert publishing.trouble is None

    with _server(disk, store, monkeypatch) as server:
        asyncio.run(check(server))
