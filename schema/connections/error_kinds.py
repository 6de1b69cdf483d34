"""Classifies errors: is the data at fault, or may the same operation succeed later?

    data         caused by the row or event itself, by the lists below: a retry would fail in the same way.
                 The item may be isolated, dead-lettered, or stored without its details.
    transient    all other errors of the database, the driver and the operating system: locks, cancels, full disks,
                 missing rights, read-only servers, unknown codes. They are retried without limit.
    neither      defects and refusals of duro itself that say nothing about the data. They are raised.

Data errors are listed, not transient ones: such a list would never be complete, and each gap would
dead-letter valid events. SQLSTATE 57014 is transient, because a statement timeout and a cancel by an operator
look the same. A smaller batch may finish in time, so loops that work in batches check `is_query_canceled` and
halve the batch.
"""

from typing import Final

import asyncpg

from schema.errors import Conflict, InvalidInput, NotFound

DATA_CLASSES: Final = ("22", "23")
"""SQLSTATE classes: data exception, integrity constraint violation. Their messages contain row data."""
_NOT_OF_THE_DATA: Final = frozenset({"2200H"})  # a sequence has reached its limit
_LOOP_TABLES: Final = frozenset({"consumers", "cursors", "sequencer", "dead_events", "attempt_folds"})
"""Internal tables of the loops. They hold no event data, so a failed constraint there is not the data's
fault.
"""
_ROW_TOO_LARGE: Final = frozenset(
    {"index_form_tuple", "index_form_tuple_context", "_bt_check_third_page", "GinFormTuple", "make_tsvector"}
)
"""Server functions that refuse a value as too large for an index.

The message depends on lc_messages, and the same SQLSTATE also means that transaction ids are exhausted.
"""
_PURE_CODE: Final = (
    ValueError,  # with UnicodeDecodeError, json.JSONDecodeError
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    AssertionError,
    RecursionError,
)
_INFRASTRUCTURE: Final = frozenset({"asyncpg", "asyncio", "ssl", "socket", "selectors"})
_NEEDS_OPERATOR: Final = frozenset({"0A", "3D", "3F", "42", "P0", "XX"})


class DataFault(Exception):
    """Base of duro's own errors that the current data caused: the next row is not affected."""


def is_data_fault(error: BaseException) -> bool:
    """Whether the current data caused the error, so that other data may succeed.

    An argument that the driver cannot encode also has a SQLSTATE, 22000.
    """
    if isinstance(error, asyncpg.PostgresError):
        return _is_data_sqlstate(error)
    if isinstance(error, DataFault | InvalidInput | NotFound | Conflict):
        return True
    if isinstance(error, asyncpg.InterfaceError | asyncpg.InternalClientError):
        return False
    if isinstance(error, UnicodeError):  # raised by the driver for a value from the database
        return True
    return isinstance(error, _PURE_CODE) and not _raised_by_infrastructure(error)


def is_transient(error: BaseException) -> bool:
    """Whether the same operation may succeed later: an error of the infrastructure, not of the data."""
    if isinstance(error, asyncpg.PostgresError):
        return not _is_data_sqlstate(error) and not _is_refusal(error)
    if isinstance(error, OSError | MemoryError | asyncpg.InterfaceError | asyncpg.InternalClientError):
        return True
    return (
        isinstance(error, _PURE_CODE)
        and not isinstance(error, UnicodeError)
        and _raised_by_infrastructure(error)
    )


def is_query_canceled(error: BaseException) -> bool:
    """Whether the server canceled the statement, by its timeout or on request."""
    return isinstance(error, asyncpg.QueryCanceledError)


def is_unreadable(error: BaseException) -> bool:
    """Whether a stored row cannot be read. Damaged storage counts too, unlike in is_data_fault."""
    if isinstance(error, asyncpg.PostgresError):
        return _is_data_sqlstate(error) or isinstance(error, asyncpg.DataCorruptedError)
    if isinstance(error, asyncpg.InterfaceError):
        return False
    return isinstance(error, UnicodeError) or (
        isinstance(error, ValueError | OverflowError) and _raised_by_infrastructure(error)
    )


def needs_operator(error: BaseException) -> bool:
    """Whether a retry alone cannot help: a missing table, right or function, or a defect of the server.

    A command fails immediately. A worker still retries and reports it, because an operator may fix it
    meanwhile.
    """
    return isinstance(error, asyncpg.PostgresError) and (error.sqlstate or "")[:2] in _NEEDS_OPERATOR


def describe(error: BaseException) -> str:
    """Returns type and message. Characters that text columns and logs cannot hold are escaped."""
    text = f"{type(error).__name__}: {error}"
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")


def _is_data_sqlstate(error: asyncpg.PostgresError) -> bool:
    state = error.sqlstate or ""
    if state == asyncpg.ProgramLimitExceededError.sqlstate:
        return error.server_source_function in _ROW_TOO_LARGE
    if not state.startswith(DATA_CLASSES) or state in _NOT_OF_THE_DATA or error.table_name in _LOOP_TABLES:
        return False
    return not _is_missing_partition(error)


def _is_missing_partition(error: asyncpg.PostgresError) -> bool:
    """Such an error names the table but no constraint; one raised by a function names neither."""
    return (
        isinstance(error, asyncpg.CheckViolationError)
        and error.table_name is not None
        and error.constraint_name is None
    )


def _is_refusal(error: asyncpg.PostgresError) -> bool:
    """A refusal by duro that a retry cannot change. "retiring" may change, when retention ends."""
    return type(error) is asyncpg.ObjectNotInPrerequisiteStateError and error.constraint_name != "retiring"


def _raised_by_infrastructure(error: BaseException) -> bool:
    """Whether the driver or the event loop raised it, where such an error means a lost connection."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    if frame is None:
        return False
    module = str(frame.tb_frame.f_globals.get("__name__", ""))
    return module.partition(".")[0] in _INFRASTRUCTURE
