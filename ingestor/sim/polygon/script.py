"""Scripts: exact frames in a given order, one line each.

A line that begins with ``[`` is a frame and is sent byte for byte; a line that begins with ``{``
says what to do before the next one: ``{"market": "options"}`` sends the frames that follow there,
``{"wait": "T.SPY"}`` waits until that is subscribed, ``{"pause_ms": 50}`` waits that long. A frame
waits for a client that is authenticated. Blank lines and lines that begin with ``#`` are skipped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path

import msgspec

from ingestor.errors import ConfigurationError
from ingestor.sim.polygon.simulator import Simulator
from ingestor.sim.polygon.server_session import Market


class Directive(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to do before the next frame."""

    market: Market | None = None
    wait: str = ""
    pause_ms: float = 0


Step = Directive | bytes


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
    floor = simulator.floors[Market.STOCKS]
    for step in steps:
        if isinstance(step, bytes):
            await simulator.until(lambda floor=floor: bool(floor.members))  # type: ignore[misc]
            for member in floor.members:
                member.send(step)
            continue
        if step.market is not None:
            floor = simulator.floors[step.market]
        if step.wait:
            await simulator.until(
                lambda floor=floor, step=step: any(  # type: ignore[misc]
                    step.wait in member.session.subscriptions for member in floor.members
                )
            )
        await asyncio.sleep(step.pause_ms / 1_000)
