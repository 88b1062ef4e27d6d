"""NATS subjects with wildcards: ``*`` stands for one token, ``>`` for one or more at the end."""

from __future__ import annotations


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
