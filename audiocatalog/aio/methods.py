# Made from audiocatalog/methods/__init__.py by `make twins`: change that module.
"""The methods that a catalogue and a unit of work share."""

from audiocatalog.aio.claiming import AsyncClaiming
from audiocatalog.aio.reading import AsyncReading
from audiocatalog.aio.writing import AsyncWriting

__all__ = ["AsyncMethods"]


class AsyncMethods(AsyncReading, AsyncWriting, AsyncClaiming):
    """
    The methods of a catalogue, where each call is a transaction, and of a unit of work, which is one transaction.

    The docstring of each method names the errors of that method. The server and the pool can cause further errors in
    every method.

    Raises:
        PoolTimeout: in a catalogue, if no connection became free within ``pool_timeout``.
        DatabaseUnavailable: the server cannot be reached.
        CommitOutcomeUnknown: in a catalogue, if the connection was lost before the answer to a write.
        QueryTimeout: the statement took longer than ``statement_timeout``.
        TransientConflict: a deadlock, a lock timeout or a failure to serialize; run the call or the unit of work again.
        StaleStatement: in a unit of work, if the schema changed after its beginning; run the unit of work again.
        OperationCancelled: the statement was cancelled on the server.
        PermissionDenied: the database role lacks a privilege.
        SchemaMismatch: the schema is missing or too old.
        ConfigurationError: the server refuses the password, the database or a setting.
        UnitOfWorkEnded: the unit of work has not begun, or has ended.
        CatalogInternalError: any other error.
    """
