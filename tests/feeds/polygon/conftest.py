from __future__ import annotations

from tests.sim.polygon.conftest import start

__all__ = ["start"]
