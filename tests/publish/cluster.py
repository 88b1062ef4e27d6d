"""Three nats-servers on loopback that replicate what they store."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import json
from pathlib import Path
from typing import Any

from nats.aio.client import Client
from nats.errors import Error

from tests.nats_servers import NatsServer, current_executable
from tests.ports import free_port

NAMES = ("a", "b", "c")
ANSWER_S = 40.0

_CONFIG = """\
server_name: "{name}"
cluster {{ name: "c", listen: "127.0.0.1:{port}", routes: [{routes}] }}
"""


class Cluster:
    """Servers `a`, `b` and `c`; `url` names all of them."""

    def __init__(self, directory: Path) -> None:
        ports = [free_port() for _ in range(2 * len(NAMES))]
        routes = ", ".join(f'"nats://127.0.0.1:{port}"' for port in ports[: len(NAMES)])
        self.servers = {}
        for index, name in enumerate(NAMES):
            config = _CONFIG.format(name=name, port=ports[index], routes=routes)
            port = ports[len(NAMES) + index]
            home = directory / name
            self.servers[name] = NatsServer(current_executable(), home, config, port)

    @property
    def url(self) -> str:
        return ",".join(server.url for server in self.servers.values())

    async def start(self) -> None:
        """Start all, and wait until JetStream has a leader that makes streams."""
        starts = (asyncio.to_thread(server.start) for server in self.servers.values())
        await asyncio.gather(*starts)
        await self.ask("STREAM.NAMES")

    def stop(self) -> None:
        for server in self.servers.values():
            server.kill()

    async def ask(self, subject: str, **body: Any) -> dict[str, Any]:
        """Ask JetStream until it answers without an error."""
        client = Client()
        urls = [server.url for server in self.servers.values()]
        await client.connect(urls, max_reconnect_attempts=-1, reconnect_time_wait=0)
        payload = json.dumps(body).encode() if body else b""
        try:
            async with asyncio.timeout(ANSWER_S):
                while True:
                    with contextlib.suppress(Error, TimeoutError):
                        answer = await client.request(f"$JS.API.{subject}", payload, 1)
                        values: dict[str, Any] = json.loads(answer.data)
                        if "error" not in values:
                            return values
                    await asyncio.sleep(0.05)
        finally:
            await client.close()

    async def make_stream(self) -> None:
        """Make MARKET_DATA with three replicas."""
        body = {"name": "MARKET_DATA", "subjects": ["market.>"], "num_replicas": 3}
        await self.ask("STREAM.CREATE.MARKET_DATA", **body, allow_batched=True)

    async def healthy(self, stream: str = "MARKET_DATA") -> None:
        """Wait until all servers run and hold all that the stream has."""
        while True:
            replicas = (await self.ask(f"STREAM.INFO.{stream}"))["cluster"].get("replicas", ())
            if sum(one.get("current", False) for one in replicas) == len(NAMES) - 1:
                return
            await asyncio.sleep(0.05)

    async def led_since_s(self, stream: str = "MARKET_DATA") -> float:
        """When its leader became it, by the wall clock: an election takes the servers 4 to 9 s."""
        while True:
            # Between two leaders there is none, and no such time.
            cluster = (await self.ask(f"STREAM.INFO.{stream}"))["cluster"]
            if since := cluster.get("leader_since"):
                return dt.datetime.fromisoformat(since).timestamp()
            await asyncio.sleep(0.05)

    async def leader(self, stream: str = "MARKET_DATA") -> str:
        """The name of the server that leads a stream."""
        while True:
            info = await self.ask(f"STREAM.INFO.{stream}")
            if leader := info.get("cluster", {}).get("leader"):
                return str(leader)
            await asyncio.sleep(0.05)

    async def step_down(self, stream: str = "MARKET_DATA") -> None:
        await self.ask(f"STREAM.LEADER.STEPDOWN.{stream}")
