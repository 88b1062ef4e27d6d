"""Types the commands that findings show, as their reader would."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Final

from ingestor.doctor import RIGHT, CheckResult, Mark

ROOT: Final = Path(__file__).resolve().parents[2]


def typed(finding: CheckResult, cwd: Path = ROOT, *, then: str = "", given: str = "") -> str:
    """Type what mends a finding, and `then` something in the same shell; return what that says."""
    assert finding.mend, finding
    command = f"{finding.mend}\n{then}"
    ended = subprocess.run(
        ["bash", "-c", command],
        cwd=cwd,
        env={**os.environ, "INGESTOR_VENV": os.environ.get("VIRTUAL_ENV", "")},
        input=given,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def assert_right(finding: CheckResult, code: str) -> None:
    assert (finding.code, finding.mark, finding.exit_code) == (code, Mark.OK, 0), finding


def assert_wrong(finding: CheckResult, code: str, exit_code: int = 0) -> None:
    mark = Mark.FAILURE if exit_code else Mark.WARNING
    assert (finding.code, finding.mark, finding.exit_code) == (code, mark, exit_code), finding
    assert finding.right == RIGHT[code]
    assert "\n" not in finding.found
    assert not finding.found.endswith(".")
