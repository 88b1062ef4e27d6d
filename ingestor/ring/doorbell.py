"""A doorbell between processes: an eventfd that wakes an event loop or a sleeper; no polling."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select

from ingestor.model.errors import ConfigurationError


class Doorbell:
    """Created before the processes fork; any may ring, one event loop or sleeper listens."""

    def __init__(self) -> None:
        """Raises ConfigurationError where the kernel gives none."""
        try:
            self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        except OSError as error:
            raise ConfigurationError(
                f"the kernel gives no eventfd, by which feeds wake the publisher: {error.strerror}"
            ) from error
        self._rung: asyncio.Event | None = None
        self._poll = select.poll()
        self._poll.register(self._fd, select.POLLIN)

    def ring(self) -> None:
        """Wake the listener; ringing again before it looks costs nothing more."""
        os.eventfd_write(self._fd, 1)

    def listen(self, loop: asyncio.AbstractEventLoop) -> None:
        """Deliver rings to `wait` on this loop."""
        self._rung = asyncio.Event()
        loop.add_reader(self._fd, self._answer)

    async def wait(self, timeout_s: float | None = None) -> None:
        """Return when it has rung since the last wait, or after `timeout_s`."""
        if self._rung is None:
            raise RuntimeError("wait() needs listen() first")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._rung.wait()
        # Cleared after the wait, before the rings are looked at: a ring in between is kept.
        self._rung.clear()

    def sleep(self, timeout_s: float) -> None:
        """Block until it has rung since the last sleep, or for `timeout_s`."""
        if self._poll.poll(timeout_s * 1000):
            os.eventfd_read(self._fd)

    def close(self) -> None:
        """Release the descriptor."""
        os.close(self._fd)

    def _answer(self) -> None:
        # One read takes all rings since the last: eventfd is a counter.
        os.eventfd_read(self._fd)
        if self._rung is not None:
            self._rung.set()
