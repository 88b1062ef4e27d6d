from hypothesis import given
from hypothesis import strategies as st

from ingestor.bounds import MAX_TEXT_CHARS, printable


def test_plain_text_is_shown_as_it_is() -> None:
    assert printable("subscribed to: T.SPY, prix 6,50 €") == "subscribed to: T.SPY, prix 6,50 €"


def test_line_breaks_and_escape_sequences_are_shown_not_obeyed() -> None:
    assert printable("a\r\nERROR forged\x1b[2J\u202e") == r"a\r\nERROR forged\x1b[2J\u202e"


def test_bytes_that_are_no_utf8_are_shown_with_replacements() -> None:
    assert printable(b"\xffok") == "\N{REPLACEMENT CHARACTER}ok"


def test_long_text_is_cut_and_ends_with_an_ellipsis() -> None:
    assert printable("x" * 1_000_000) == "x" * (MAX_TEXT_CHARS - 1) + "…"


@given(st.text() | st.binary(), st.integers(1, 50))
def test_whatever_comes_is_one_printable_line_within_the_limit(
    text: str | bytes, limit: int
) -> None:
    shown = printable(text, limit)
    assert len(shown) <= limit
    assert len(shown.splitlines()) <= 1
    assert "\x1b" not in shown
    shown.encode()
