"""The project's pages as data: fenced blocks with what is said about each, and inline code.

A comment on the line before a block says how it is run: ``<!-- not run: needs Docker -->`` and
``<!-- exit code: 3 -->``. A ``console`` block holds commands (``$ ...``), each with the output that
it shows: ``...`` stands for any text within a line, and alone on a line for any lines. Digits stand
for any number, since times and rates differ from run to run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
PAGES: Final = (
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    ROOT / "ingestor" / "INTERFACES.md",
    *sorted((ROOT / "docs").glob("*.md")),
)

_FENCE: Final = re.compile(
    r"(?:^<!-- (?P<mark>[^\n]*?) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.M | re.S
)
_NUMBER: Final = re.compile(r"\d[\d,.]*(?<!\.)")


@dataclass(frozen=True)
class Step:
    """A command and the lines that it shows."""

    command: str
    shown: tuple[str, ...]


@dataclass(frozen=True)
class Block:
    """A fenced block; `mark` is the comment before it, empty for none."""

    language: str
    text: str
    mark: str

    @property
    def is_run(self) -> bool:
        """Whether the tests run it."""
        return not self.mark.startswith("not run: ")

    @property
    def exit_code(self) -> int:
        """What its commands end with."""
        return int(self.mark.removeprefix("exit code: ")) if "exit code" in self.mark else 0

    def steps(self) -> Iterator[Step]:
        """Yield the commands of a console block."""
        for part in re.split(r"^\$ ", self.text, flags=re.M)[1:]:
            command, *shown = part.splitlines()
            yield Step(command, tuple(shown))


def blocks_of(page: Path) -> list[Block]:
    """Return a page's fenced blocks in order."""
    return [
        Block(found["language"], found["text"], found["mark"] or "")
        for found in _FENCE.finditer(page.read_text())
    ]


def prose_of(page: Path) -> str:
    """Return a page without its blocks."""
    return _FENCE.sub("", page.read_text())


def commands() -> Iterator[tuple[Path, Block, Step]]:
    """Yield every command of every page."""
    for page in PAGES:
        for block in blocks_of(page):
            if block.language == "console":
                for step in block.steps():
                    yield page, block, step


def is_shown(output: str, shown: tuple[str, ...]) -> bool:
    """Whether output is what a page shows; a page that shows nothing allows anything."""
    if not shown:
        return True
    pattern = "".join(
        r"(?:.*\n)*?" if line == "..." else re.escape(_plain(line)).replace(r"\.\.\.", ".*") + "\n"
        for line in shown
    )
    return (
        re.fullmatch(pattern, "".join(f"{_plain(line)}\n" for line in output.splitlines()))
        is not None
    )


def _plain(line: str) -> str:
    return " ".join(_NUMBER.sub("0", line).split())
