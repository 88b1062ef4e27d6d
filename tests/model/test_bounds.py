import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingestor.model.bounds import MAX_TEXT_CHARS, printable, without
from ingestor.model.errors import ExitCode


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


def test_a_secret_is_hidden_wherever_it_stands_and_where_it_was_cut() -> None:
    secret = "abcdefghijkl"
    text = f"{secret}, {secret}"
    assert without(text, secret) == "(hidden), (hidden)"
    for limit in range(1, len(text)):
        assert secret[:4] not in without(printable(text, limit), secret) or limit < 5
    assert without("as it is…", secret) == "as it is…"
    assert without("as it is", "") == "as it is"


@pytest.mark.parametrize(
    "url", ["nats://me:s3cret@host", "s3cret@host:4222", "nats://me:a/s3cret@h"]
)
@pytest.mark.parametrize(
    "module", ["ingestor.main", "ingestor.replay_publisher", "ingestor.cli.tail"]
)
def test_a_mistyped_flag_does_not_show_the_password_behind_it(module: str, url: str) -> None:
    command = [sys.executable, "-m", module, "--natz", url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == ExitCode.CONFIGURATION
    assert "--natz" in done.stderr
    assert "s3cret" not in done.stderr + done.stdout
