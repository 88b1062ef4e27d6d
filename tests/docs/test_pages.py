"""Output compared with a page: what stands for anything, and what does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.pages import Step, blocks_of, is_shown

OUTPUT = "making a day\npublished     1,234 events in 0.5 s\nstream  MARKET_DATA\n"


@pytest.mark.parametrize(
    "shown",
    [
        (),
        ("...",),
        ("making a day", "published 9 events in 12.75 s", "stream MARKET_DATA"),
        ("...", "published 9 events...", "..."),
        ("making...", "...", "stream...DATA"),
    ],
)
def test_output_is_as_shown_with_other_numbers_and_what_is_left_out(shown: tuple[str, ...]) -> None:
    assert is_shown(OUTPUT, shown)


@pytest.mark.parametrize(
    "shown",
    [
        ("making a day",),
        ("making a day", "published 9 trades in 12.75 s", "..."),
        ("published 9 events in 12.75 s", "..."),
        ("stream MARKET_DATA", "...", "making a day"),
        ("making a day", "...", "stream MARKET_DATA", "more"),
    ],
)
def test_output_with_other_words_lines_or_order_is_not_as_shown(shown: tuple[str, ...]) -> None:
    assert not is_shown(OUTPUT, shown)


def test_a_block_has_its_mark_its_commands_and_what_each_shows(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "<!-- exit code: 3 -->\n```console\n$ one --flag\nsays this\nand that\n$ two\n```\n\n"
        "<!-- not run: needs Docker -->\n```console\n$ three\n```\n```python\nfour\n```\n"
    )
    first, second, third = blocks_of(page)
    assert list(first.steps()) == [Step("one --flag", ("says this", "and that")), Step("two", ())]
    assert (first.exit_code, first.is_run, second.is_run) == (3, True, False)
    assert (third.language, third.text, third.mark) == ("python", "four\n", "")
