"""
The parts of other libraries that are private or documented nowhere, and that this package uses all the same.

An upgrade of a library may rename or drop such a part without a word. Then a test here fails, names the part, and says
what it is for. Each library has one file that uses its parts.
"""

from __future__ import annotations

import ast
import dis
import importlib
import inspect
import pkgutil
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Final, NamedTuple

import psycopg
import psycopg.generators
import psycopg.waiting
import pytest
from alembic.runtime.migration import MigrationContext
from sqlalchemy.orm import ClassManager, InstanceState, Session

import audiocatalog
from audiocatalog.aio.connection import AsyncPooledConnection
from audiocatalog.db.connection import PooledConnection
from audiocatalog.models.tables import Track

PACKAGE: Final = Path(audiocatalog.__file__).parent
#: Documented by Python, in spite of their names.
DOCUMENTED: Final = {"_asdict", "_exit", "_fields", "_make", "_replace"}
#: Inner parts whose names do not begin with an underscore: what is said of them is in their source alone.
UNDOCUMENTED: Final = {"STATE_ATTR", "callable_", "new_instance", "opmap", "_sa_"}
UNDOCUMENTED_MODULES: Final = {"psycopg.generators", "psycopg.waiting", "sqlalchemy.orm.base", "sqlalchemy.orm.state"}
#: Classes of libraries that a program is given, and is not meant to make.
NOT_TO_BE_MADE: Final = {"InstanceState"}


class Part(NamedTuple):
    """One part: the *library*, the *name* by which the *file* uses it, what *for*, and whether it *exists*."""

    library: str
    name: str
    file: str
    purpose: str
    exists: Callable[[], bool]


def _takes(function: object, *names: str) -> bool:
    return callable(function) and list(inspect.signature(function).parameters)[: len(names)] == list(names)


def _sets(method: object, attribute: str) -> bool:
    return attribute in getattr(getattr(method, "__code__", None), "co_names", ())


def _alembic_keeps_its_function() -> bool:
    def find() -> list[object]:
        return []

    migration = MigrationContext.configure(dialect_name="postgresql", opts={"fn": find})
    return getattr(migration, "_migrations_fn", None) is find


CONNECTION: Final = "db/connection.py"
ORM: Final = "models/orm_internals.py"
PARTS: Final = [
    Part(
        "psycopg",
        "_WaitTimeout",
        CONNECTION,
        "what psycopg's wait raises when its time is over",
        lambda: issubclass(psycopg.errors._WaitTimeout, psycopg.Error),
    ),
    Part(
        "psycopg",
        "_pipeline",
        CONNECTION,
        "shows that a holder was interrupted in a pipeline that it had not entered yet",
        lambda: _sets(inspect.getattr_static(psycopg.Connection, "pipeline").__wrapped__, "_pipeline"),
    ),
    Part(
        "psycopg",
        "wait",
        CONNECTION,
        "is overridden: every answer is waited for by it",
        lambda: _takes(psycopg.Connection.wait, "self", "gen", "interval", "timeout"),
    ),
    Part(
        "psycopg",
        "psycopg.waiting.wait",
        CONNECTION,
        "waits for an answer",
        lambda: len(inspect.signature(psycopg.waiting.wait_select).parameters) == 4,
    ),
    Part(
        "psycopg",
        "psycopg.waiting.wait_select",
        CONNECTION,
        "waits for an answer in a way that lets the green threads of eventlet run",
        lambda: _takes(psycopg.waiting.wait_select, "gen", "fileno", "interval", "timeout"),
    ),
    Part(
        "psycopg",
        "wait",
        "aio/connection.py",
        "is overridden: every answer is waited for by it",
        lambda: _takes(psycopg.AsyncConnection.wait, "self", "gen", "interval", "timeout"),
    ),
    Part(
        "psycopg",
        "psycopg.waiting.wait_async",
        CONNECTION,
        "waits for an answer in an event loop",
        lambda: _takes(psycopg.waiting.wait_async, "gen", "fileno", "interval"),
    ),
    Part(
        "psycopg",
        "psycopg.generators.fetch",
        CONNECTION,
        "reads what a failed pipeline has left",
        lambda: callable(psycopg.generators.fetch),
    ),
    Part(
        "sqlalchemy",
        "STATE_ATTR",
        ORM,
        "names the attribute that holds an object's state",
        lambda: ClassManager.STATE_ATTR in vars(Track()),
    ),
    Part(
        "sqlalchemy",
        "InstanceState",
        ORM,
        "is made for rows that are read without a session",
        lambda: _takes(InstanceState, "obj", "manager"),
    ),
    Part(
        "sqlalchemy",
        "callable_",
        ORM,
        "is what an attribute calls for a value that was not read",
        lambda: hasattr(Track.__mapper__.class_manager["search_vector"].impl, "callable_"),
    ),
    Part(
        "sqlalchemy",
        "_contains_state",
        ORM,
        "is overridden: a session asks it before it adds an object that another one refers to",
        lambda: _takes(Session._contains_state, "self", "state"),
    ),
    Part(
        "alembic",
        "_migrations_fn",
        "migrations/migrator.py",
        "gives a migration its steps, which are handed out one at a time",
        _alembic_keeps_its_function,
    ),
    Part(
        "python",
        "opmap",
        "worker/leaving.py",
        "shows whether a loop is left by an exception that is raised again",
        lambda: {"RERAISE", "RAISE_VARARGS"} <= set(dis.opmap),
    ),
]


@pytest.mark.parametrize("part", PARTS, ids=[part.name for part in PARTS])
def test_each_private_part_exists_in_the_installed_version(part: Part) -> None:
    installed = sys.version.split()[0] if part.library == "python" else version(part.library)
    try:
        exists = part.exists()
    except AttributeError:
        exists = False
    assert exists, (
        f"{part.library} {installed} no longer has {part.name} as audiocatalog/{part.file} uses it: it {part.purpose}. "
        f"Read how that version does this, change audiocatalog/{part.file}, and then the list in this file"
    )


def test_the_list_names_every_private_part_that_the_package_uses() -> None:
    """What is used more belongs into the list, in the file of its library, if there is no public way at all."""
    assert {(part.file, part.name) for part in PARTS} == {*_named_in_the_source(), *_overridden()}


def test_the_private_parts_of_each_library_are_used_in_one_file() -> None:
    files: dict[str, set[str]] = {}
    for part in PARTS:
        files.setdefault(part.library, set()).add(part.file)
    # A method is overridden where its class is.
    assert files.pop("psycopg") == {CONNECTION, "aio/connection.py"}
    assert all(len(used) == 1 for used in files.values())
    assert len(PARTS) <= 14


def _named_in_the_source() -> Iterator[tuple[str, str]]:
    """Yield the file and the name of each use that the source shows."""
    trees = {path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text("utf-8")) for path in PACKAGE.rglob("*.py")}
    own = {name for tree in trees.values() for node in ast.walk(tree) for name in _defined(node)}
    for file, tree in trees.items():
        modules = {name for node in ast.walk(tree) for name in _undocumented_modules(node)}
        for node in ast.walk(tree):
            yield from ((file, name) for name in _uses(node, own, modules))


def _defined(node: ast.AST) -> Iterator[str]:
    """Yield the names that *node* gives to parts of this package."""
    match node:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            yield name
        case (
            ast.Name(id=name, ctx=ast.Store())
            | ast.Attribute(value=ast.Name(id="self" | "cls"), attr=name, ctx=ast.Store())
        ):
            yield name
        case ast.Assign(targets=[ast.Name(id="__slots__")], value=ast.Tuple(elts=slots)):
            yield from (slot.value for slot in slots if isinstance(slot, ast.Constant) and isinstance(slot.value, str))


def _undocumented_modules(node: ast.AST) -> Iterator[str]:
    """Yield the dotted names of the undocumented modules that *node* imports."""
    match node:
        case ast.ImportFrom(module=str(module), names=names):
            yield from (f"{module}.{alias.name}" for alias in names if f"{module}.{alias.name}" in UNDOCUMENTED_MODULES)
        case ast.Import(names=names):
            yield from (alias.name for alias in names if alias.name in UNDOCUMENTED_MODULES)


def _uses(node: ast.AST, own: set[str], modules: set[str]) -> Iterator[str]:
    inner = {module.rpartition(".")[2]: module for module in modules}
    match node:
        case ast.Attribute(value=ast.Name(id=name), attr=part) if name in inner:
            yield f"{inner[name]}.{part}"
        case ast.Attribute(attr=name) if name in UNDOCUMENTED or _is_private(name, own):
            yield name
        case ast.Call(func=ast.Name(id=name)) if name in NOT_TO_BE_MADE:
            yield name
        case ast.Call(func=ast.Name(id="getattr" | "setattr"), args=[_, ast.Constant(value=str(name)), *_]):
            yield from (name for name in [name] if _is_private(name, own))
        case ast.Constant(value="_sa_"):
            yield "_sa_"
        case ast.ImportFrom(module=str(module), names=names) if not module.startswith("audiocatalog"):
            if any(part.startswith("_") and not part.startswith("__") for part in module.split(".")):
                yield module
            yield from (
                f"{module}.{alias.name}"
                for alias in names
                if module in UNDOCUMENTED_MODULES or _is_private(alias.name, set())
            )


def _is_private(name: str, own: set[str]) -> bool:
    # Names between underscores, such as those of enums, are documented.
    return name.startswith("_") and not name.endswith("_") and name not in own | DOCUMENTED


def _overridden() -> Iterator[tuple[str, str]]:
    """Yield the file and the name of each private method of a library that a class of this package overrides."""
    for module in pkgutil.walk_packages(audiocatalog.__path__, "audiocatalog."):
        if module.name == "audiocatalog.__main__":
            continue
        for one in vars(importlib.import_module(module.name)).values():
            if not isinstance(one, type) or one.__module__ != module.name:
                continue
            file = Path(inspect.getfile(one)).relative_to(PACKAGE).as_posix()
            foreign = [base for base in one.__mro__ if not base.__module__.startswith("audiocatalog")]
            names = {name for base in foreign for name in vars(base)}
            yield from ((file, name) for name in vars(one) if name in names and _is_overriding(one, name))


def _is_overriding(one: type, name: str) -> bool:
    is_waiting = one in {PooledConnection, AsyncPooledConnection} and name == "wait"
    return is_waiting or (_is_private(name, set()) and inspect.isfunction(vars(one)[name]))
