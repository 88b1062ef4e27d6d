from __future__ import annotations

from tests.docs.metrics_page import metrics_page
from tests.docs.pages import ROOT


def test_the_page_of_metrics_is_as_the_program_says() -> None:
    assert (ROOT / "docs" / "metrics.md").read_text() == metrics_page()
