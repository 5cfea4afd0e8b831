"""How a ``for`` loop is left: by an exception or not, and by which, seen from what the loop goes over."""

from __future__ import annotations

import dis
import gc
from types import FrameType, TracebackType
from typing import Final, NamedTuple

# What raises exceptions in Python code; of one that was caught before, the traceback still points to the first time.
_RAISING: Final = {"RERAISE", "RAISE_VARARGS"}
# Where a generator stands that is closed.
_SUSPENDED: Final = {"YIELD_VALUE", "RESUME", "SEND"}


class Leaving(NamedTuple):
    """Say whether a frame is being left by an exception, and by which one, as far as it can be told."""

    by_exception: bool
    error: BaseException | None


def leaving(frame: FrameType) -> Leaving:
    """
    Return how *frame*, whose ``for`` loop closes its iterator at this moment, comes to do so.

    Python tells an iterator that is closed nothing else: nobody handles the exception yet, so that ``sys.exception``
    does not know it. But an exception in flight has a traceback at the instruction where the frame stands, and the
    garbage collector finds what refers to the frame. The exception belongs to that traceback; before Python 3.12 it is
    not tied to it until somebody catches it, and then it is one that has none, and that nothing refers to. Where
    several would do, none is named, unless one of them is no ``Exception``: it might be an interrupt. What C code has
    raised is not even an object yet in Python 3.11, and is not named there, but for a generator that is closed and what
    may be ``sys.exit``.

    It takes some milliseconds for each 100,000 objects of the program, and works on CPython alone.
    """
    heads = [tb for tb in gc.get_referrers(frame) if isinstance(tb, TracebackType) and tb.tb_frame is frame]
    here = [tb for tb in heads if tb.tb_lasti == frame.f_lasti]
    instruction = _instruction(frame, frame.f_lasti)
    if not here and instruction not in _RAISING:
        return Leaving(by_exception=False, error=None)
    errors = [error for error in gc.get_objects() if isinstance(error, BaseException)]
    found = [error for error in errors if any(error.__traceback__ is tb for tb in here or heads)]
    if here and not found and _raised_by(here[0]) in _RAISING:
        found = _in_flight([error for error in errors if error.__traceback__ is None], errors)
    named = [error for error in found if not isinstance(error, Exception)] or found
    if len(named) == 1:
        return Leaving(by_exception=True, error=named[0])
    if here and instruction in _SUSPENDED:
        return Leaving(by_exception=True, error=GeneratorExit())
    if here and _may_exit(here[0]):
        return Leaving(by_exception=True, error=SystemExit())
    return Leaving(by_exception=True, error=None)


def _in_flight(errors: list[BaseException], known: list[BaseException]) -> list[BaseException]:
    """Return those of *errors* that no object refers to, but for these two lists."""
    holders = [holder for holder in gc.get_referrers(*errors) if holder is not errors and holder is not known]
    held = {id(one) for one in gc.get_referents(*holders)}
    return [error for error in errors if id(error) not in held]


def _may_exit(traceback: TracebackType) -> bool:
    """Tell whether *traceback* begins in a line that says ``exit``: then it may be that of ``sys.exit``."""
    first = _first(traceback)
    return any(
        instruction.argval == "exit"
        for instruction in dis.get_instructions(first.tb_frame.f_code)
        if instruction.positions is not None and instruction.positions.lineno == first.tb_lineno
    )


def _raised_by(traceback: TracebackType) -> str:
    """Return the instruction where *traceback* begins."""
    first = _first(traceback)
    return _instruction(first.tb_frame, first.tb_lasti)


def _first(traceback: TracebackType) -> TracebackType:
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    return traceback


def _instruction(frame: FrameType, place: int) -> str:
    return dis.opname[frame.f_code.co_code[place]]
