"""nats-servers under faults: one, whose disk may be full, or three, of which the leader is hit."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.faults.runs import BrokenError
from tests.nats_servers import NatsServer, current_executable
from tests.publish.cluster import Cluster

DISK: Final = "1g"
"""Of a server whose disk is to be full at times; in memory, and as large as what it has to hold."""

_LAST_BYTES: Final = 4_000_000


class OneServer(NatsServer):
    """One server; only one with a disk of its own is to be filled."""

    def fill(self) -> None:
        """Leave no room on its disk."""
        with self._ballast.open("wb", buffering=0) as ballast:
            disk = os.statvfs(ballast.fileno())
            room = disk.f_bavail * disk.f_frsize - _LAST_BYTES
            os.posix_fallocate(ballast.fileno(), 0, max(1, room))
            # The server goes on writing meanwhile: the rest goes page by page.
            ballast.seek(0, os.SEEK_END)
            with contextlib.suppress(OSError):
                while ballast.write(bytes(disk.f_frsize)):
                    pass

    def make_room(self) -> None:
        """Have room again, and a new server: one writes no more to a stream that failed."""
        self._ballast.unlink()
        self.kill()
        self.start()

    @property
    def _ballast(self) -> Path:
        return self.directory / "ballast"


class ThreeServers:
    """Three replicas, of which the one that leads MARKET_DATA is hit."""

    def __init__(self, directory: Path) -> None:
        self._cluster = Cluster(directory)
        self._hit: NatsServer | None = None
        self._there = False

    @property
    def url(self) -> str:
        """All three."""
        return self._cluster.url

    def start(self) -> None:
        """Start all, or the one that was hit, and wait until all hold what the stream has."""
        if not self._there:
            self._there = True
            # Not in a thread of an event loop: a server dies with the thread that has started it.
            for server in self._cluster.servers.values():
                server.start()
            asyncio.run(self._cluster.ask("STREAM.NAMES"))
        elif self._hit is not None:
            self._hit.start()
            asyncio.run(self._cluster.healthy())

    def stop(self) -> None:
        """End all."""
        self._cluster.stop()

    def kill(self) -> None:
        """Kill the leader."""
        self._hit = self._leader()
        self._hit.kill()

    def pause(self) -> None:
        """Freeze the leader."""
        self._hit = self._leader()
        self._hit.pause()

    def resume(self) -> None:
        """Let it go on."""
        if self._hit is not None:
            self._hit.resume()

    def led_since_s(self) -> float:
        """Since when there is the leader of now, s UTC."""
        return asyncio.run(self._cluster.led_since_s())

    def fill(self) -> None:
        """They share the disk of others."""
        raise NotImplementedError

    make_room = fill

    def _leader(self) -> NatsServer:
        return self._cluster.servers[asyncio.run(self._cluster.leader())]


@contextlib.contextmanager
def one_server(folder: Path, *, own_disk: bool = False) -> Iterator[OneServer]:
    """A running server. Raises `BrokenError` where it cannot have a disk of its own."""
    folder.mkdir(parents=True)
    if own_disk:
        mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(folder)]
        if subprocess.run(mount, capture_output=True, check=False).returncode:
            raise BrokenError("a disk that can be full, a small tmpfs, takes root to mount")
    server = OneServer(current_executable(), folder / "server")
    try:
        server.start()
        yield server
    finally:
        server.stop()
        if own_disk:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextlib.contextmanager
def three_servers(folder: Path) -> Iterator[ThreeServers]:
    """A running cluster."""
    servers = ThreeServers(folder)
    try:
        servers.start()
        yield servers
    finally:
        servers.stop()
