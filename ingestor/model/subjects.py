"""NATS subjects with wildcards: ``*`` stands for one token, ``>`` for one or more at the end."""

from __future__ import annotations

import re
from typing import Final

_FUNCTION: Final = re.compile(r"\{\{\s*(\w+)\s*\(([^)]*)\)\s*\}\}|\$(\d+)")


def covers(wide: str, narrow: str) -> bool:
    """Whether every subject that `narrow` matches, `wide` does."""
    wides, narrows = wide.split("."), narrow.split(".")
    for at, word in enumerate(wides):
        if word == ">":
            return at < len(narrows)
        if at >= len(narrows) or narrows[at] == ">" or word not in ("*", narrows[at]):
            return False
    return len(wides) == len(narrows)


def overlap(one: str, other: str) -> bool:
    """Whether some subject matches both."""
    ones, others = one.split("."), other.split(".")
    for mine, theirs in zip(ones, others, strict=False):
        if ">" in (mine, theirs):
            return True
        if mine != theirs and "*" not in (mine, theirs):
            return False
    return len(ones) == len(others)


def mapped_subject(subject: str, transform: tuple[str, str] | None) -> str | None:
    """Return the subject under which a stream stores what is published to `subject`.

    `transform` is its subject transform, as source and destination. None where the destination
    holds another function than ``wildcard``: the server alone computes those.

    >>> mapped_subject("market.stocks.trades", ("market.*.>", "kept.{{wildcard(1)}}.>"))
    'kept.stocks.trades'
    """
    if transform is None:
        return subject
    source, destination, tokens = (text.split(".") for text in (*transform, subject))
    wildcards = _wildcards(source, tokens)
    if wildcards is None:
        return subject
    mapped: list[str] = []
    for part in destination:
        found = _FUNCTION.fullmatch(part)
        if part == ">":
            mapped += tokens[len(source) - 1 :]
        elif found is None:
            mapped.append(part)
        else:
            index = found[3] or found[2]
            known = found[3] or found[1].lower() == "wildcard"
            if not known or not index.strip().isdecimal() or int(index) > len(wildcards):
                return None
            mapped.append(wildcards[int(index) - 1])
    return ".".join(mapped)


def _wildcards(source: list[str], tokens: list[str]) -> list[str] | None:
    """Return what each ``*`` of a source stands for, None where it does not match."""
    if source in ([""], [">"]):
        return []
    open_ended = source[-1] == ">"
    fixed = source[:-1] if open_ended else source
    if len(tokens) < len(fixed) or (len(tokens) > len(fixed)) != open_ended:
        return None
    if any(one not in ("*", token) for one, token in zip(fixed, tokens, strict=False)):
        return None
    return [token for one, token in zip(fixed, tokens, strict=False) if one == "*"]
