"""The configuration for people: every key, its value, and what set it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

from ingestor.config.load import DEFAULT_ORIGIN, Loaded, values
from ingestor.config.schema import SECRETS, URLS, is_among
from ingestor.nats.options import without_secrets

HIDDEN: Final = "(hidden)"


def show(loaded: Loaded, leave_out: Collection[str] = ()) -> str:
    """Return one line per key as ``key = value  # origin``, secrets hidden.

    Keys and tables in `leave_out` are not shown.
    """
    shown = {
        key: _text(key, value)
        for key, value in values(loaded.config).items()
        if not is_among(key, leave_out)
    }
    width = max(len(f"{key} = {text}") for key, text in shown.items())
    return "\n".join(
        f"{f'{key} = {text}':<{width}}  # {loaded.origins.get(key, DEFAULT_ORIGIN)}"
        for key, text in shown.items()
    )


def _text(key: str, value: Any) -> str:
    if value is None:
        return "(unset)"
    if key in SECRETS:
        return HIDDEN
    if key in URLS:
        return f'"{without_secrets(value)}"'
    if isinstance(value, str):
        return f'"{value}"'
    return str(value).lower() if isinstance(value, bool) else str(value)
