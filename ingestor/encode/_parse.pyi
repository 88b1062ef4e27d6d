from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from ingestor.model.blocks import Source
from ingestor.model.records import EventType, Records
from ingestor.model.symbols import SymbolTable

class Parser:
    def __init__(
        self,
        symbol_read: Callable[[bool, bytes], str | None],
        publishers: Mapping[str, int],
    ) -> None: ...
    def parse(
        self, frames: Sequence[tuple[bytes, bytes, bytes]]
    ) -> tuple[
        list[tuple[EventType, Source, Records, SymbolTable, npt.NDArray[np.int64]]], list[int]
    ]: ...
