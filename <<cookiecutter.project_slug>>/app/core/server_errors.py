"""What a server says when something goes wrong, and which connections to close after it."""

from collections.abc import Iterator
<% if cookiecutter.database == "postgresql" %>
from typing import Any, cast
from uuid import uuid4

from asyncpg import (
    InternalClientError,
    InternalServerError,
    InvalidCachedStatementError,
    InvalidSQLStatementNameError,
)
from sqlalchemy import Connection, Engine, ExceptionContext, event
<% else %>
from typing import Any

import asyncmy
from asyncmy.constants.SERVER_STATUS import SERVER_STATUS_IN_TRANS
from sqlalchemy import Connection, Engine, ExceptionContext, event
<% endif %>
from sqlalchemy.exc import DBAPIError, PendingRollbackError, SQLAlchemyError
<% if cookiecutter.database == "postgresql" %>
from sqlalchemy.orm.exc import FlushError
<% endif %>

<% if cookiecutter.database == "postgresql" %>
# Errors after which the same transaction may well succeed (SQLSTATE): serialization failure and
# deadlock.
CONFLICTS = {"40001", "40P01"}

# What a transaction says to whatever comes after an error, and to the end of a savepoint that the
# error has ended.
CONSEQUENCES = {"25P02", "3B001"}

# The server takes no writes (SQLSTATE): after a fail-over it is a replica now.
READ_ONLY = {"25006"}
<% else %>
# Errors after which the same transaction may well succeed: deadlock, a wait for a lock that took
# too long, a row that is not any more as it was read (MariaDB's innodb_snapshot_isolation), and a
# commit that one at another node of the cluster was before.
CONFLICTS = {1213, 1205, 1020, 3101}

# The server takes no writes: after a fail-over it is a replica now, or the node of a cluster has
# lost the others.
READ_ONLY = {1047, 1180, 1290, 1792, 1836, 3100}
<% endif %>


class DatabaseUnavailable(Exception):
    """The database cannot be reached, or does not answer."""


<% if cookiecutter.database == "postgresql" %>
class NotStored(FlushError):
    """A trigger has left out a row. A session that needs the row's key raises the same class."""


<% endif %>
def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and those behind it: SQLAlchemy's, its adapter's, the driver's."""
    while error is not None:
        yield error
        error = error.__cause__


<% if cookiecutter.database == "postgresql" %>
def is_lost(driver: Any, error: BaseException) -> bool:
    """Return whether an error means that the connection is over.

    It need not look it yet: the end of the connection arrives some time after the server's last
    words, and until then the driver is in a state that nothing leads out of.
    """
    return bool(driver.is_closed()) or any(
        isinstance(cause, InternalClientError | OSError | EOFError)
        or getattr(cause, "severity_en", None) in {"FATAL", "PANIC"}
        for cause in causes(error)
    )
<% else %>
def is_lost(driver: Any, error: BaseException) -> bool:
    """Return whether an error means that the connection is over, or out of step with the server."""
    return bool(driver._stream_broken) or any(
        isinstance(cause, OSError | EOFError)
        # The driver's own has no number, as the server's have that it has no other class for.
        or (isinstance(cause, asyncmy.errors.InternalError) and isinstance(cause.args[0], str))
        for cause in causes(error)
    )
<% endif %>


<% if cookiecutter.database == "postgresql" %>
def error_code(error: DBAPIError) -> str | None:
    """Return the SQLSTATE of a database error, or None when the server sent none."""
    # SQLAlchemy hands on a stale statement's error without its code: the driver's has it.
    for cause in causes(error.orig):
        if code := getattr(cause, "sqlstate", None):
            return str(code)
    return None
<% else %>
def error_code(error: DBAPIError) -> int | None:
    """Return the number of a database error, or None when it has none."""
    code = error.orig.args[0] if error.orig is not None and error.orig.args else None
    return code if isinstance(code, int) else None
<% endif %>


def error_type(error: BaseException) -> str:
    """Return the database's code for an error, or else the error's name."""
    error = first_error(error)
    wrapped = error if isinstance(error, DBAPIError) else DBAPIError(None, None, error)
    return str(error_code(wrapped) or type(error).__qualname__)


def first_error(error: BaseException) -> BaseException:
    """Return the error behind SQLAlchemy's refusal to go on after one."""
    behind: BaseException | None = error
    while isinstance(error, PendingRollbackError) and behind is not None:
        behind = behind.__cause__ or behind.__context__
        if isinstance(behind, DBAPIError):
            return behind
    return error


def is_conflict(error: BaseException) -> bool:
    """Return whether the same unit of work may well succeed when it is run again.

    Of tasks that failed together one is enough.
    """
    if isinstance(error, ExceptionGroup):
        return any(map(is_conflict, error.exceptions))
    error = first_error(error)
<% if cookiecutter.database == "postgresql" %>
    return isinstance(error, DBAPIError) and (error_code(error) in CONFLICTS or is_stale(error))


def is_stale(error: DBAPIError) -> bool:
    """Return whether a prepared statement is not what it was, and has done nothing.

    Another process has changed the schema: columns have other types, or a type is gone that it
    knows by a number. Or the statement itself is gone, after DISCARD ALL or behind a pooler.
    """
    return any(
        isinstance(cause, InvalidCachedStatementError | InvalidSQLStatementNameError)
        # The server says this in no other language.
        or (isinstance(cause, InternalServerError) and "cache lookup failed" in str(cause))
        for cause in causes(error.orig)
    )


class Ending:
    """What all statements of an engine end with: nothing, or a comment that says nothing.

    A pooler such as PgBouncer keeps what it has prepared for all of its clients, by the text. Once
    stale, it stays so, whoever prepares the same text again: another text is prepared anew.
    """

    def __init__(self, engine: Engine) -> None:
        self.text = ""
        event.listen(engine, "before_cursor_execute", self._append, retval=True)
        event.listen(engine, "handle_error", self._note)

    def change(self, statement: str) -> None:
        """Take another one after a stale statement, unless somebody has done so meanwhile."""
        if statement.endswith(self.text):
            self.text = f" /* {uuid4().hex[:8]} */"

    def _append(
        self, _: object, __: object, statement: str, parameters: Any, *___: object
    ) -> tuple[str, Any]:
        return statement + self.text, parameters

    def _note(self, context: ExceptionContext) -> None:
        error = context.sqlalchemy_exception
        if isinstance(error, DBAPIError) and context.statement and is_stale(error):
            self.change(context.statement)
<% else %>
    return isinstance(error, DBAPIError) and error_code(error) in CONFLICTS
<% endif %>


def is_begun(connection: Connection) -> bool:
    """Return whether statements run in a transaction, rather than each by itself."""
    return connection.get_execution_options().get("isolation_level") != "AUTOCOMMIT"


def invalidate_if_lost(context: ExceptionContext) -> DBAPIError | None:
    """Close a connection that an error has ended; give a driver's own error the usual class."""
    error = context.original_exception
    connection = context.connection
    if connection is None or connection.closed or connection.invalidated:
        return None
    driver = connection.connection.driver_connection
<% if cookiecutter.database == "mysql" %>
    # Bytes that are no text are met among rows, of which the others are left unread.
    unread = isinstance(error, UnicodeDecodeError)
    if not isinstance(error, Exception) or not (unread or is_lost(driver, error)):
        return None
<% else %>
    if not isinstance(error, Exception) or not is_lost(driver, error):
        return None
<% endif %>
    context.is_disconnect = True
    # The others are looked at when they are checked out.
    context.invalidate_pool_on_disconnect = False
<% if cookiecutter.database == "mysql" %>
    if unread or context.sqlalchemy_exception or isinstance(error, SQLAlchemyError | TimeoutError):
        return None
<% else %>
    if context.sqlalchemy_exception or isinstance(error, SQLAlchemyError | TimeoutError):
        return None
<% endif %>
    return DBAPIError(context.statement, None, error, True, connection_invalidated=True)


<% if cookiecutter.database == "postgresql" %>
def repeat_first_error(context: ExceptionContext) -> DBAPIError | None:
    """Raise a transaction's first error again where it is what another follows from.

    Its context cannot tell: to wait, SQLAlchemy leaves the place where an error is handled.
    """
    error, connection = context.sqlalchemy_exception, context.connection
    if connection is None or connection.closed or connection.invalidated:
        return None
    if not isinstance(error, DBAPIError):
        return None
    if error_code(error) in CONSEQUENCES:
        return cast(DBAPIError | None, connection.info.get("first_error"))
    connection.info["first_error"] = error
    return None


def refuse_commit_of_nothing(connection: Connection) -> None:
    """Ask before a commit whether an error, which somebody has caught, has ended the transaction.

    The server would answer the COMMIT by a rollback, and no error.
    """
    if "first_error" in connection.info:
        connection.exec_driver_sql("SELECT 1")
<% else %>
def note_conflict(context: ExceptionContext) -> None:
    """Remember an error with which the server may have rolled back the transaction."""
    error, connection = context.sqlalchemy_exception, context.connection
    if connection is None or connection.closed or connection.invalidated:
        return
    if isinstance(error, DBAPIError) and error_code(error) in CONFLICTS and is_begun(connection):
        connection.info["first_error"] = error


def refuse_after_rollback(connection: Connection, *_: object) -> None:
    """Raise a conflict, which somebody has caught, again where the server has rolled back for it.

    A deadlock always ends the transaction, a wait for a lock where the server is set up so; and what
    comes after that would be committed without what was before.
    """
    if (error := connection.info.pop("first_error", None)) is None:
        return
    # Any answer tells whether there is a transaction.
    connection.exec_driver_sql("DO 0")
    driver: Any = connection.connection.driver_connection
    if not driver.server_status & SERVER_STATUS_IN_TRANS:
        connection.info["first_error"] = error
        raise error
<% endif %>


def forget_first_error(*arguments: Any) -> None:
    """Let go of an error, and of all that it refers to, when its transaction is over."""
    arguments[-1].info.pop("first_error", None)


def invalidate_if_read_only(context: ExceptionContext) -> None:
    """Close a connection whose server has become read-only: a new one finds the new primary."""
    error = context.sqlalchemy_exception
    if isinstance(error, DBAPIError) and error_code(error) in READ_ONLY:
        context.is_disconnect = True
        context.invalidate_pool_on_disconnect = False


def listen_to_errors(engine: Engine) -> None:
    """Close what an error has ended, and tell the first error of a transaction."""
    event.listen(engine, "handle_error", invalidate_if_lost)
    event.listen(engine, "handle_error", invalidate_if_read_only)
    listen_to_first_errors(engine)


def listen_to_first_errors(engine: Engine) -> None:
    """Tell a transaction's first error, and commit nothing of what it has ended."""
    event.listen(engine, "begin", forget_first_error)
<% if cookiecutter.database == "postgresql" %>
    event.listen(engine, "handle_error", repeat_first_error)
    event.listen(engine, "commit", refuse_commit_of_nothing)
<% else %>
    event.listen(engine, "handle_error", note_conflict)
    event.listen(engine, "before_cursor_execute", refuse_after_rollback)
    event.listen(engine, "commit", refuse_after_rollback)
<% endif %>
