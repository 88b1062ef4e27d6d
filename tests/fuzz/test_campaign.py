from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.campaign import MAX_CRASHES, Campaign, Report
from tests.fuzz.targets import TARGETS
from tests.fuzz.worker import Inputs


@pytest.fixture(autouse=True)
def findings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("INGESTOR_FUZZ_DIR", str(tmp_path))
    return tmp_path


def run(*targets: str, inputs: int, stuck_s: float = 20.0) -> list[Report]:
    return Campaign(targets, range(inputs), 1, stuck_s=stuck_s).run()


@pytest.mark.parametrize("name", TARGETS)
def test_an_input_depends_on_seed_and_number_alone(name: str, tmp_path: Path) -> None:
    first, second = (Inputs(name, tmp_path, 1) for _ in range(2))
    assert [first[at] for at in range(40)] == [second[at] for at in reversed(range(40))][::-1]
    assert len({first[at] for at in range(40)}) > 30
    assert first[0] != Inputs(name, tmp_path, 2)[0]


def test_a_crash_costs_one_input_and_is_told_with_the_way_to_see_it_again(findings: Path) -> None:
    crashed, after = run("crashing", "statuses", inputs=12)
    assert crashed.inputs == after.inputs == 12
    assert crashed.kinds["input ends its process (-9)"] in range(2, MAX_CRASHES)
    (finding,) = crashed.findings
    assert f"python -m tests.fuzz crashing --seed 1 --index {finding.index}" in str(finding)
    (saved,) = findings.iterdir()
    assert bytes.fromhex(saved.read_text()) == Inputs("crashing", findings, 1)[finding.index]


def test_an_input_that_takes_a_second_is_found_and_the_next_is_run() -> None:
    (report,) = run("hanging", inputs=2)
    assert (report.inputs, list(report.kinds.values())) == (2, [2])
    assert report.findings[0].kind.startswith("HangError")


def test_a_worker_that_stands_still_in_native_code_is_killed() -> None:
    (report,) = run("stuck", inputs=1, stuck_s=1.0)
    assert (report.inputs, report.kinds) == (1, {"input stands still": 1})


def test_a_process_that_grows_is_found() -> None:
    (report,) = run("growing", inputs=20)
    assert "grew by" in report.findings[0].kind
    assert report.growth_bytes > 100 * 2**20
