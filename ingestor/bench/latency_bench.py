"""``bin/ingestor-bench live``: how late is a live event in the stream, and what does the run cost?

A simulator, a nats-server with an empty store and ``ingestor-live`` run as processes of their own,
all on this machine. Afterwards the stream is read: an event's latency is the server's time of
storing it less ``ts_recv_ns``, which is taken when its bytes are read from the vendor's socket.
With more ``--symbols`` than one every stock of the simulator is subscribed: what does that cost?
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import uvloop

from ingestor.bench.measure import family, family_pss_bytes, title
from ingestor.client import EVERYTHING, connect
from ingestor.model.errors import IngestorError
from ingestor.runtime.embedded_server import ANY_PORT, EmbeddedServer
from ingestor.runtime.machine import usage_of
from ingestor.sim.polygon.server_session import API_KEY
from ingestor.sim.polygon.simulator_process import SimulatorProcess

OPTIONS_SHARE: Final = 0.05
"""Part of the rate that is option trades; the rest are quotes and trades of SPY."""

WARM_UP_S: Final = 3.0
"""Events received this soon after the first are not counted: connections are being made."""

_PSS_EVERY_S: Final = 1.0
_RECV_AT: Final = slice(48, 67)
"""Where ``ts_recv_ns`` stands: every event opens with two times of 19 digits."""


@dataclass(frozen=True, slots=True)
class LiveFigures:
    """Latencies in microseconds, CPU in cores and of an event, PSS in MB at start and end.

    There are no latencies (nan) of packed messages.
    """

    rate: int
    symbols: int
    encoding: str
    seconds: float
    published: int
    events_per_s: float
    dropped: int
    late_p50_us: float
    late_p99_us: float
    late_p999_us: float
    our_cpu: float
    feeds_cpu_us: float
    publisher_cpu_us: float
    server_cpu: float
    first_pss_mb: float
    last_pss_mb: float
    peak_pss_mb: float


def measure(directory: Path, given: argparse.Namespace) -> LiveFigures:
    """Run once and read the stream. Raises IngestorError."""
    options = int(given.rate * OPTIONS_SHARE)
    rates = ["--rate", str(given.rate - options), "--options-rate", str(options)]
    with (
        EmbeddedServer(directory, port=ANY_PORT) as server,
        SimulatorProcess(*rates, *_vendor_options(given)) as simulator,
    ):
        watched = _Watched(_start(server.url, simulator, directory, given), server.pid or 0)
        summary = watched.until_the_end()
        latencies = np.array([np.nan])
        if given.encoding == "json":
            latencies = uvloop.run(_latencies_us(server.url))
    p50, p99, p999 = (float(np.percentile(latencies, at)) for at in (50, 99, 99.9))
    elapsed_s = float(summary["elapsed_s"])
    feeds = summary["feeds"].values()
    return LiveFigures(
        rate=given.rate,
        symbols=given.symbols,
        encoding=given.encoding,
        seconds=elapsed_s,
        published=int(summary["published"]),
        events_per_s=float(summary["events_per_s"]),
        dropped=sum(feed["dropped_trades"] + feed["dropped_quotes"] for feed in feeds),
        late_p50_us=p50,
        late_p99_us=p99,
        late_p999_us=p999,
        our_cpu=watched.our_cpu_s / elapsed_s,
        feeds_cpu_us=watched.cpu_s_of("stocks", "options") / int(summary["published"]) * 1e6,
        publisher_cpu_us=watched.cpu_s_of("publisher") / int(summary["published"]) * 1e6,
        server_cpu=watched.server_cpu_s / elapsed_s,
        first_pss_mb=watched.pss_mb[len(watched.pss_mb) // 10],
        last_pss_mb=watched.pss_mb[-1],
        peak_pss_mb=max(watched.pss_mb),
    )


def _vendor_options(given: argparse.Namespace) -> list[str]:
    return ["--frame-ms", str(given.frame_ms), "--stocks", str(given.symbols)]


def _start(
    url: str, simulator: SimulatorProcess, directory: Path, given: argparse.Namespace
) -> subprocess.Popen[str]:
    asked = '"*"' if given.symbols > 1 else '["SPY"]'
    config = directory / "live.toml"
    config.write_text(f'[polygon]\nsymbols = {asked}\n[publish]\nencoding = "{given.encoding}"\n')
    environment = os.environ | {
        "POLYGON_API_KEY": API_KEY,
        "POLYGON_STOCKS_URL": simulator.stocks_url,
        "POLYGON_OPTIONS_URL": simulator.options_url,
    }
    command = [sys.executable, "-m", "ingestor.main", "--summary", "json"]
    command += ["--for", str(given.seconds), "--nats", url, "--config", str(config)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


class _Watched:
    """A run and its server, while they work."""

    def __init__(self, process: subprocess.Popen[str], server_pid: int) -> None:
        self._process = process
        self._server_pid = server_pid
        self._cpu_s: dict[int, float] = {}
        self._titles: dict[int, str] = {}
        self.pss_mb: list[float] = []
        self.server_cpu_s = 0.0

    @property
    def our_cpu_s(self) -> float:
        """CPU seconds of all processes of the run, as last seen."""
        return sum(self._cpu_s.values())

    def cpu_s_of(self, *names: str) -> float:
        """CPU seconds of the processes of these names, as `ps` shows them."""
        titles = {f"ingestor: {name}" for name in names}
        return sum(self._cpu_s[pid] for pid, title in self._titles.items() if title in titles)

    def until_the_end(self) -> dict[str, Any]:
        """Return the summary. Raises IngestorError when there is none."""
        while self._process.poll() is None:
            pss_mb = family_pss_bytes(self._process.pid) / 1e6
            if pss_mb:
                self.pss_mb.append(pss_mb)
            for pid in family(self._process.pid):
                if (used := usage_of(pid)) is not None:
                    self._cpu_s[pid], self._titles[pid] = used[0], title(pid)
            if (used := usage_of(self._server_pid)) is not None:
                self.server_cpu_s = used[0]
            time.sleep(_PSS_EVERY_S)
        output, _ = self._process.communicate()
        if self._process.returncode:
            raise IngestorError(f"ingestor-live ended with {self._process.returncode}")
        summary: dict[str, Any] = json.loads(output)
        return summary


async def _latencies_us(url: str) -> npt.NDArray[np.float64]:
    """Return the latency of every event after the warm-up."""
    received: list[int] = []
    stored: list[int] = []
    async with connect(url) as client:
        async for message in client.subscribe(EVERYTHING, follow=False).messages():
            received.append(int(message.payload[_RECV_AT]))
            stored.append(message.stored_ns)
    recv_ns = np.array(received)
    counted = recv_ns >= recv_ns.min() + int(WARM_UP_S * 1e9)
    latencies: npt.NDArray[np.float64] = (np.array(stored) - recv_ns)[counted] / 1e3
    return latencies


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure as the command line says; returns the exit code."""
    given = _parser().parse_args(arguments)
    try:
        with tempfile.TemporaryDirectory(prefix="ingestor-bench-", dir=given.dir) as name:
            figures = measure(Path(name), given)
    except IngestorError as error:
        print(f"ingestor-bench: {error}", file=sys.stderr)
        return error.exit_code
    if given.json:
        print(json.dumps(asdict(figures)))
    else:
        print(
            "\n".join(f"{name:<18}{_shown(value):>16}" for name, value in asdict(figures).items())
        )
    return 0


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else f"{value:,.2f}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ingestor-bench live",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rate", type=int, default=10_000, help="events a second (10000)")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long (60)")
    parser.add_argument("--symbols", type=int, default=1, help="stocks on the tape (1)")
    parser.add_argument("--encoding", choices=("json", "packed"), default="json")
    parser.add_argument("--frame-ms", type=int, default=5, help="between vendor frames (5)")
    parser.add_argument("--dir", type=Path, default=None, help="where the store is put")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


if __name__ == "__main__":
    sys.exit(main())
