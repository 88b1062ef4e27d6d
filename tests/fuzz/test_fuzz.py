from __future__ import annotations

import os
from typing import Final

import pytest

from tests.fuzz.campaign import Campaign, Report
from tests.fuzz.targets import TARGETS

SEED: Final = 20251216
SHORT_INPUTS: Final = 2_000
SLOW_INPUTS: Final = int(os.environ.get("INGESTOR_FUZZ_INPUTS", "1000000"))
SLOW_SEED: Final = int(os.environ.get("INGESTOR_FUZZ_SEED", "1"))


def told(reports: list[Report]) -> str:
    return "\n".join(str(finding) for report in reports for finding in report.findings)


def test_no_parser_raises_what_is_not_ours_or_hangs_on_thousands_of_hostile_inputs() -> None:
    reports = Campaign(list(TARGETS), range(SHORT_INPUTS), SEED).run()
    assert not told(reports), told(reports)
    assert {report.inputs for report in reports} == {SHORT_INPUTS}


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.parametrize("name", TARGETS)
def test_no_parser_does_on_a_million(name: str) -> None:
    (report,) = Campaign([name], range(SLOW_INPUTS), SLOW_SEED).run()
    print(report)
    assert not report.findings, told([report])
    assert report.inputs == SLOW_INPUTS
