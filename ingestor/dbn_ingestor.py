"""`DBNIngestor`: reads Databento DBN files as blocks of records or as event objects.

>>> from ingestor import DBNIngestor
>>> trades = DBNIngestor(data_dir=Path("dbn-data")).read_trades()  # doctest: +SKIP
"""

from __future__ import annotations

from ingestor.feeds.databento.ingestor import DBNIngestor

__all__ = ["DBNIngestor"]
