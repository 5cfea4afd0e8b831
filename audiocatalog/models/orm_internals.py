"""What this package uses of SQLAlchemy's inner parts; ``tests/test_private_parts.py`` names each."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.orm import ClassManager, InstanceState, LoaderCallableStatus, Mapper, PassiveFlag, Session

#: The attribute of a mapped object that holds its state.
STATE_ATTRIBUTE: Final = ClassManager.STATE_ATTR


def make_row(one: object, manager: ClassManager[Any], values: dict[str, Any], key: tuple[Any, ...]) -> None:
    """
    Make *one*, a new object without a state, the row with the primary *key* and these *values*.

    It belongs to no session, so it never loads, expires or flushes. Its key says that it is a row, so that a session
    of the host's links to it instead of inserting it. The constructor's attribute events, which cost ten times as much,
    are for objects of a session.
    """
    held = one.__dict__
    held.update(values)
    held[STATE_ATTRIBUTE] = state = InstanceState(one, manager)
    state.key = (manager.class_, key, None)


def refuse_unloaded(mapper: Mapper[Any]) -> None:
    """
    Have columns that are declared with ``raiseload`` raise one error wherever the object stands.

    SQLAlchemy's own way raises one error with a session, another one without, and none for an object of no row.
    """
    for attribute in mapper.column_attrs:
        if attribute.deferred and attribute.raiseload:
            name = f"{mapper.class_.__name__}.{attribute.key}"
            mapper.class_manager[attribute.key].impl.callable_ = _raise_for(name)


def _raise_for(name: str) -> Any:  # noqa: ANN401  # A protocol that SQLAlchemy keeps to itself.
    def refuse(_: object, passive: PassiveFlag) -> LoaderCallableStatus:
        if not passive & PassiveFlag.SQL_OK:
            return LoaderCallableStatus.PASSIVE_NO_RESULT  # SQLAlchemy asks for what is there already.
        raise InvalidRequestError(f"'{name}' is not available due to raiseload=True: select the column itself")

    return refuse


class LinkingSession(Session):
    """A session that links some objects by their keys, as if it held them: it neither adds nor copies them."""

    def links(self, state: InstanceState[Any]) -> bool:
        """Tell whether it links the object of *state*."""
        raise NotImplementedError

    def _contains_state(self, state: InstanceState[Any]) -> bool:
        # SQLAlchemy asks this before it adds the far side of a relationship to the session, and before it copies the
        # key of the far side.
        return super()._contains_state(state) or self.links(state)
