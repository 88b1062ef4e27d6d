"""What a simulator is started with; `arguments` reads it from the command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ingestor.sim.polygon.server_session import Market, Rules
from ingestor.units import NS_PER_S

PLAN: Final = frozenset(f"{market}-{topic}" for market in Market for topic in ("T", "Q", "A", "AM"))
API_KEY: Final = "simulator"

EVICT_OLDER: Final = "evict-older"
REFUSE_NEWER: Final = "refuse-newer"


@dataclass(frozen=True, slots=True)
class PricePath:
    """A move of the price from the opening on: by so many cents, over so long."""

    by_cents: int
    over_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Every field is explained by ``--help``; ``rate`` and the others in a group are per market."""

    host: str = "127.0.0.1"
    port: int = 0
    control_port: int = 0
    tls_cert: Path | None = None
    tls_key: Path | None = None

    api_key: str = API_KEY
    plan: frozenset[str] = PLAN
    delayed_tier: frozenset[Market] = frozenset()
    auth_timeout_s: float = 10.0
    quota: int = 1
    over_quota: str = EVICT_OLDER
    quota_delay_s: float = 1.0
    buffer_bytes: int = 16 * 1024 * 1024

    rate: int = 1_000
    options_rate: int = 100
    count: int = 0
    quote_share: float = 0.8
    frame_ms: int = 5

    seed: int = 1
    price_cents: int = 68_600
    volatility: float = 4.5
    path: PricePath = PricePath(0, NS_PER_S)
    script: Path | None = None

    def rate_of(self, market: Market) -> int:
        """Events a second of a market."""
        return self.rate if market is Market.STOCKS else self.options_rate

    def rules(self, market: Market) -> Rules:
        """What the account may do on a market."""
        prefix = f"{market}-"
        topics = frozenset(p.removeprefix(prefix) for p in self.plan if p.startswith(prefix))
        return Rules(self.api_key, topics, market in self.delayed_tier)
