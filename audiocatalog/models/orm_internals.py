"""The uses of private names of SQLAlchemy; ``tests/test_private_parts.py`` lists each of them."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.orm import ClassManager, InstanceState, LoaderCallableStatus, Mapper, PassiveFlag, Session

#: The attribute of a mapped object that holds its state.
STATE_ATTRIBUTE: Final = ClassManager.STATE_ATTR


def make_row(one: object, manager: ClassManager[Any], values: dict[str, Any], key: tuple[Any, ...]) -> None:
    """
    Turn *one*, a new object without a state, into the row with the primary *key* and these *values*.

    The object belongs to no session, so it never loads, expires or flushes. Because it has a key, a host's session
    links the object instead of inserting a row. The constructor would send attribute events and take ten times as long.
    """
    held = one.__dict__
    held.update(values)
    held[STATE_ATTRIBUTE] = state = InstanceState(one, manager)
    state.key = (manager.class_, key, None)


def refuse_unloaded(mapper: Mapper[Any]) -> None:
    """
    Make columns with ``raiseload`` raise the same error with and without a session.

    SQLAlchemy raises different errors with and without a session, and none for an object without a row.
    """
    for attribute in mapper.column_attrs:
        if attribute.deferred and attribute.raiseload:
            name = f"{mapper.class_.__name__}.{attribute.key}"
            mapper.class_manager[attribute.key].impl.callable_ = _raise_for(name)


def _raise_for(name: str) -> Any:  # noqa: ANN401  # SQLAlchemy's protocol for this is private.
    def refuse(_: object, passive: PassiveFlag) -> LoaderCallableStatus:
        if not passive & PassiveFlag.SQL_OK:
            return LoaderCallableStatus.PASSIVE_NO_RESULT  # SQLAlchemy asks only for loaded values.
        raise InvalidRequestError(f"'{name}' is not available due to raiseload=True: select the column itself")

    return refuse


class LinkingSession(Session):
    """A session that links some objects by their keys, and neither adds nor copies them."""

    def links(self, state: InstanceState[Any]) -> bool:
        """Return whether the session links the object of *state*."""
        raise NotImplementedError

    def _contains_state(self, state: InstanceState[Any]) -> bool:
        # SQLAlchemy calls this method before it adds a related object to the session, and before it copies a key.
        return super()._contains_state(state) or self.links(state)
