"""Whatever dies: nothing missing untold, nothing twice; replays as if nothing had been."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import pytest

from tests.faults.live import LiveCampaign, Settings
from tests.faults.replay import ReplayCampaign

SEED: Final = 20251216
SHORT_S: Final = 5.0
LONG_S: Final = float(os.environ.get("INGESTOR_FAULTS_S", "3600"))
LONG_SEED: Final = int(os.environ.get("INGESTOR_FAULTS_SEED", "1"))
LONG_RATE: Final = 2_500


def live(folder: Path, *, seed: int, seconds: float, rate: int, journal: bool = True) -> None:
    settings = Settings(seed=seed, rate=rate, journal=journal)
    campaign = LiveCampaign(folder, settings, seconds=seconds)
    try:
        campaign.run()
    finally:
        print(*campaign.lines(), sep="\n")
    assert not campaign.tally.findings
    assert campaign.tally.faults
    for name, verdict in campaign.verdicts.items():
        assert verdict.stored > seconds, name
        assert not verdict.broken, name


def replays(folder: Path, *, seed: int, seconds: float, rows: int) -> None:
    campaign = ReplayCampaign(folder, seed=seed, seconds=seconds, rows=rows)
    try:
        campaign.run()
    finally:
        print(*campaign.lines(), sep="\n")
    assert not campaign.tally.findings
    assert campaign.jobs
    assert campaign.tally.faults


def test_a_live_run_under_faults_loses_nothing_untold_and_stores_nothing_twice(
    tmp_path: Path,
) -> None:
    live(tmp_path, seed=SEED, seconds=SHORT_S, rate=1_000)


@pytest.mark.slow
def test_replays_under_faults_leave_the_streams_of_undisturbed_ones(tmp_path: Path) -> None:
    replays(tmp_path, seed=SEED, seconds=SHORT_S, rows=3_000)


@pytest.mark.faults
@pytest.mark.timeout(0)
@pytest.mark.parametrize("journal", [True, False], ids=["journal", "no journal"])
def test_nor_does_a_live_run_under_faults_for_hours(tmp_path: Path, journal: bool) -> None:
    live(tmp_path, seed=LONG_SEED, seconds=LONG_S, rate=LONG_RATE, journal=journal)


@pytest.mark.faults
@pytest.mark.timeout(0)
def test_so_do_replays_under_faults_for_hours(tmp_path: Path) -> None:
    replays(tmp_path, seed=LONG_SEED, seconds=LONG_S, rows=12_000)
