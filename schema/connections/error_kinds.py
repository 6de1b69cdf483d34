"""What an error says about what was being written or read.

    data         the row's or the event's own, by the list in here: repeating it fails in the same way.
                 It may be isolated, dead-lettered, or stored without its details.
    transient    everything else that the database, the driver or the operating system raises: locks, cancels,
                 full disks, missing rights, read-only servers, unknown codes. It is retried for as long as it takes.
    neither      defects and refusals of ours that say nothing about the data. They are raised.

A list of what is *not* the data's fault would never be complete, and each gap in it would dead-letter healthy events.
SQLSTATE 57014 is transient: a statement timeout and a cancel by an operator cannot be told apart by the error.
A smaller batch may fit, so loops that work in batches ask `is_out_of_time` and halve.
"""

from typing import Final

import asyncpg

from schema.errors import Conflict, InvalidInput, NotFound

_DATA_CLASSES: Final = ("22", "23")  # data exception, integrity constraint violation
_NOT_OF_THE_DATA: Final = frozenset({"2200H"})  # a sequence that has reached its end
_LOOP_TABLES: Final = frozenset({"consumers", "cursors", "sequencer", "dead_events", "attempt_folds"})
"""What the loops keep for themselves: no event's data gets there, so a constraint that fails is our set-up's."""
_ROW_TOO_LARGE: Final = frozenset(
    {"index_form_tuple", "index_form_tuple_context", "_bt_check_third_page", "GinFormTuple", "make_tsvector"}
)
"""The server's functions that refuse a value for an index. The text of the message depends on lc_messages, and the same
SQLSTATE says that the server has run out of transaction ids."""
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
    """Base of errors of ours that speak of the data at hand: the next row is not concerned."""


def is_data_fault(error: BaseException) -> bool:
    """Whether the data at hand is to blame, so that other data may succeed. An argument that the driver cannot encode has
    a SQLSTATE too, 22000.
    """
    if isinstance(error, asyncpg.PostgresError):
        return _is_data_sqlstate(error)
    if isinstance(error, DataFault | InvalidInput | NotFound | Conflict):
        return True
    if isinstance(error, asyncpg.InterfaceError | asyncpg.InternalClientError):
        return False
    if isinstance(error, UnicodeError):  # raised by the driver, of what the database sent
        return True
    return isinstance(error, _PURE_CODE) and not _raised_by_infrastructure(error)


def is_transient(error: BaseException) -> bool:
    """Whether the same may succeed later: raised by the database, the driver or the system, and not the data's fault."""
    if isinstance(error, asyncpg.PostgresError):
        return not _is_data_sqlstate(error) and not _is_refusal(error)
    if isinstance(error, OSError | MemoryError | asyncpg.InterfaceError | asyncpg.InternalClientError):
        return True
    return (
        isinstance(error, _PURE_CODE)
        and not isinstance(error, UnicodeError)
        and _raised_by_infrastructure(error)
    )


def is_out_of_time(error: BaseException) -> bool:
    """Whether the server ended the statement, for its length or because somebody cancelled it."""
    return isinstance(error, asyncpg.QueryCanceledError)


def is_unreadable(error: BaseException) -> bool:
    """Whether a row that was read is to blame. Stored bytes may be damaged, which is no fault of data that is written."""
    if isinstance(error, asyncpg.PostgresError):
        return _is_data_sqlstate(error) or isinstance(error, asyncpg.DataCorruptedError)
    if isinstance(error, asyncpg.InterfaceError):
        return False
    return isinstance(error, UnicodeError) or (
        isinstance(error, ValueError | OverflowError) and _raised_by_infrastructure(error)
    )


def needs_operator(error: BaseException) -> bool:
    """Whether time alone will not help: a missing table, right or function, or a defect of the server. A command says so
    at once. A worker retries nevertheless, and reports it, for what is missing may be granted or migrated meanwhile.
    """
    return isinstance(error, asyncpg.PostgresError) and (error.sqlstate or "")[:2] in _NEEDS_OPERATOR


def describe(error: BaseException) -> str:
    """Its type and text. An error may quote data that no text column and no log can hold; that is escaped."""
    text = f"{type(error).__name__}: {error}"
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")


def _is_data_sqlstate(error: asyncpg.PostgresError) -> bool:
    state = error.sqlstate or ""
    if state == asyncpg.ProgramLimitExceededError.sqlstate:
        return error.server_source_function in _ROW_TOO_LARGE
    if not state.startswith(_DATA_CLASSES) or state in _NOT_OF_THE_DATA or error.table_name in _LOOP_TABLES:
        return False
    return not _is_missing_partition(error)


def _is_missing_partition(error: asyncpg.PostgresError) -> bool:
    """It names the table and no constraint, whereas a function that raises the code by itself names neither."""
    return (
        isinstance(error, asyncpg.CheckViolationError)
        and error.table_name is not None
        and error.constraint_name is None
    )


def _is_refusal(error: asyncpg.PostgresError) -> bool:
    """An answer of ours that does not change by itself. A month that retention is looking at ("retiring") does."""
    return type(error) is asyncpg.ObjectNotInPrerequisiteStateError and error.constraint_name != "retiring"


def _raised_by_infrastructure(error: BaseException) -> bool:
    """In the code of the driver or the event loop, where such an error is a lost connection's."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    if frame is None:
        return False
    module = str(frame.tb_frame.f_globals.get("__name__", ""))
    return module.partition(".")[0] in _INFRASTRUCTURE
