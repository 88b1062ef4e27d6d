"""The metadata header of a DBN file, versions 1 to 3.

Four bytes ``DBN`` and version, four bytes length, then as many bytes of metadata; `databento_dbn`
reads what is in them (https://databento.com/docs/standards-and-conventions/databento-binary-encoding).
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from databento_dbn import DBNError, Metadata

from ingestor.errors import BadDataError
from ingestor.feeds.databento.buffer import ReadBuffer
from ingestor.feeds.databento.files import DbnSchema

MAGIC: Final = b"DBN"
PRELUDE_BYTES: Final = 8
MAX_HEADER_BYTES: Final = 256 * 1024 * 1024
"""Room for the mappings of over a million instruments; a header that claims more is broken."""


def read_header(buffer: ReadBuffer, path: Path, schema: DbnSchema) -> Metadata:
    """Consume the header at the front of a file.

    A header without a schema, as live captures have it, is taken at its file name's word.
    Raises `BadDataError` when the file is no DBN file or holds another schema.
    """
    prelude = buffer.take(PRELUDE_BYTES)
    if not prelude.startswith(MAGIC):
        raise BadDataError(_not_dbn(path, prelude))
    length = int.from_bytes(prelude[len(MAGIC) + 1 :], "little")
    if length > MAX_HEADER_BYTES:
        raise BadDataError(
            f"{path} claims a DBN header of {length} bytes; more than {MAX_HEADER_BYTES} is broken"
        )
    body = buffer.take(length)
    if len(prelude) < PRELUDE_BYTES or len(body) < length:
        raise BadDataError(
            f"{path} ends inside its DBN header: it has {len(prelude + body)} bytes of it"
        )
    return _checked(_decoded(prelude + body, path), path, schema)


def _not_dbn(path: Path, prelude: bytes) -> str:
    if not prelude:
        return f"{path} is empty: it holds no DBN header"
    return f"{path} is not a DBN file: it opens with {prelude!r} where {MAGIC!r} should stand"


def _decoded(header: bytes, path: Path) -> Metadata:
    try:
        return Metadata.decode(header)
    except DBNError as error:
        raise BadDataError(f"{path} has a DBN header that cannot be read: {error}") from error


def _checked(metadata: Metadata, path: Path, schema: DbnSchema) -> Metadata:
    found = metadata.schema
    if found is not None and str(found) != schema:
        raise BadDataError(f"{path} holds schema {found}, not {schema} as its name says")
    return metadata
