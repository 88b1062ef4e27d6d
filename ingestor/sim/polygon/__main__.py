"""``python -m ingestor.sim.polygon``: run a simulator until it is told to stop.

A script is a file of exact frames in a given order, one line each. A line that begins with ``[``
is a frame and is sent byte for byte; a line that begins with ``{`` says what to do before the
next one: ``{"market": "options"}`` sends the frames that follow there, ``{"wait": "T.SPY"}`` waits
until that is subscribed, ``{"pause_ms": 50}`` waits that long. A frame waits for a client that is
authenticated. Blank lines and lines that begin with ``#`` are skipped.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import ssl
import sys
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

import msgspec
import uvloop

from ingestor.model.errors import ConfigurationError, ExitCode, IngestorError
from ingestor.sim.polygon.arguments import SimulatorSettings, read_settings
from ingestor.sim.polygon.control_handler import ControlHandler, ControlServer
from ingestor.sim.polygon.market_hub import MarketHub
from ingestor.sim.polygon.server_session import Market
from ingestor.sim.polygon.simulator import Simulator


class Directive(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to do before the next frame."""

    market: Market | None = None
    wait: str = ""
    pause_ms: float = 0


Step = Directive | bytes


def main(argv: Sequence[str] | None = None) -> int:
    """Run a simulator; return the exit code."""
    logging.basicConfig(level=logging.WARNING, format="ingestor-sim: %(message)s")
    try:
        settings, exit_with_stdin = read_settings(sys.argv[1:] if argv is None else argv)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(run(settings, exit_with_stdin=exit_with_stdin))
    except IngestorError as error:
        print(f"ingestor-sim: {error}", file=sys.stderr)
        return error.exit_code
    return ExitCode.OK


async def run(settings: SimulatorSettings, *, exit_with_stdin: bool) -> None:
    """Serve until a signal, ``quit`` or the end of standard input.

    Raises:
        ConfigurationError: the script or the certificate cannot be read, or a port is taken.
    """
    # Read first: with a script that is wrong nothing should listen for a moment.
    steps = read_script(settings.script) if settings.script is not None else ()
    simulator = Simulator(settings)
    handler = ControlHandler(simulator)
    control = ControlServer(handler)
    try:
        control_port = await control.start(settings.host, settings.control_port)
        await simulator.start()
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(f"cannot listen on {settings.host}: {error}") from error
    _stop_on_signals(handler.quit_event)
    if exit_with_stdin:
        _stop_with_stdin(handler.quit_event)
    # The task is kept here because the loop itself holds tasks weakly.
    script = asyncio.create_task(play(steps, simulator))
    _announce(settings, simulator.port, control_port)
    await handler.quit_event.wait()
    script.cancel()
    await control.stop()
    await simulator.stop()


def _announce(settings: SimulatorSettings, port: int, control_port: int) -> None:
    """The one line on standard output that says that everything listens."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    base = f"{'ws' if settings.tls_cert is None else 'wss'}://{host}:{port}"
    ready = {
        "stocks_url": f"{base}/stocks",
        "options_url": f"{base}/options",
        "control_url": f"tcp://{host}:{control_port}",
        "pid": os.getpid(),
    }
    print(json.dumps(ready), flush=True)


def _stop_on_signals(stop: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)


def _stop_with_stdin(stop: asyncio.Event) -> None:
    """A parent that dies closes its end of the pipe: nobody is left behind."""
    loop = asyncio.get_running_loop()

    def read() -> None:
        if not os.read(sys.stdin.fileno(), 4_096):
            loop.remove_reader(sys.stdin.fileno())
            stop.set()

    loop.add_reader(sys.stdin.fileno(), read)


def read_script(path: Path) -> tuple[Step, ...]:
    """Read a script file. Raises `ConfigurationError`, naming the line."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise ConfigurationError(f"--script {path}: {error.strerror}") from error
    return tuple(parse_script(lines, str(path)))


def parse_script(lines: Iterable[bytes], name: str) -> Iterable[Step]:
    """Yield the steps of a script; ``name`` is for messages. Raises `ConfigurationError`."""
    for number, line in enumerate(lines, 1):
        if line.startswith(b"["):
            yield line
        elif line.strip() and not line.startswith(b"#"):
            try:
                yield msgspec.json.decode(line, type=Directive)
            except msgspec.DecodeError as error:
                raise ConfigurationError(f"{name}, line {number}: {error}") from error


async def play(steps: Iterable[Step], simulator: Simulator) -> None:
    """Send the frames of a script to the authenticated clients of their market."""
    hub = simulator.hubs[Market.STOCKS]
    for step in steps:
        if isinstance(step, bytes):
            await simulator.until(partial(_has_client, hub))
            for member in hub.members:
                member.send(step)
            continue
        if step.market is not None:
            hub = simulator.hubs[step.market]
        if step.wait:
            await simulator.until(partial(_has_client, hub, step.wait))
        await asyncio.sleep(step.pause_ms / 1_000)


def _has_client(hub: MarketHub, subscribed_to: str = "") -> bool:
    """Whether a client is authenticated, and is subscribed if a subscription is named."""
    return any(
        not subscribed_to or subscribed_to in member.session.subscriptions for member in hub.members
    )


if __name__ == "__main__":
    sys.exit(main())
