"""Fixtures of the tests that make faults."""

from __future__ import annotations

import sys

import pytest


@pytest.fixture
def drop_what_no_caller_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Drop an error that is raised in a ``__del__`` at once, as Python itself does.

    pytest keeps it until the test ends, and with its traceback the frames of the call that was under way, whose
    connection could then not be collected if a later call is interrupted with it.
    """
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)
