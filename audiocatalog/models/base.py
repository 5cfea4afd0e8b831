"""The declarative base of the tables, and column types."""

from __future__ import annotations

from functools import cache
from typing import Any, Final

from sqlalchemy import Dialect, Double, Integer, MetaData, String, Text, TypeDecorator, event
from sqlalchemy.dialects.postgresql import DOMAIN
from sqlalchemy.orm import ClassManager, DeclarativeBase, Mapper
from sqlalchemy.types import TypeEngine

from audiocatalog.models.limits import Limit, NumberLimit, TextLimit, WholeLimit
from audiocatalog.models.orm_internals import STATE_ATTRIBUTE, refuse_unloaded
from audiocatalog.models.sql_names import VISIBLE_FUNCTION
from audiocatalog.status import TrackStatus


class Base(DeclarativeBase):
    """The base of the tables, with one convention for the names of constraints."""

    metadata = MetaData(
        naming_convention={
            "pk": "pk_%(table_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
        }
    )

    # Otherwise, every ORM insert of a track would return the whole search vector.
    __mapper_args__ = {"eager_defaults": False}  # noqa: RUF012

    def __setattr__(self, name: str, value: object) -> None:
        """
        Refuse every assignment, because these objects are read-only.

        SQLAlchemy sets the columns of an object without this method.
        """
        if name == STATE_ATTRIBUTE:
            super().__setattr__(name, value)
            return
        raise AttributeError(
            f"{type(self).__name__}.{name} cannot be assigned: use save(..., replace=True) for a track's content "
            "and update_status() for its status"
        )

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__}.{name} cannot be deleted")

    def __eq__(self, other: object) -> bool:
        """Return whether *other* has the same values; two calls that read the same row return equal objects."""
        if type(other) is not type(self):
            return NotImplemented
        mine, others = self.__dict__, other.__dict__
        return all(mine.get(name) == others.get(name) for name in _shown(type(self)))

    def __hash__(self) -> int:
        """Return the hash of the primary key, which never changes."""
        key = tuple(self.__dict__.get(column.name) for column in type(self).__mapper__.primary_key)
        return hash(key[0] if len(key) == 1 else key)

    def __init__(self, **values: Any) -> None:  # noqa: ANN401  # Columns have many types.
        """Set the named columns, for example in a test's factory."""
        for name, value in values.items():
            if name not in type(self).__mapper__.attrs:
                raise TypeError(f"{type(self).__name__} has no column {name!r}")
            super().__setattr__(name, value)


@event.listens_for(Base, "mapper_configured", propagate=True)
def _refuse_unloaded(mapper: Mapper[Any], _: type) -> None:
    refuse_unloaded(mapper)


@cache
def manager_of(kind: type[Base]) -> ClassManager[Any]:
    """Return the class manager of *kind*, which creates objects without a session."""
    Base.registry.configure()
    return kind.__mapper__.class_manager


@cache
def _shown(kind: type[Base]) -> tuple[str, ...]:
    """Return the names of the columns that are read into every object of *kind*."""
    return tuple(attribute.key for attribute in kind.__mapper__.column_attrs if not attribute.deferred)


class StatusText(TypeDecorator[TrackStatus]):
    """
    A status, stored as text and read as a ``TrackStatus``.

    A name that only newer code knows is read as plain text, so that a service keeps working during a deploy.
    """

    impl = Text
    cache_ok = True

    def process_result_value(self, value: str | None, dialect: Dialect) -> TrackStatus | None:  # noqa: ARG002
        """Return the status that *value* names."""
        return None if value is None else status_of(value)


_STATUS_BY_NAME: Final[dict[str, TrackStatus]] = {str(status): status for status in TrackStatus}


def status_of(name: str) -> TrackStatus:
    """Return the status with this *name*, or *name* itself if only newer code knows it."""
    return _STATUS_BY_NAME.get(name, name)  # type: ignore[arg-type]


class DomainType(TypeDecorator[Any]):
    """
    A column type that is a domain: a data type with a CHECK.

    Every rule about a single column is a CHECK of a domain, because a CHECK of a table costs more. PostgreSQL reads
    every CHECK of the table for each statement that writes a row; this takes half of the time of a change of status.
    PostgreSQL caches the CHECK of a domain for the session, and evaluates it only for the written columns.

    In queries, the column has the domain's data type. Casting a parameter to the domain would truncate a text that is
    too long instead of refusing it.
    """

    impl: TypeEngine[Any] | type[TypeEngine[Any]] = Text
    cache_ok = True

    def __init__(self, domain: DOMAIN) -> None:
        super().__init__()
        self.domain = domain
        self.impl = domain.data_type

    def type_engine(self, dialect: Dialect) -> TypeEngine[Any]:  # noqa: ARG002
        """Return the type in the column's declaration."""
        return self.domain


def domain(name: str, data_type: TypeEngine[Any], constraint: str, check: str) -> DomainType:
    """Return the column type for the domain *name*: *data_type* with a *check*."""
    created = DOMAIN(f"audiocatalog_{name}", data_type, constraint_name=constraint, check=check, metadata=Base.metadata)
    return DomainType(created)


def domain_for(field: str, limit: Limit, table: str = "audio_tracks") -> DomainType:
    """Return the column type of *field*, whose CHECK enforces *limit* in SQL and has the field in its name."""
    match limit:
        case TextLimit(characters):
            # The type limits the length, so PostgreSQL checks the length before it computes the search vector.
            visible = f"{VISIBLE_FUNCTION}(VALUE)"
            return domain(field, String(characters), f"ck_{table}_{field}_visible", visible)
        case WholeLimit(lowest, highest):
            between = f"VALUE BETWEEN {lowest} AND {highest}"
            return domain(field, Integer(), f"ck_{table}_{field}_range", between)
        case NumberLimit(lowest, highest):
            # PostgreSQL sorts NaN above infinity, so the upper bound refuses both.
            between = f"VALUE BETWEEN {lowest:.0f} AND {highest:.0f}"
            return domain(field, Double(), f"ck_{table}_{field}_range", between)
