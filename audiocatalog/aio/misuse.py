"""Checks that asynchronous code is given async functions."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable
from typing import TypeVar

from audiocatalog.errors import InvalidInput, Problem, kind_of
from audiocatalog.models.arguments import is_async

_Result = TypeVar("_Result")


async def result_of(result: Awaitable[_Result], field: str = "unit", operation: str = "run") -> _Result:
    """
    Return the *result* of an async function of the caller.

    Raises:
        InvalidInput: the function is not asynchronous.
    """
    if not inspect.isawaitable(result):
        rule = f"an async function, not one that returns {kind_of(result)}; audiocatalog.Catalog takes plain functions"
        raise InvalidInput(Problem(field, rule), operation=operation)
    return await result


def refuse_plain(function: object, field: str, operation: str) -> None:
    """
    Check that a *function* of the caller is asynchronous: declared with ``async def``, or a decorator around that.

    Raises:
        InvalidInput: the function is a plain one, such as a lambda.
    """
    if not callable(function) or not (is_async(function) or is_async(inspect.unwrap(function))):
        rule = "an async function, declared with async def; audiocatalog.Catalog takes plain functions"
        raise InvalidInput(Problem(field, rule), operation=operation)
