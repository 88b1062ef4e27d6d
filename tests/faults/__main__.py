"""``python -m tests.faults live|replay``: run a campaign, and tell what it found."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from pathlib import Path
from types import FrameType

from tests.faults.live import LiveCampaign
from tests.faults.replay import ReplayCampaign
from tests.faults.runs import BrokenError


def _stop(number: int, _: FrameType | None) -> None:
    raise BrokenError(f"stopped by {signal.Signals(number).name}")


def main() -> int:
    """Return 1 when anything was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults")
    parser.add_argument("campaign", choices=("live", "replay"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--rate", type=int, default=2_500, help="events a second of each market")
    parser.add_argument("--no-journal", action="store_true")
    chosen = parser.parse_args()
    # What a campaign has started does not die with it, but with its last word.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    with tempfile.TemporaryDirectory(prefix="ingestor-faults-") as name:
        folder, seed, seconds = Path(name), chosen.seed, chosen.seconds
        campaign: LiveCampaign | ReplayCampaign
        if chosen.campaign == "live":
            journal = not chosen.no_journal
            campaign = LiveCampaign(
                folder, seed=seed, seconds=seconds, rate=chosen.rate, journal=journal
            )
        else:
            campaign = ReplayCampaign(folder, seed=seed, seconds=seconds)
        try:
            campaign.run()
        except BrokenError as error:
            campaign.tally.findings.append(str(error))
        print(*campaign.lines(), sep="\n", flush=True)
    broken = sum(one.broken for one in getattr(campaign, "verdicts", {}).values())
    return int(bool(broken or campaign.tally.findings))


sys.exit(main())
