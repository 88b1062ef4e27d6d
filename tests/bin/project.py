"""A small project around the real `bin/` scripts, with a stand-in for uv that counts its calls."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

REPOSITORY: Final = Path(__file__).resolve().parents[2]
UNUSABLE: Final = 69
_TIMEOUT_S: Final = 60

# What the scripts use besides bash; PATH holds nothing else, so no other Python is found by chance.
_TOOLS: Final = (
    *("bash", "cat", "env", "flock", "ls", "mv", "readlink", "rm"),
    *("sed", "sha256sum", "sort", "stat", "tail"),
)

_MODULE: Final = """\
import os, sys
assert sys.argv.pop(1) == "nats"
print(sys.prefix, *sys.argv[1:], sep="|")
sys.exit(int(os.environ.get("EXIT_CODE", "0")))
"""

# Makes real environments without pip, "installs" the project by its path, and logs every call.
_UV: Final = """\
#!{tools}/bash
[[ $1 != --version ]] || exit 0
(IFS=$'\\t' && echo "$*" >>'{log}')
if [[ $1 == venv ]]; then
    exec '{python}' -I -m venv --without-pip "${{@: -1}}"
elif [[ ${{UV_FAILS:-}} == kill ]]; then
    kill -KILL 0
elif [[ ${{UV_FAILS:-}} ]]; then
    echo 'uv: no such package' >&2
    exit 1
fi
project=${{@: -1}} bin=${{5%/*}}
echo "${{project%\\[*}}" >"$(echo "${{bin%/*}}"/lib/python*/site-packages)/project.pth"
"""


class Project:
    """The scripts of `bin/` in a folder of their own; each run has a PATH made for it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.venv = root / ".venv"
        self.tools = root.parent / "tools"
        self._log = root.parent / "uv.log"
        shutil.copytree(REPOSITORY / "bin", root / "bin")
        for name in ("pyproject.toml", "setup.cfg", "constraints.txt"):
            (root / name).write_text(name)
        package = root / "ingestor"
        (package / "runtime").mkdir(parents=True)
        (package / "__main__.py").write_text(_MODULE)
        self.tools.mkdir()
        for tool in _TOOLS:
            found = shutil.which(tool)
            assert found is not None, tool
            (self.tools / tool).symlink_to(found)
        self.command("uv", _UV.format(tools=self.tools, python=sys.executable, log=self._log))
        (self.tools / "python3").symlink_to(Path(sys.executable).resolve())

    def command(self, name: str, text: str) -> Path:
        """Put a command on PATH."""
        path = self.tools / name
        path.unlink(missing_ok=True)
        path.write_text(text)
        path.chmod(0o755)
        return path

    def start(
        self,
        *arguments: str,
        program: Path | None = None,
        cwd: Path | None = None,
        user: int | None = None,
        **env: str,
    ) -> subprocess.Popen[str]:
        """Start `bin/ingestor-nats` (or another program) in a bare environment."""
        return subprocess.Popen(
            [program or self.root / "bin" / "ingestor-nats", *arguments],
            cwd=cwd or self.root.parent,
            env={"PATH": str(self.tools), "HOME": str(self.root.parent), **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            user=user,
        )

    def run(
        self,
        *arguments: str,
        program: Path | None = None,
        cwd: Path | None = None,
        user: int | None = None,
        **env: str,
    ) -> subprocess.CompletedProcess[str]:
        """Run it to its end."""
        process = self.start(*arguments, program=program, cwd=cwd, user=user, **env)
        out, err = process.communicate(timeout=_TIMEOUT_S)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def installer_calls(self) -> list[str]:
        """What uv was asked for since the last time, by its first word."""
        return [call[0] for call in self._calls()]

    def installed(self) -> list[str]:
        """What uv was asked to install since the last time: the project, with its extras."""
        return [call[-1].removeprefix(f"{self.root}") for call in self._calls() if "pip" in call]

    def _calls(self) -> list[list[str]]:
        calls = self._log.read_text().splitlines() if self._log.exists() else []
        self._log.unlink(missing_ok=True)
        return [call.split("\t") for call in calls]
