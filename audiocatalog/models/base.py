"""The declarative base of the tables, and the types of their columns."""

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
    """Collect the tables and name their constraints by one convention."""

    metadata = MetaData(
        naming_convention={
            "pk": "pk_%(table_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
        }
    )

    def __setattr__(self, name: str, value: object) -> None:
        """
        Refuse every assignment: what was read is not the way to write.

        SQLAlchemy itself fills objects below this method, so reading and constructing them works as ever.
        """
        if name == STATE_ATTRIBUTE:
            super().__setattr__(name, value)
            return
        raise AttributeError(
            f"{type(self).__name__}.{name} cannot be assigned: use save(..., replace=True) for a track's content "
            "and update_status() for its status"
        )

    def __delattr__(self, name: str) -> None:
        """Refuse every deletion as well."""
        raise AttributeError(f"{type(self).__name__}.{name} cannot be deleted")

    def __eq__(self, other: object) -> bool:
        """Tell whether *other* shows the same row in the same state, by value, even if another call has read it."""
        if type(other) is not type(self):
            return NotImplemented
        mine, others = self.__dict__, other.__dict__
        return all(mine.get(name) == others.get(name) for name in _shown(type(self)))

    def __hash__(self) -> int:
        """Return the hash of the primary key, which no later state of the row changes."""
        key = tuple(self.__dict__.get(column.name) for column in type(self).__mapper__.primary_key)
        return hash(key[0] if len(key) == 1 else key)

    def __init__(self, **values: Any) -> None:  # noqa: ANN401  # Columns of every type.
        """Make an object of the named columns, such as a test's factory does."""
        for name, value in values.items():
            if name not in type(self).__mapper__.attrs:
                raise TypeError(f"{type(self).__name__} has no column {name!r}")
            super().__setattr__(name, value)


@event.listens_for(Base, "mapper_configured", propagate=True)
def _refuse_unloaded(mapper: Mapper[Any], _: type) -> None:
    refuse_unloaded(mapper)


@cache
def manager_of(kind: type[Base]) -> ClassManager[Any]:
    """Return what SQLAlchemy knows of *kind*, whose objects are made of rows without a session."""
    Base.registry.configure()
    return kind.__mapper__.class_manager


@cache
def _shown(kind: type[Base]) -> tuple[str, ...]:
    """Return the names of the columns that are read into every object of *kind*."""
    return tuple(attribute.key for attribute in kind.__mapper__.column_attrs if not attribute.deferred)


class StatusText(TypeDecorator[TrackStatus]):
    """
    Store a status as text and read it as a ``TrackStatus``.

    A name that this version of the code does not know, written by a newer one, is read as plain text: a service must
    not fail over tracks of others while a deploy is under way.
    """

    impl = Text
    cache_ok = True

    def process_result_value(self, value: str | None, dialect: Dialect) -> TrackStatus | None:  # noqa: ARG002
        """Return the status that *value* names."""
        return None if value is None else status_of(value)


_STATUS_BY_NAME: Final[dict[str, TrackStatus]] = {str(status): status for status in TrackStatus}


def status_of(name: str) -> TrackStatus:
    """Return the status that *name* names, or a name that only newer code knows as it is."""
    return _STATUS_BY_NAME.get(name, name)  # type: ignore[arg-type]


class DomainType(TypeDecorator[Any]):
    """
    Give a column a domain as its type: the type that a value has, and the CHECK that it must pass.

    PostgreSQL reads every CHECK of a table anew for each statement that writes a row, were it only its status: half of
    the time of such a statement. The CHECK of a domain it keeps for the session, and asks it about the columns alone
    that are written. So every rule about one column is a domain's.

    In queries the column is what the domain is made of. A parameter must not be cast to the domain, for that would cut
    a text that is too long instead of refusing it.
    """

    impl: TypeEngine[Any] | type[TypeEngine[Any]] = Text
    cache_ok = True

    def __init__(self, domain: DOMAIN) -> None:
        super().__init__()
        self.domain = domain
        self.impl = domain.data_type

    def type_engine(self, dialect: Dialect) -> TypeEngine[Any]:  # noqa: ARG002
        """Return what the column is declared as."""
        return self.domain


def domain(name: str, data_type: TypeEngine[Any], constraint: str, check: str) -> DomainType:
    """Return the column type for the domain *name*: *data_type* with a *check*."""
    created = DOMAIN(f"audiocatalog_{name}", data_type, constraint_name=constraint, check=check, metadata=Base.metadata)
    return DomainType(created)


def domain_for(field: str, limit: Limit, table: str = "audio_tracks") -> DomainType:
    """Return the type of *field*, which refuses in SQL what *limit* refuses in Python, by a CHECK that names it."""
    match limit:
        case TextLimit(characters):
            # The length is the type's own, so that it is checked before the search vector is computed.
            visible = f"{VISIBLE_FUNCTION}(VALUE)"
            return domain(field, String(characters), f"ck_{table}_{field}_visible", visible)
        case WholeLimit(lowest, highest):
            between = f"VALUE BETWEEN {lowest} AND {highest}"
            return domain(field, Integer(), f"ck_{table}_{field}_range", between)
        case NumberLimit(lowest, highest):
            # NaN sorts above infinity in PostgreSQL, so the upper bound refuses both.
            between = f"VALUE BETWEEN {lowest:.0f} AND {highest:.0f}"
            return domain(field, Double(), f"ck_{table}_{field}_range", between)
