from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from ingestor.sim.polygon.simulator_process import SimulatorProcess

Start = Callable[..., SimulatorProcess]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts simulators as processes of their own; they end with the test."""
    running: list[SimulatorProcess] = []

    def start_one(*arguments: str) -> SimulatorProcess:
        running.append(SimulatorProcess(*arguments))
        return running[-1]

    yield start_one
    for simulator in running:
        simulator.stop()
