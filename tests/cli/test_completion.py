"""What a shell offers, asked of a real one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ingestor.cli import COMMANDS
from ingestor.cli.completion import SHORT_FORMS, parser_of_subcommand

_ASK = """\
source "$1"
read -ra COMP_WORDS <<< "$2"
[[ $2 == *" " ]] && COMP_WORDS+=("")
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
_shtab_${COMP_WORDS[0]//-/_} "${COMP_WORDS[0]}" "${COMP_WORDS[COMP_CWORD]}"
printf '%s\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("completion") / "ingestor.bash"
    command = [sys.executable, "-P", "-m", "ingestor", "completion", "bash"]
    path.write_bytes(subprocess.run(command, capture_output=True, check=True).stdout)
    return path


def offered(script: Path, line: str, cwd: Path | None = None) -> list[str]:
    ended = subprocess.run(
        ["bash", "-c", _ASK, "bash", str(script), line],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=True,
    )
    return ended.stdout.split()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("ingestor rep", ["replay"]),
        ("ingestor replay --sp", ["--speed"]),
        ("ingestor replay --encoding ", ["json", "packed"]),
        ("ingestor replay --summary j", ["json"]),
        ("ingestor doctor rep", ["replay"]),
        ("ingestor-live --rec", ["--record"]),
        ("ingestor-tail --give", ["--give-up"]),
    ],
)
def test_a_shell_offers_what_may_follow(script: Path, line: str, words: list[str]) -> None:
    assert offered(script, line) == words


def test_subcommands_are_offered_all(script: Path) -> None:
    assert set(COMMANDS) <= set(offered(script, "ingestor "))


def test_files_and_folders_are_offered_where_they_are_meant(script: Path, tmp_path: Path) -> None:
    (tmp_path / "live.toml").write_text("")
    (tmp_path / "logs").mkdir()
    assert set(offered(script, "ingestor live --config l", tmp_path)) == {"live.toml", "logs"}
    assert offered(script, "ingestor live --record l", tmp_path) == ["logs"]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_subcommand_has_a_parser_that_is_completed(name: str) -> None:
    assert parser_of_subcommand(name).format_usage()


def test_the_short_forms_are_those_in_bin() -> None:
    programs = (Path(__file__).resolve().parents[2] / "bin").glob("ingestor-*")
    assert {path.name.removeprefix("ingestor-") for path in programs} == set(SHORT_FORMS)


def test_zsh_is_served_too() -> None:
    command = [sys.executable, "-P", "-m", "ingestor", "completion", "zsh"]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert told.startswith("#compdef ingestor")
