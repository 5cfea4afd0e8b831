"""The exception that ends a ``for`` loop, found by the iterator that the loop closes."""

from __future__ import annotations

import dis
import gc
from types import FrameType, TracebackType
from typing import Final

_RAISING: Final = {dis.opmap["RERAISE"], dis.opmap["RAISE_VARARGS"]}


def leaving(frame: FrameType) -> tuple[bool, BaseException | None]:
    """
    Return two values: whether an exception is leaving *frame* while its loop closes the iterator, and that exception,
    or None if the exception is not found.

    Python does not pass the exception to the iterator. A new exception has a traceback at the frame's instruction. An
    exception that was caught and raised again has an older traceback, and the frame is at an instruction that raises.
    Python 3.11 links a new exception to its traceback only when the exception is caught; until then, no object refers
    to this traceback. If several exceptions fit, the function returns none. The search works on CPython only.
    """
    tracebacks = [one for one in gc.get_referrers(frame) if type(one) is TracebackType]
    new = [one for one in tracebacks if one.tb_lasti == frame.f_lasti]
    if not new and frame.f_code.co_code[frame.f_lasti] not in _RAISING:
        return False, None
    # isinstance reads each object's __class__, which raises an error for a dead proxy.
    errors: list[BaseException] = [one for one in gc.get_objects() if issubclass(type(one), BaseException)]
    found = [error for error in errors if error.__traceback__ in (new or tracebacks)]
    if not found:
        found = [error for error in errors if error.__traceback__ is None and gc.get_referrers(error) == [errors]]
    return True, found[0] if len(found) == 1 else None
