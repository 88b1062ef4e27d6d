"""A terminal as an emulator keeps it: lines that wrap at its width, and again when that changes.

It knows what our programs send without a full screen: text, carriage return, newline, and the
clearing of a line and of all that follows. Anything else fails the test that sends it.
"""

from __future__ import annotations

import codecs
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

_PARTS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\r\n]|[^\x1b\r\n]+")
_UNFINISHED = re.compile(r"(\x1b(\[[0-9;?]*)?)?\Z")


class Screen:
    """Logical lines, each shown as as many rows as it needs; the cursor stands in the last ones.

    One that does not `reflow` keeps its rows when its width changes, and cuts them (xterm).
    """

    def __init__(self, columns: int, *, reflows: bool = True) -> None:
        self.columns = columns
        self._reflows = reflows
        self._lines: list[str] = [""]
        self._line = self._at = 0
        self._unfinished = ""

    @property
    def rows(self) -> list[str]:
        """What is seen, row by row."""
        rows = []
        for line in self._lines:
            pieces = [line[at : at + self.columns] for at in range(0, len(line), self.columns)]
            rows += pieces or [""]
        return rows

    def resize(self, columns: int) -> None:
        """Change the width; a terminal that reflows takes the cursor along with its character."""
        self.columns = columns
        if not self._reflows:
            self._lines = [line[:columns] for line in self._lines]
            self._at = min(self._at, columns - 1)

    def write(self, text: str) -> None:
        """Show what a program sends; a piece may end within a sequence."""
        text = self._unfinished + text
        self._unfinished = _UNFINISHED.search(text)[0]  # type: ignore[index]
        text = text.removesuffix(self._unfinished)
        assert "".join(_PARTS.findall(text)) == text, text
        for part in _PARTS.findall(text):
            if part == "\r":
                # To the beginning of the row, which is not that of a line that wraps.
                self._at -= self._at % self.columns
            elif part == "\n":
                self._newline()
            elif part == "\x1b[J":
                del self._lines[self._line + 1 :]
                self._lines[self._line] = self._lines[self._line][: self._at]
            else:
                assert not part.startswith("\x1b"), part
                self._put(part)

    def _newline(self) -> None:
        assert self._line == len(self._lines) - 1
        self._lines.append("")
        self._line += 1
        self._at = 0

    def _put(self, text: str) -> None:
        line = self._lines[self._line].ljust(self._at)
        self._lines[self._line] = line[: self._at] + text + line[self._at + len(text) :]
        self._at += len(text)


class OnTerminal:
    """A program whose standard error is a terminal of some width, and what is seen there."""

    def __init__(
        self,
        command: Sequence[str],
        columns: int,
        *,
        cwd: Path,
        env: Mapping[str, str],
        reflows: bool = True,
    ) -> None:
        self._master, slave = pty.openpty()
        self.screen = Screen(columns, reflows=reflows)
        self._set_columns(columns)
        self.process = subprocess.Popen(
            command,
            cwd=cwd,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=slave,
            text=True,
        )
        os.close(slave)
        self._decoder = codecs.getincrementaldecoder("utf-8")()

    def resize(self, columns: int) -> None:
        """Make the window narrower or wider, as its user does."""
        self.screen.resize(columns)
        self._set_columns(columns)

    def _set_columns(self, columns: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    def until(self, seen: Callable[[list[str]], bool], patience_s: float = 30.0) -> list[str]:
        """Read until rows are as wanted; return them."""
        deadline = time.monotonic() + patience_s
        while not seen(self.screen.rows):
            assert time.monotonic() < deadline, self.screen.rows
            assert self.read(0.1), self.screen.rows
        return self.screen.rows

    def read(self, timeout_s: float) -> bool:
        """Read what is there; False once the program has ended and all is read."""
        if not select.select([self._master], [], [], timeout_s)[0]:
            return True
        try:
            data = os.read(self._master, 65_536)
        except OSError:  # EIO: nobody has the other end any more
            return False
        self.screen.write(self._decoder.decode(data))
        return True

    def end(self) -> int:
        """Stop the program as Ctrl-C does; return its exit code."""
        self.process.send_signal(signal.SIGINT)
        deadline = time.monotonic() + 30
        while self.read(0.1):
            assert time.monotonic() < deadline, self.screen.rows
        self.process.communicate(timeout=30)
        os.close(self._master)
        return self.process.returncode
