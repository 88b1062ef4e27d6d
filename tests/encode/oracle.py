"""A second, naive writer of the contract's JSON: text pasted together from the page, no msgspec."""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from ingestor.model.blocks import Block, Reply, Runs
from ingestor.model.records import EVENT_TYPE_BY_RTYPE, RType
from ingestor.model.symbols import PUBLISHER_EXCHANGE as VENUES


def frames(runs: Runs, reply: Reply, first_sequence: int) -> bytes:
    out = b""
    for sequence, (subject, payload) in enumerate(messages(runs), first_sequence):
        reply_to = reply.prefix.decode() + str(sequence).zfill(12) + reply.suffix.decode()
        out += f"PUB {subject} {reply_to} {str(len(payload)).zfill(8)}\r\n".encode()
        out += payload + b"\r\n"
    return out


def messages(runs: Runs) -> Iterator[tuple[str, bytes]]:
    for block, records in runs.pieces():
        for index in range(len(records)):
            one = records[index : index + 1]
            kind = EVENT_TYPE_BY_RTYPE[int(one["rtype"][0])]
            yield kind.subject, event(one.view(kind.dtype)[0], block).encode()


def event(r: Any, block: Block) -> str:
    rtype = RType(int(r["rtype"]))
    symbol = block.symbols.get(int(r["instrument_id"]), str(int(r["instrument_id"])))
    live_seq = null_if(r["sequence"], 2**64 - 1)
    fields = {
        "ts_event_ns": number(r["ts_event_ns"]),
        "ts_recv_ns": number(r["ts_recv_ns"]),
        "source": text(block.source.value),
    }
    if rtype == RType.STOCK_TRADE:
        fields |= {
            "symbol": text(symbol),
            "price": decimal(r["price_e9"]),
            "size": number(r["size"]),
            "exchange": null_if(r["exchange"], -1),
            "conditions": conditions(r),
            "seq": live_seq,
            "aggressor": aggressor(r),
        }
    elif rtype == RType.STOCK_QUOTE:
        fields |= {
            "symbol": text(symbol),
            "bid_px": price(r["bid_px_e9"]),
            "ask_px": price(r["ask_px_e9"]),
            "bid_sz": number(r["bid_sz"]),
            "ask_sz": number(r["ask_sz"]),
            "bid_exch": null_if(r["bid_exch"], -1),
            "ask_exch": null_if(r["ask_exch"], -1),
            "seq": live_seq,
        }
    elif rtype == RType.OPTION_TRADE:
        root, tail = symbol[2:-15], symbol[-15:]
        fields |= {
            "underlying": text(root),
            "option_symbol": text(symbol),
            "exp_date": text(f"20{tail[:2]}-{tail[2:4]}-{tail[4:6]}"),
            "strike": decimal(int(tail[7:]) * 10**6),
            "right": text(tail[6]),
            "price": decimal(r["price_e9"]),
            "size": number(r["size"]),
            "opt_bid": price(r["opt_bid_e9"]),
            "opt_ask": price(r["opt_ask_e9"]),
            "aggressor": aggressor(r),
            "conditions": conditions(r),
            "seq": live_seq,
        }
    elif rtype == RType.FUTURES_TRADE:
        fields |= {
            "symbol": text(symbol),
            "price": decimal(r["price_e9"]),
            "size": number(r["size"]),
            "aggressor": {"B": "1", "A": "-1"}.get(chr(r["side"]), "0"),
            "exchange": text(VENUES[r["publisher_id"]]) if r["publisher_id"] in VENUES else "null",
            "conditions": "null",
            "seq": number(r["sequence"]),
        }
    else:
        fields |= {
            "symbol": text(symbol),
            "levels": "[" + ",".join(level(entry) for entry in r["levels"]) + "]",
            "is_snapshot": "true" if int(r["flags"]) & 32 else "false",
            "seq": number(r["sequence"]),
            "action": letter(r["action"], "ACMTRF"),
            "side": letter(r["side"], "ABN"),
            "action_price": price(r["price_e9"]),
            "action_size": number(r["size"]),
        }
    return joined(fields)


def joined(fields: dict[str, str]) -> str:
    return "{" + ",".join(f'"{key}":{value}' for key, value in fields.items()) + "}"


def level(entry: Any) -> str:
    sides = {}
    for side in ("bid", "ask"):
        empty = entry[f"{side}_px_e9"] == 2**63 - 1
        sides[f"{side}_px"] = price(entry[f"{side}_px_e9"])
        sides[f"{side}_sz"] = "0" if empty else number(entry[f"{side}_sz"])
    return joined(sides)


def number(value: Any) -> str:
    return str(int(value))


def text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)


def null_if(value: Any, undefined: int) -> str:
    return "null" if int(value) == undefined else number(value)


def letter(value: Any, allowed: str) -> str:
    return text(chr(value)) if chr(value) in allowed else "null"


def price(price_e9: Any) -> str:
    return "null" if int(price_e9) == 2**63 - 1 else decimal(price_e9)


def decimal(price_e9: Any) -> str:
    whole, places = format(Decimal(int(price_e9)).scaleb(-9), ".9f").split(".")
    return f"{whole}.{places.rstrip('0') or '0'}"


def aggressor(r: Any) -> str:
    return number(r["aggressor"]) if r["aggressor"] in (1, -1) else "0"


def conditions(r: Any) -> str:
    return "[" + ",".join(map(number, r["conditions"][: min(r["n_conditions"], 8)])) + "]"
