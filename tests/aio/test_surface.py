"""The asynchronous side has the names, the arguments and the texts of the synchronous side."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any, Final

import pytest

import audiocatalog
from audiocatalog import Catalog, UnitOfWork, Worker, aio
from audiocatalog.aio.worker import AsyncWorker

SIDES: Final[dict[type, type]] = {Catalog: aio.AsyncCatalog, UnitOfWork: aio.AsyncUnitOfWork}
#: Arguments that only the asynchronous side has, for a loop works on several claims in one thread.
OWN_ARGUMENTS: Final = {("Catalog", "worker"): ["concurrency"]}
#: Names that wait for nothing on either side.
PLAIN: Final = {
    *(("Catalog", name) for name in ("from_env", "unit_of_work", "worker", "pool_stats", "iter_tracks")),
    *(("UnitOfWork", name) for name in ("session", "iter_tracks")),
}
SPECIAL: Final = {
    "__enter__": "__aenter__",
    "__exit__": "__aexit__",
    "__iter__": "__aiter__",
    "__next__": "__anext__",
    "__repr__": "__repr__",
    "__reduce__": "__reduce__",
}


def public(side: type) -> list[str]:
    """Return the public names of *side*, and those special ones that it defines itself."""
    own = {name for one in side.__mro__ if one.__module__.startswith("audiocatalog") for name in vars(one)}
    return sorted(name for name in own if not name.startswith("_") or name in {*SPECIAL, *SPECIAL.values()})


def twin_of(name: str) -> str:
    return SPECIAL.get(name, name)


NAMES: Final = [pytest.param(side, name, id=f"{side.__name__}.{name}") for side in SIDES for name in public(side)]


def member(side: type, name: str) -> Any:
    """Return the function behind *name*: also that of a property or of a class method."""
    found = inspect.getattr_static(side, name)
    if isinstance(found, property):
        return found.fget
    return getattr(found, "__func__", found)


def arguments(function: Callable[..., object]) -> list[tuple[str, Any, Any]]:
    return [(one.name, one.kind, one.default) for one in inspect.signature(function).parameters.values()]


def words(text: str | None) -> list[str]:
    """Return the words of *text* without those by which the sides must differ."""
    plain = re.sub(r"\b(?:await|async) |Async(?=[A-Z])", "", inspect.cleandoc(text or ""))
    plain = re.sub(r"\b([Aa])n (?=Catalog|``with)", r"\1 ", plain)
    return re.sub(r"\btasks?\b|\bthreads?\b|\bevent loop\b|\bprocess\b", "THREAD", plain).split()


@pytest.mark.parametrize(("side", "twin"), SIDES.items())
def test_each_side_has_every_name_of_the_other(side: type, twin: type) -> None:
    assert sorted(map(twin_of, public(side))) == public(twin)
    assert len(public(side)) > 20


@pytest.mark.parametrize(("side", "name"), NAMES)
def test_a_name_takes_the_same_arguments(side: type, name: str) -> None:
    here, there = arguments(member(side, name)), arguments(member(SIDES[side], twin_of(name)))
    own = OWN_ARGUMENTS.get((side.__name__, name), [])
    assert [one for one in there if one[0] not in own] == here
    assert set(own) <= {one for one, _, _ in there}


@pytest.mark.parametrize(("side", "twin"), SIDES.items())
def test_it_is_made_of_the_same_settings(side: type, twin: type) -> None:
    assert arguments(twin.__init__) == arguments(side.__init__)  # type: ignore[misc]


@pytest.mark.parametrize(("side", "name"), NAMES)
def test_a_name_has_the_same_text(side: type, name: str) -> None:
    here, there = member(side, name).__doc__, member(SIDES[side], twin_of(name)).__doc__
    if OWN_ARGUMENTS.get((side.__name__, name)):
        there = re.sub(r" *- \*concurrency\*.*\n", "", there or "")
    assert words(there) == words(here)
    assert here or name.startswith("_"), "a public name without a text"


def test_a_worker_has_the_same_names_and_arguments() -> None:
    """Its texts differ, because several tasks work beside each other."""
    assert sorted(map(twin_of, public(Worker))) == public(AsyncWorker)
    for name in public(Worker):
        assert arguments(member(Worker, name)) == arguments(member(AsyncWorker, twin_of(name))), name


@pytest.mark.parametrize(("side", "twin"), SIDES.items())
def test_the_classes_have_the_same_text(side: type, twin: type) -> None:
    assert words(twin.__doc__) == words(side.__doc__)


@pytest.mark.parametrize("twin", SIDES.values())
def test_the_examples_await_what_waits(twin: type) -> None:
    examples = [
        line.split("lambda")[0]
        for text in (twin.__doc__, *(member(twin, name).__doc__ for name in public(twin)))
        for line in (text or "").splitlines()
        if line.lstrip().startswith((">>>", "..."))
    ]
    called = [
        (prefix, name, before)
        for line in examples
        for before, prefix, name in re.findall(r"(\w* ?|\()\b(catalog|work)\.(\w+)\((?!\)\.run)", line)
    ]
    owners = {"catalog": aio.AsyncCatalog, "work": aio.AsyncUnitOfWork}
    for prefix, name, before in called:
        waits = inspect.iscoroutinefunction(member(owners[prefix], name))
        assert (before.strip() == "await") is waits, f"{before}{prefix}.{name}"
    assert not [
        line for line in examples if re.search(r"(?<!async )with catalog|(?<!await )catalog\.worker\(\)\.run", line)
    ]
    assert len(called) > 5


@pytest.mark.parametrize(("side", "name"), NAMES)
def test_what_waits_is_awaited(side: type, name: str) -> None:
    function = member(SIDES[side], twin_of(name))
    waits = inspect.iscoroutinefunction(function)
    if (side.__name__, name) in PLAIN or name in {"__repr__", "__reduce__", "__iter__"}:
        assert not waits
    else:
        assert waits or inspect.isasyncgenfunction(function)
        assert not inspect.isgeneratorfunction(member(side, name)) or inspect.isasyncgenfunction(function)


def test_what_is_iterated_over_is_an_asynchronous_iterator() -> None:
    tracks = aio.AsyncCatalog("postgresql:///none").iter_tracks()
    assert inspect.isasyncgen(tracks)


def test_the_package_exports_both_classes_and_nothing_else() -> None:
    assert sorted(aio.__all__) == aio.__all__ == sorted(f"Async{side.__name__}" for side in (Catalog, UnitOfWork))
    assert {name for name in vars(aio) if not name.startswith("_")} >= set(aio.__all__)
    assert set(aio.__all__).isdisjoint(audiocatalog.__all__)


def test_a_returned_value_is_the_same_on_both_sides() -> None:
    """The annotations of results differ by what is awaited or iterated over, and in nothing else."""
    for side, twin in SIDES.items():
        for name in public(side):
            here, there = (
                re.sub(r"Async", "", str(inspect.signature(member(one, title)).return_annotation))
                for one, title in ((side, name), (twin, twin_of(name)))
            )
            assert here == there, f"{side.__name__}.{name}"
