from __future__ import annotations

import os

import msgspec
import pytest

from ingestor.config.schema import Process
from ingestor.errors import ConfigurationError
from ingestor.runtime.cpus import check_cpus


def test_cpus_that_are_there_may_be_named() -> None:
    check_cpus(Process())
    check_cpus(Process(stocks_cpus=tuple(os.sched_getaffinity(0))))


@pytest.mark.parametrize("name", ["stocks_cpus", "supervisor_cpus", "trades_cpus"])
def test_a_cpu_that_is_not_there_is_refused_by_the_name_of_its_setting(name: str) -> None:
    here = min(os.sched_getaffinity(0))
    process = msgspec.convert({name: [here, 4095]}, Process)
    with pytest.raises(
        ConfigurationError, match=rf"process\.{name} = \[{here}, 4095\] .*; allowed: {here}"
    ):
        check_cpus(process)
