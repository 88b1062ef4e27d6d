"""What the pages name is there: files, headings, settings, flags, variables, programs."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import re
import shlex
from functools import cache
from pathlib import Path
from typing import Final

import pytest

from ingestor.cli import COMMANDS, live, replay
from ingestor.cli.command_line import LIVE_ENVIRONMENT, REPLAY_ENVIRONMENT
from ingestor.config.load import SECRET_FILES, defaults, file_layer, load, values
from ingestor.doctor import RIGHT
from tests.docs.pages import PAGES, ROOT, commands, prose_of

_CODE: Final = re.compile(r"`([^`\n]+)`")
_TABLES: Final = frozenset(key.partition(".")[0] for key in defaults())
_FOLDERS: Final = ("bin", "configs", "docs", "ingestor", "tests")
PROGRAMS: Final = {
    path.name: tuple(found[1].split())
    for path in (ROOT / "bin").glob("ingestor*")
    if (found := re.search(r" (ingestor(?: \w+)?) \"\$@\"", path.read_text()))
}
"""Module and subcommand of each program in ``bin/``; run so, since a program may install first."""

BEHIND: Final = {
    "ingestor.main": "ingestor.cli.live",
    "ingestor.replay_publisher": "ingestor.cli.replay",
    "ingestor.test_stream": "ingestor.cli.stream_check",
}
"""What the modules that people know by name run."""

_ALL_PAGES = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
CONFIGURATION: Final = ROOT / "docs" / "configuration.md"


def code_in(page: Path) -> list[str]:
    """What stands between backticks."""
    return _CODE.findall(prose_of(page))


def anchors(page: Path) -> set[str]:
    """The headings of a page as GitHub links them."""
    headings = re.findall(r"^#+ (.+)$", prose_of(page), re.M)
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings}


@cache
def help_of(*program: str) -> str:
    """What a program says of itself; asked here, since starting 20 of them takes 12 s of CPU."""
    module, *words = program
    if module == "ingestor":
        module = COMMANDS[words.pop(0)][0] if words else "ingestor.cli"
    module = BEHIND.get(module, module)
    said = io.StringIO()
    with contextlib.redirect_stdout(said), pytest.raises(SystemExit) as ended:
        importlib.import_module(module).main([*words, "--help"])
    assert ended.value.code in (0, None)
    return said.getvalue()


def program_of(command: str) -> tuple[str, ...]:
    """The program of ours that a command line starts, with its subcommand; empty for others."""
    words = [word for word in shlex.split(command) if not re.match(r"[A-Z_]+=", word)]
    if "-m" in words:
        module = words[words.index("-m") + 1]
        return (module,) if module.startswith("ingestor") else ()
    if words[0].removeprefix("bin/") not in PROGRAMS:
        return ()
    program = PROGRAMS[words[0].removeprefix("bin/")]
    named = COMMANDS if program == ("ingestor",) else ("live", "consume")
    return (*program, *(word for word in words[1:2] if word in named))


@_ALL_PAGES
def test_a_link_leads_to_a_file_and_a_heading_that_are_there(page: Path) -> None:
    for link in re.findall(r"\]\(([^)]+)\)", prose_of(page)):
        if link.startswith(("http://", "https://")):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.is_file(), link
        assert not anchor or anchor in anchors(target), link


@_ALL_PAGES
def test_a_path_in_the_project_is_there(page: Path) -> None:
    for code in code_in(page):
        if code.split("/")[0] in _FOLDERS and re.fullmatch(r"[\w./-]+", code) and "/" in code:
            assert (ROOT / code).exists(), code


@_ALL_PAGES
def test_a_setting_is_one_that_there_is(page: Path) -> None:
    for code in code_in(page):
        if found := re.match(r"(\w+)\.(\w+)( = .*)?$", code):
            table, key = found[1], f"{found[1]}.{found[2]}"
            assert table not in _TABLES or key in defaults() or f"{table}.py" == code, code
        if found := re.fullmatch(r"\[+(\w+)(\.\w+)?\]+", code):
            assert found[1] in _TABLES, code


def test_every_program_in_bin_is_known() -> None:
    assert len(PROGRAMS) == len(list((ROOT / "bin").glob("ingestor*")))


@_ALL_PAGES
def test_a_flag_is_one_that_a_program_has(page: Path) -> None:
    known = set(re.findall(r"--[a-z]+", (ROOT / "bin" / "test").read_text()))
    subcommands = (("ingestor", name) for name in COMMANDS)
    for program in (*PROGRAMS.values(), *subcommands, ("ingestor.encode.schemas",)):
        known |= set(re.findall(r"--[\w-]+", help_of(*program)))
    for code in code_in(page):
        for flag in re.findall(r"(?<![\w-])--[a-z][\w-]*", code):
            assert flag in known, f"{flag} in {code}"


@_ALL_PAGES
def test_a_command_has_only_flags_that_its_program_has(page: Path) -> None:
    for command in (step.command for at, _, step in commands() if at == page):
        program = program_of(command)
        for flag in re.findall(r"(?<= )--[a-z][\w-]*", command) if program else ():
            assert flag in help_of(*program), command


@_ALL_PAGES
def test_a_module_that_is_run_is_there(page: Path) -> None:
    for module in re.findall(r"-m (ingestor[\w.]*|tests[\w.]*)", page.read_text()):
        assert importlib.util.find_spec(module.rstrip(".")) is not None, module


@_ALL_PAGES
def test_a_variable_of_the_environment_is_one_that_is_read(page: Path) -> None:
    scripts = "".join(path.read_text() for path in (ROOT / "bin").iterdir())
    for code in code_in(page):
        if re.fullmatch(r"(NATS|REPLAY|DBN|POLYGON|INGESTOR)_(?!STATUS|RUNS|LEASES)[A-Z_]+", code):
            known = {*LIVE_ENVIRONMENT, *REPLAY_ENVIRONMENT, *SECRET_FILES, *RIGHT}
            assert code in known or code in scripts, code


def test_the_page_of_settings_names_every_one_with_its_default(tmp_path: Path) -> None:
    shown = dict(
        re.findall(r"^\| `([\w.]+)` \| (?:`(.+?)`|unset) \| .", CONFIGURATION.read_text(), re.M)
    )
    assert set(shown) == set(defaults())
    for key, text in shown.items():
        if not text:
            assert defaults()[key] is None, key
        else:
            (tmp_path / "one.toml").write_text(f"{key} = {text}\n")
            written = load([file_layer(tmp_path / "one.toml")])
            assert values(written.config)[key] == defaults()[key], key


def test_the_page_of_settings_tells_which_flag_and_which_variable_sets_which() -> None:
    rows = re.findall(r"^\| (.+?) \|(?:.*\|)? ?([^|]*?) ?\|$", CONFIGURATION.read_text(), re.M)
    told = {
        name: key
        for names, keys in rows
        for name, key in zip(_CODE.findall(names), _CODE.findall(keys), strict=False)
    }
    for variable, key in {**LIVE_ENVIRONMENT, **REPLAY_ENVIRONMENT, **SECRET_FILES}.items():
        assert told[variable] == key
    for parser in (live.parser(), replay.parser()):
        for action in parser._actions:
            for flag in action.option_strings:
                if "." in action.dest:
                    assert told[flag] == action.dest
