"""Which encoder serves: the compiled one where it was built, else the reference.

The extension is optional, as installation must succeed without a C compiler.
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import Final, cast

from ingestor.blocks import Encoder
from ingestor.encode.packer import PackedEncoder
from ingestor.encode.reference import JsonEncoder
from ingestor.errors import ConfigurationError

ENCODINGS: Final = ("json", "packed")

_EXTENSION: Final = "ingestor.encode._fast"

logger = logging.getLogger(__name__)


def make_encoder(encoding: str, *, compiled: bool | None = None) -> Encoder:
    """Return the encoder for one of `ENCODINGS`.

    `compiled` asks for (True) or refuses (False) the compiled JSON encoder; None takes it where
    it is, and says so in the log where it is not. Raises `ConfigurationError` for another
    encoding, and when the compiled encoder is asked for but was not built.
    """
    if encoding == "packed":
        return PackedEncoder()
    if encoding != "json":
        raise ConfigurationError(f"encoding is {encoding!r}; allowed are {', '.join(ENCODINGS)}")
    return JsonEncoder() if compiled is False else _compiled_or_reference(required=bool(compiled))


def _compiled_or_reference(*, required: bool) -> Encoder:
    try:
        module = import_module(_EXTENSION)
    except ImportError as error:
        if required:
            raise ConfigurationError(f"the compiled encoder was not built: {error}") from error
        logger.warning(
            "the compiled encoder was not built (%s); the slower reference encoder serves", error
        )
        return JsonEncoder()
    return cast("Encoder", module.FastJsonEncoder())
