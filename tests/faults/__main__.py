"""``python -m tests.faults CAMPAIGN``: run it, and tell what it found.

  live --seconds S        faults of all kinds and several at once, in a live run
  live --kills N          N kills and stops over all processes of a live run
  replay --seconds S      faults of all kinds in replays, each started again until it is complete
  replay --kills N        N kills over all processes of replays
  nats --away S           the server away once for so long, under load
  nats --kills N          the server killed N times
  nats --full N           the server's disk full N times (needs root)
  cluster --kills N       of three servers the leader killed N times
  standby --takeovers N   N takeovers, a fifth of them from leaders that are stopped and woken up;
                          with --second-key nothing may be missing
  hour --seconds S        a fault about every ten seconds: what grows, what is left behind

Ctrl-C ends a campaign with what it has, a second one at once. The exit code is 1 when anything was
found. A rate is asked of each of two markets; of the options only what is subscribed is sent.
"""

from __future__ import annotations

import argparse
import math
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import Final

from tests.faults.live import DEATHS, HASTE_S, ClusterCampaign, LiveCampaign, Settings, hourly
from tests.faults.plan import FULL, KILL, NATS, Fault, Round, rounds
from tests.faults.replay import ROWS, ReplayCampaign
from tests.faults.runs import BrokenError
from tests.faults.standby import StandbyCampaign
from tests.nats_servers import ServerFailedError

KILLS_ROWS: Final = 6_000
"""Of a file: a job is complete within seconds."""

Campaign = LiveCampaign | ReplayCampaign | StandbyCampaign


def main() -> int:
    """Return 1 when anything was found."""
    chosen = _parser().parse_args()
    folder = Path(tempfile.mkdtemp(prefix="ingestor-faults-"))
    campaign = _campaign(chosen, folder)
    _stop_by_signals(campaign)
    try:
        campaign.run()
    except (BrokenError, ServerFailedError) as error:
        campaign.tally.findings.append(str(error))
    print(*campaign.lines(), sep="\n")
    broken = sum(one.broken for one in getattr(campaign, "verdicts", {}).values())
    if not broken and not campaign.tally.findings:
        shutil.rmtree(folder)
        print("verdict: nothing found", flush=True)
        return 0
    print(f"verdict: FOUND something; logs, journal and store are kept in {folder}", flush=True)
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = ("live", "replay", "nats", "cluster", "standby", "hour")
    parser.add_argument("campaign", choices=names)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--kills", type=int)
    parser.add_argument("--away", type=float, metavar="S")
    parser.add_argument("--full", type=int, metavar="N")
    parser.add_argument("--takeovers", type=int, default=100)
    parser.add_argument("--second-key", action="store_true")
    parser.add_argument("--rate", type=int, default=2_500, help="events a second of each market")
    parser.add_argument("--no-journal", action="store_true")
    return parser


def _campaign(chosen: argparse.Namespace, folder: Path) -> Campaign:
    seed, kills = chosen.seed, chosen.kills
    if chosen.campaign == "replay":
        seconds = chosen.seconds or (math.inf if kills else 60.0)
        rows = KILLS_ROWS if kills else ROWS
        return ReplayCampaign(folder, seed=seed, seconds=seconds, deaths=kills, rows=rows)
    settings = Settings(seed=seed, rate=chosen.rate, journal=not chosen.no_journal)
    if chosen.campaign == "cluster":
        return ClusterCampaign(folder, settings, kills or 50)
    if chosen.campaign == "standby":
        return StandbyCampaign(folder, settings, chosen.takeovers, second_key=chosen.second_key)
    return _live_campaign(chosen, folder, settings)


def _live_campaign(chosen: argparse.Namespace, folder: Path, settings: Settings) -> Campaign:
    seed, kills = chosen.seed, chosen.kills
    if chosen.campaign == "nats":
        return LiveCampaign(folder, settings, _server_plan(chosen), own_disk=bool(chosen.full))
    if chosen.campaign == "hour":
        return LiveCampaign(folder, settings, hourly(seed), seconds=chosen.seconds or 3_600.0)
    if kills:
        return LiveCampaign(folder, settings, rounds(seed, DEATHS, HASTE_S), deaths=kills)
    return LiveCampaign(folder, settings, seconds=chosen.seconds or 60.0)


def _server_plan(chosen: argparse.Namespace) -> Iterator[Round]:
    if chosen.away:
        return iter([Round(3.0, (Fault(NATS, KILL, for_s=chosen.away),))])
    if chosen.full:
        return islice(rounds(chosen.seed, {NATS: (FULL,)}), chosen.full)
    return islice(rounds(chosen.seed, {NATS: (KILL,)}, HASTE_S), chosen.kills or 50)


def _stop_by_signals(campaign: Campaign) -> None:
    def stop(number: int, _: FrameType | None) -> None:
        if campaign.tally.stopped:
            raise BrokenError(f"stopped twice by {signal.Signals(number).name}")
        campaign.tally.stopped = signal.Signals(number).name

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)


if __name__ == "__main__":
    sys.exit(main())
