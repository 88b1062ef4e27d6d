"""A publisher that does nothing but obey."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ingestor.merge.steering import Steering
from ingestor.runtime.controller import Controller


@contextmanager
def publishing(controller: Controller, steering: Steering) -> Iterator[None]:
    """Obey on an event loop in a thread, as the publisher's process does."""
    loop = asyncio.new_event_loop()
    controller.show(steering)

    def heard() -> None:
        controller.obey(steering)
        controller.show(steering)

    loop.call_soon(controller.listen, loop, heard)
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
