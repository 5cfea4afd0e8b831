"""The worker for asyncio."""

from __future__ import annotations


class AsyncWorker:
    """A worker."""

    def __init__(self, *arguments: object, **settings: object) -> None:
        raise NotImplementedError
