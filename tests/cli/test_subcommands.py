"""The command ``ingestor`` and its subcommands."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from ingestor import __version__
from ingestor.cli import COMMANDS, main

ROOT = Path(__file__).resolve().parents[2]


def run(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
def test_every_subcommand_has_its_line_in_the_help(words: list[str]) -> None:
    told = run("ingestor", *words)
    assert (told.returncode, told.stderr) == (0, "")
    lines = [line.split(maxsplit=1) for line in told.stdout.splitlines()]
    for name, (_, about) in COMMANDS.items():
        assert [name, about] in lines


@pytest.mark.parametrize("name", COMMANDS)
def test_a_subcommand_is_a_module_with_a_main_that_says_how_it_is_used(name: str) -> None:
    assert callable(import_module(COMMANDS[name][0]).main)
    told = run("ingestor", name, "--help")
    assert (told.returncode, told.stderr) == (0, "")
    assert told.stdout.startswith("usage: ")


@pytest.mark.parametrize(
    ("word", "hint"),
    [("replya", "did you mean replay?"), ("xyz", "there are live, replay, tail,")],
)
def test_an_unknown_subcommand_is_named_with_what_may_be_meant(word: str, hint: str) -> None:
    told = run("ingestor", word, "--speed", "0")
    assert (told.returncode, told.stdout) == (2, "")
    assert f"ingestor: there is no subcommand '{word}'; {hint}" in told.stderr


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("replay", "--speeed", "0"), "unrecognized arguments: --speeed; did you mean --speed?"),
        (("live", "--recrod=x"), "did you mean --record?"),
        (("replay", "--summary", "jsn"), "did you mean json?"),
        (("replay", "--encoding", "pakced"), "did you mean packed?"),
        (("replay", "--natss", "nats://me:pa55word@host"), "did you mean --nats?"),
    ],
)
def test_a_mistyped_flag_or_choice_is_told_with_what_may_be_meant(
    words: tuple[str, ...], hint: str
) -> None:
    told = run("ingestor", *words)
    assert told.returncode == 2
    assert hint in told.stderr
    assert "pa55word" not in told.stderr


def test_a_flag_that_belongs_to_a_subcommand_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--demo"])
    assert ended.value.code == 2
    assert "ingestor: unrecognized arguments: --demo (see --help)" in capsys.readouterr().err


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert (ended.value.code, capsys.readouterr().out) == (0, f"ingestor {__version__}\n")


def test_the_exit_code_is_that_of_the_subcommand() -> None:
    told = run("ingestor", "replay", "--data-dir", "/nowhere", "--nats", "nats://127.0.0.1:1")
    assert told.returncode == 3
    assert told.stderr.startswith("ingestor-replay: the data folder /nowhere does not exist")


@pytest.mark.parametrize("module", ["main", "replay_publisher", "cli.tail", "cli.nats"])
def test_the_modules_that_users_run_are_the_same_programs(module: str) -> None:
    name = {"main": "live", "replay_publisher": "replay"}.get(module, module[4:])
    assert run(f"ingestor.{module}", "--help").stdout == run("ingestor", name, "--help").stdout


def test_an_installation_puts_the_command_on_the_path() -> None:
    command = Path(sys.executable).with_name("ingestor")
    told = subprocess.run([command, "--version"], capture_output=True, text=True, check=True)
    assert told.stdout == f"ingestor {__version__}\n"


@pytest.mark.parametrize("name", ["", "live", "replay", "tail", "nats", "sim", "bench"])
def test_a_checkout_has_the_command_and_its_short_forms(name: str) -> None:
    script = ROOT / "bin" / "-".join(filter(None, ["ingestor", name]))
    last = script.read_text().splitlines()[-1]
    assert last.endswith(" ".join(filter(None, ["ingestor", name, '"$@"'])))
    assert script.stat().st_mode & 0o111
