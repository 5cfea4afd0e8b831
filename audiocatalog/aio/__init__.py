"""
The catalogue for asyncio: every call of ``audiocatalog.Catalog``, with await.

>>> async with AsyncCatalog("postgresql://localhost/music") as catalog:  # doctest: +SKIP
...     page = await catalog.search("sigur ros")

"""

from audiocatalog.aio.catalog import AsyncCatalog
from audiocatalog.aio.unit_of_work import AsyncUnitOfWork

__all__ = ["AsyncCatalog", "AsyncUnitOfWork"]
