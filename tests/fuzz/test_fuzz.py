from __future__ import annotations

import os
from typing import Final

import pytest

from tests.fuzz.campaign import Campaign, Report
from tests.fuzz.targets import TARGETS

SEED: Final = 20251216
SHORT_INPUTS: Final = 1_000
COSTLY_INPUTS: Final = {
    **dict.fromkeys(("dbn_header", "dbn_trades", "dbn_depth", "symbology", "journal"), 300),
    "configuration": 300,
}
"""Of parsers that take more than half a millisecond an input."""

SLOW_INPUTS: Final = int(os.environ.get("INGESTOR_FUZZ_INPUTS", "1000000"))
SLOW_SEED: Final = int(os.environ.get("INGESTOR_FUZZ_SEED", "1"))


def told(report: Report) -> str:
    return "\n".join(map(str, report.findings))


@pytest.fixture(scope="module")
def short() -> dict[str, Report]:
    """Parsers share processes, as starting one takes longer than the inputs of most do."""
    by_inputs: dict[int, list[str]] = {}
    for name in TARGETS:
        by_inputs.setdefault(COSTLY_INPUTS.get(name, SHORT_INPUTS), []).append(name)
    return {
        report.target: report
        for inputs, names in by_inputs.items()
        for report in Campaign(names, range(inputs), SEED).run()
    }


@pytest.mark.parametrize("name", TARGETS)
def test_a_parser_raises_only_what_is_ours_and_never_hangs(
    name: str, short: dict[str, Report]
) -> None:
    assert not short[name].findings, told(short[name])
    assert short[name].inputs == COSTLY_INPUTS.get(name, SHORT_INPUTS)


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.parametrize("name", TARGETS)
def test_nor_does_it_on_a_million_inputs(name: str) -> None:
    (report,) = Campaign([name], range(SLOW_INPUTS), SLOW_SEED).run()
    print(report)
    assert not report.findings, told(report)
    assert report.inputs == SLOW_INPUTS
