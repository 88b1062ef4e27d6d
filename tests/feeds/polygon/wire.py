"""Frames as the vendor would send them, and what a frame decodes to as contract events."""

from __future__ import annotations

import json
from typing import Any

from ingestor.feeds.polygon.decode import Decoded, OptionDecoder, StockDecoder
from ingestor.feeds.polygon.messages import StatusMessage
from ingestor.model.blocks import Block, Source
from ingestor.model.events import Event, events_of

MS = 1_786_649_956_459
RECV_NS = 1_786_649_956_461_000_123
CONTRACT = "O:SPY260814C00686000"


def frame(*elements: Any) -> bytes:
    return json.dumps(elements, separators=(",", ":")).encode()


def trade(**changes: Any) -> dict[str, Any]:
    """A stock trade; a field set to ``...`` is left out."""
    return _with({"ev": "T", "sym": "SPY", "x": 11, "p": 686.01, "s": 100, "t": MS}, changes)


def quote(**changes: Any) -> dict[str, Any]:
    plain = {"ev": "Q", "sym": "SPY", "bp": 686.0, "ap": 686.02, "bs": 320, "as": 200, "t": MS}
    return _with(plain, changes)


def option_trade(**changes: Any) -> dict[str, Any]:
    return _with({"ev": "T", "sym": CONTRACT, "x": 302, "p": 1.23, "s": 1, "t": MS}, changes)


def option_quote(**changes: Any) -> dict[str, Any]:
    return _with({"ev": "Q", "sym": CONTRACT, "bp": 1.2, "ap": 1.25, "t": MS}, changes)


def _with(plain: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    changes = {key.rstrip("_"): value for key, value in changes.items()}
    return {key: value for key, value in (plain | changes).items() if value is not ...}


def status(name: str, message: str = "") -> StatusMessage:
    return StatusMessage(name, message)


def events(decoder: StockDecoder | OptionDecoder, decoded: Decoded) -> list[Event]:
    table = decoder.instruments.table
    return list(events_of(Block(0, decoded.records, table, Source.POLYGON_WS)))


def stock_events(*elements: Any) -> list[Any]:
    decoder = StockDecoder()
    return events(decoder, decoder.decode(frame(*elements), RECV_NS))


def option_events(*elements: Any) -> list[Any]:
    decoder = OptionDecoder(("SPY",))
    return events(decoder, decoder.decode(frame(*elements), RECV_NS))
