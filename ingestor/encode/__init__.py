"""Ordered runs of records to finished frames, and messages back to records.

Which encoder serves: the compiled one where it was built, else the reference. The extension is
optional, as installation must succeed without a C compiler.
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import Any, Final, cast

from ingestor.encode.packed import PackedEncoder
from ingestor.encode.reference import JsonEncoder
from ingestor.model.blocks import Encoder
from ingestor.model.errors import ConfigurationError

ENCODINGS: Final = ("json", "packed")

_EXTENSION: Final = "ingestor.encode._fast"

logger = logging.getLogger(__name__)


def make_encoder(encoding: str, *, compiled: bool | None = None) -> Encoder:
    """Return the encoder for one of `ENCODINGS`.

    `compiled` asks for (True) or refuses (False) the compiled encoder; None uses it if it was
    built and logs a line if it was not. Raises `ConfigurationError` for another encoding, and
    when the compiled encoder is asked for but was not built.
    """
    if encoding not in ENCODINGS:
        raise ConfigurationError(f"encoding is {encoding!r}; allowed are {', '.join(ENCODINGS)}")
    packs = encoding == "packed"
    module = None if compiled is False else _extension(required=bool(compiled))
    if module is None:
        return PackedEncoder() if packs else JsonEncoder()
    return cast("Encoder", module.FastPackedEncoder() if packs else module.FastJsonEncoder())


def _extension(*, required: bool) -> Any:
    """Return the compiled module; None where it is missing, which the log then says."""
    try:
        return import_module(_EXTENSION)
    except ImportError as error:
        if required:
            raise ConfigurationError(f"the compiled encoder was not built: {error}") from error
        logger.warning(
            "the compiled encoder was not built (%s); the slower reference encoder serves", error
        )
        return None
