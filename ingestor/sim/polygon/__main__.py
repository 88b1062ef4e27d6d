"""``python -m ingestor.sim.polygon``: run a simulator until it is told to stop.

A script is a file of exact frames in a given order, one line each. A line that begins with ``[``
is a frame and is sent byte for byte; a line that begins with ``{`` says what to do before the
next one: ``{"market": "options"}`` sends the frames that follow there, ``{"wait": "T.SPY"}`` waits
until that is subscribed, ``{"pause_ms": 50}`` waits that long. A frame waits for a client that is
authenticated. Blank lines and lines that begin with ``#`` are skipped.
"""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import json
import logging
import os
import re
import signal
import ssl
import sys
from collections.abc import Iterable, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Final

import msgspec
import uvloop

from ingestor.model.errors import ConfigurationError, ExitCode, IngestorError
from ingestor.model.units import NS_PER_S
from ingestor.sim.polygon.control_handler import COMMANDS, KINDS, MAX_RATE, ControlHandler
from ingestor.sim.polygon.server_session import SimMarket
from ingestor.sim.polygon.simulator import (
    EVICT_OLDER,
    PLAN,
    REFUSE_NEWER,
    MarketHub,
    PricePath,
    Simulator,
    SimulatorSettings,
)
from ingestor.sim.polygon.stock_tape import MAX_STOCKS

_PATH: Final = re.compile(r"linear:([+-]\d+(?:\.\d+)?):(\d+(?:\.\d+)?)s")

_RANGES: Final = (
    ("port", 0, 65_535),
    ("control_port", 0, 65_535),
    ("rate", 0, MAX_RATE),
    ("options_rate", 0, MAX_RATE),
    ("count", 0, 10**15),
    ("quota", 0, 1_000),
    ("buffer_bytes", 1, 10**9),
    ("quote_share", 0, 1),
    ("stocks", 1, MAX_STOCKS),
    ("frame_ms", 1, 1_000),
    ("seed", 0, 2**32 - 1),
    ("price", 1, 100_000),
    ("volatility", 0, 1_000),
)


class Directive(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to do before the next frame."""

    market: SimMarket | None = None
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
    control = ControlHandler(simulator)
    try:
        control_port = await control.start(settings.host, settings.control_port)
        await simulator.start()
    except (OSError, ssl.SSLError) as error:
        what = error.filename or f"cannot listen on {settings.host}"
        raise ConfigurationError(f"{what}: {error.strerror or error}") from error
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, simulator.quit_event.set)
    if exit_with_stdin:
        _stop_with_stdin(simulator.quit_event)
    # The task is kept here because the loop itself holds tasks weakly.
    script = asyncio.create_task(play(steps, simulator))
    # The one line on standard output: everything listens.
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    base = f"{'ws' if settings.tls_cert is None else 'wss'}://{host}:{simulator.port}"
    ready = {
        "stocks_url": f"{base}/stocks",
        "options_url": f"{base}/options",
        "control_url": f"tcp://{host}:{control_port}",
        "pid": os.getpid(),
    }
    print(json.dumps(ready), flush=True)
    await simulator.quit_event.wait()
    script.cancel()
    await control.stop()
    await simulator.stop()


def _stop_with_stdin(stop: asyncio.Event) -> None:
    """A parent that dies closes its end of the pipe: nobody is left behind."""
    loop = asyncio.get_running_loop()

    def read() -> None:
        # What is typed is read and dropped; only the end of the input counts.
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
    hub = simulator.hubs[SimMarket.STOCKS]
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


_DEFAULTS: Final = SimulatorSettings()

DESCRIPTION: Final = """\
A simulator of the Polygon (Massive) WebSocket feeds for stocks and options, on loopback only.

When it is ready it prints one line of JSON: stocks_url, options_url, control_url, pid. Point
POLYGON_STOCKS_URL and POLYGON_OPTIONS_URL at it; the key is --api-key.
"""

EXAMPLES: Final = """\
examples:
  python -m ingestor.sim.polygon                       1,000 stock events/s, 100 option events/s
  python -m ingestor.sim.polygon --rate 50000 --count 1000000
  python -m ingestor.sim.polygon --volatility 0 --path linear:+20:60s
                                                       SPY walks across 20 strikes in a minute
  python -m ingestor.sim.polygon --script frames.jsonl exact frames, in order
  echo '{"do":"drop"}' | nc -N 127.0.0.1 CONTROL_PORT  the connection is cut

data: T.SPY and Q.SPY (or T.*, Q.*) on /stocks; on /options T and Q of subscribed contracts of
the SPY chain (today's expiry and the next three, whole-dollar strikes), and T.* for all trades
near the money. Only what is subscribed is sent, and the rate counts what is sent to a client
that subscribes to all of it. An event's t is the time it was due, not the time it left.

script lines: a JSON array is a frame, sent byte for byte; {"market":"options"} switches market,
{"wait":"T.SPY"} waits for that subscription, {"pause_ms":50} waits; # begins a comment.
"""


def _commands_help() -> str:
    lines = ["control commands, one JSON object a line, one JSON answer a line (ok, error):"]
    for command in COMMANDS:
        own = command.__struct_fields__
        call = ", ".join([f'"do":"{command.__struct_config__.tag}"', *(f'"{n}":..' for n in own)])
        lines.append(f"  {{{call}}}")
        lines.append(f"      {(command.__doc__ or '').strip()}")
    lines.append(
        '"market" is "stocks" or "options"; without it both, but stocks for rate and send.'
    )
    lines.append(f"malformed kinds: {', '.join(KINDS)}")
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    """Every option, with the defaults of `SimulatorSettings`."""
    parser = argparse.ArgumentParser(
        prog="ingestor-sim",
        description=DESCRIPTION,
        epilog=f"{EXAMPLES}\n{_commands_help()}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    group = parser.add_argument_group("listening")
    group.add_argument("--host", help="loopback address (%(default)s)")
    group.add_argument("--port", type=int, help="WebSocket port; 0 takes a free one")
    group.add_argument("--control-port", type=int, help="control port; 0: a free one")
    group.add_argument("--tls-cert", type=Path, metavar="PEM", help="serve wss:// with this")
    group.add_argument("--tls-key", type=Path, metavar="PEM", help="key of --tls-cert")
    group.add_argument(
        "--exit-with-stdin", action="store_true", help="stop when standard input is closed"
    )
    _add_account(parser.add_argument_group("account"))
    _add_data(parser.add_argument_group("data"))
    # A rate that is left open is 0 where there is a script.
    defaults = {field.name: getattr(_DEFAULTS, field.name) for field in fields(_DEFAULTS)}
    open_rates = {"rate": None, "options_rate": None}
    parser.set_defaults(
        **defaults | open_rates | {"delayed_tier": [], "price": _DEFAULTS.price_cents / 100}
    )
    return parser


def _add_account(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--api-key", help="the key (%(default)s)")
    group.add_argument(
        "--standby-api-key",
        metavar="KEY",
        help="a second key, of an account with the same plan and a quota of its own",
    )
    group.add_argument(
        "--plan",
        type=_plan,
        help="topics it may have, e.g. stocks-T,stocks-Q,options-T; a market without any is "
        "refused WebSocket access (all of T, Q, A, AM)",
    )
    group.add_argument(
        "--delayed-tier",
        type=SimMarket,
        action="append",
        choices=list(SimMarket),
        help="accept the key on this market, then never answer or send anything",
    )
    group.add_argument("--auth-timeout", type=float, dest="auth_timeout_s", metavar="S")
    group.add_argument("--quota", type=int, help="connections a market; 0: any (1)")
    group.add_argument(
        "--over-quota", choices=(EVICT_OLDER, REFUSE_NEWER), help="who has to go (%(default)s)"
    )
    group.add_argument(
        "--quota-delay",
        type=float,
        dest="quota_delay_s",
        metavar="S",
        help="how long after authentication the quota is enforced (%(default)s)",
    )
    group.add_argument(
        "--buffer-bytes", type=int, help="a client this far behind is cut (%(default)s)"
    )


def _add_data(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--rate", type=int, help="stock events a second, 0 for none (1000)")
    group.add_argument("--options-rate", type=int, help="option events a second (100)")
    group.add_argument("--count", type=int, help="fall silent after this many events a market")
    group.add_argument(
        "--quote-share", type=float, help="part of the events that are quotes (%(default)s)"
    )
    group.add_argument(
        "--stocks",
        type=int,
        help="number of stocks: SPY and made-up ones, all at SPY's price (%(default)s)",
    )
    group.add_argument(
        "--frame-ms", type=int, help="least milliseconds between two frames (%(default)s)"
    )
    group.add_argument("--seed", type=int, help="same seed, same market")
    group.add_argument("--price", type=float, help="SPY opens")
    group.add_argument(
        "--volatility",
        type=float,
        help="of the walk, cents per square root of a second (%(default)s)",
    )
    group.add_argument(
        "--path",
        type=_path,
        metavar="linear:+20:60s",
        help="move the price by this much over this long, from the first subscription on",
    )
    group.add_argument(
        "--script", type=Path, metavar="FILE", help="send these frames (rates become 0)"
    )
    group.add_argument(
        "--log",
        type=Path,
        metavar="FILE",
        help="append every frame that is sent, a line each, its connection's number before it",
    )


def read_settings(argv: Sequence[str]) -> tuple[SimulatorSettings, bool]:
    """Return the settings, and whether to stop with standard input.

    Raises:
        ConfigurationError: a value is out of range, or the address is not loopback.
        SystemExit: ``--help``, or what argparse itself refuses.
    """
    arguments = parser().parse_args(argv)
    if not _is_loopback(arguments.host):
        raise ConfigurationError(
            f"--host {arguments.host}: the simulator listens on loopback only (127.0.0.1, ::1)"
        )
    if (arguments.tls_cert is None) != (arguments.tls_key is None):
        raise ConfigurationError("--tls-cert and --tls-key go together")
    for name, low, high in _RANGES:
        value = getattr(arguments, name)
        if value is not None and not low <= value <= high:
            flag = name.replace("_", "-")
            raise ConfigurationError(f"--{flag} {value}: allowed is {low} to {high}")
    # Every option that is left bears the name of its setting.
    given = vars(arguments)
    exit_with_stdin = given.pop("exit_with_stdin")
    given["delayed_tier"] = frozenset(given["delayed_tier"])
    given["price_cents"] = round(given.pop("price") * 100)
    # A script is not to be mixed with generated events, unless both are asked for.
    for rate in ("rate", "options_rate"):
        if given[rate] is None:
            given[rate] = 0 if given["script"] is not None else getattr(_DEFAULTS, rate)
    return SimulatorSettings(**given), exit_with_stdin


def _plan(text: str) -> frozenset[str]:
    plan = frozenset(filter(None, text.split(",")))
    if unknown := sorted(plan - PLAN):
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)} not in {', '.join(sorted(PLAN))}")
    return plan


def _path(text: str) -> PricePath:
    match = _PATH.fullmatch(text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not like linear:+20:60s")
    return PricePath(round(float(match[1]) * 100), round(float(match[2]) * NS_PER_S))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


if __name__ == "__main__":
    sys.exit(main())
