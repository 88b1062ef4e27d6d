"""Headless Chromium, driven over the DevTools protocol: what a page shows, and how it looks."""

from __future__ import annotations

import base64
import contextlib
import http.client
import itertools
import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from websockets.sync.client import ClientConnection, connect

CHROMIUM: Final = shutil.which("chromium")
PATIENCE_S: Final = 30.0

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on this machine")

_FLAGS: Final = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--remote-debugging-port=0",
)


class Tab:
    """One page; requests and errors of it are kept."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._numbers = itertools.count(1)
        self.requested: list[str] = []
        self.faults: list[str] = []
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> Any:
        """Ask for something, and take what the page tells meanwhile."""
        number = next(self._numbers)
        self._connection.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            message = json.loads(self._connection.recv(timeout=PATIENCE_S))
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]
            self._note(message)

    def _note(self, message: dict[str, Any]) -> None:
        match message.get("method"):
            case "Network.requestWillBeSent":
                self.requested.append(message["params"]["request"]["url"])
            case "Runtime.exceptionThrown":
                self.faults.append(str(message["params"]["exceptionDetails"]))
            case "Log.entryAdded" if message["params"]["entry"]["level"] == "error":
                self.faults.append(str(message["params"]["entry"]))
            case _:
                pass

    def open(self, url: str, *, width: int = 1280, dark: bool = False) -> None:
        """Load a page at a width in CSS pixels, light or dark; forget what pages before it did."""
        # A page whose run has ended looks for it for ever, and its faults would count as ours.
        self.call("Page.navigate", url="about:blank")
        self.requested.clear()
        self.faults.clear()
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=900,
            deviceScaleFactor=1,
            mobile=width < 500,
        )
        self.call("Emulation.setScrollbarsHidden", hidden=True)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        # Without a graphics card each frame of a moving bar is CPU that the run goes without.
        still = {"name": "prefers-reduced-motion", "value": "reduce"}
        self.call("Emulation.setEmulatedMedia", features=[scheme, still])
        self.call("Page.navigate", url=url)

    def value(self, expression: str) -> Any:
        """What a JavaScript expression is."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def until(self, expression: str, timeout_s: float = PATIENCE_S) -> Any:
        """Wait until an expression is true; return what it is."""
        deadline = time.monotonic() + timeout_s
        while not (found := self.value(expression)):
            assert time.monotonic() < deadline, f"{expression}\n{self.text()}"
            time.sleep(0.05)
        return found

    def text(self, selector: str = "body") -> str:
        """What people read in an element."""
        return str(self.value(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''"))

    def press(self, key: str) -> None:
        """Press a key, as on a keyboard."""
        for kind in ("rawKeyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key)

    def picture(self, path: Path) -> None:
        """Write the whole page as PNG."""
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))


@contextlib.contextmanager
def browser(folder: Path) -> Iterator[Tab]:
    """Run a browser whose profile is in `folder`; yield its tab."""
    assert CHROMIUM is not None
    command = [CHROMIUM, *_FLAGS, f"--user-data-dir={folder}", "about:blank"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        port = next(
            found[1]
            for line in process.stderr
            if (found := re.search(r"ws://127\.0\.0\.1:(\d+)/", line))
        )
        with connect(_tab_url(int(port)), max_size=None) as connection:
            yield Tab(connection)
    finally:
        process.terminate()
        process.wait(PATIENCE_S)
        process.stderr.close()


def _tab_url(port: int) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    with contextlib.closing(connection):
        connection.request("GET", "/json")
        tabs = json.loads(connection.getresponse().read())
    return next(str(tab["webSocketDebuggerUrl"]) for tab in tabs if tab["type"] == "page")
