"""What grows over a campaign is found, and what a run leaves behind."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from tests.faults.resources import SAMPLES, Resources, Sample
from tests.faults.runs import Command


def command(folder: Path) -> Command:
    return Command("ingestor.main", [], folder, {})


def grown(**to: int) -> list[Sample]:
    """Samples of an hour, the last ones of it grown to these figures."""
    figures = {"memory": 100_000, "shared": 10_000, "descriptors": 20}
    early = [Sample(60.0 * minute, **figures) for minute in range(60 - SAMPLES)]
    late = [Sample(60.0 * (60 - SAMPLES + more), **(figures | to)) for more in range(SAMPLES)]
    return early + late


@pytest.mark.parametrize(
    ("to", "found"),
    [
        ({"memory": 105_000, "shared": 10_100, "descriptors": 22}, []),
        ({"memory": 105_001}, ["memory has grown by more than 5 %"]),
        ({"shared": 10_101}, ["shared memory has grown"]),
        ({"descriptors": 23}, ["descriptors have grown"]),
    ],
)
def test_what_has_grown_since_the_fifth_minute_is_found(
    tmp_path: Path, to: dict[str, int], found: list[str]
) -> None:
    resources = Resources(grown(**to))
    assert list(resources.findings(command(tmp_path))) == found


def test_what_grew_before_the_fifth_minute_is_not(tmp_path: Path) -> None:
    samples = [Sample(0.0, 1, 1, 1), *grown()[5:]]
    assert not list(Resources(samples).findings(command(tmp_path)))


def test_processes_and_files_that_are_left_behind_are_found(tmp_path: Path) -> None:
    run = command(tmp_path)
    (run.temporary / "left").touch()
    resources = Resources()
    resources._processes.add(psutil.Process())
    assert list(resources.findings(run)) == [
        f"processes left behind: [{os.getpid()}]",
        "left in the folder for temporary files: ['left']",
    ]
