# Made from audiocatalog/methods/calls.py by `make twins`: change that module.
"""The base of the methods: one call that carries out one operation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from time import perf_counter
from typing import TypeVar

from audiocatalog.methods.call_defaults import CallDefaults
from audiocatalog.operations.operation import Operation

_Result = TypeVar("_Result")


class AsyncCalls(CallDefaults, ABC):
    """The base of methods whose caller waits for the result."""

    async def _run(self, name: str, begin: Callable[[], Operation[_Result]], *, searching: bool = False) -> _Result:
        """
        Carry out the operation that *begin* returns, as the public call *name*, and report the end of the call to the
        observer.

        If *searching*, the call counts as a search, for ``max_searches``.
        """
        # A context manager would cost more than the rest of this method.
        began = perf_counter()
        try:
            result = await self._perform(name, begin(), searching=searching)
        except BaseException as error:
            self._observer.call_ended(name, began, error)
            raise
        self._observer.call_ended(name, began, None)
        return result

    @abstractmethod
    async def _perform(self, name: str, operation: Operation[_Result], *, searching: bool = False) -> _Result:
        """Carry out *operation* on a connection."""
