"""Since when the operations of a part have been failing, and why: for readiness, for metrics and for the log.

      well ──failed()──► failing ──failed()──► failing      a streak: logged when it begins, with the traceback of a
        ▲                   │                               defect, and then once a minute at most
        └────succeeded()────┘                               logged, with how long it lasted, if its failures were

The supervisor names the part in the context of the part's task, and tasks that the part starts inherit it. So code
that catches an error and carries on reports it with `failed` and needs to know no name but that of its own operation.
Whoever reports failures of an operation has to report its successes too, or it is failing for ever. Names of operations
are constants: no id, no URL.
"""

import logging
import re
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

import asyncpg

from schema.connections.error_kinds import is_transient, needs_operator
from schema.errors import DuroError
from schema.timestamps import iso_millis

FAILING_AFTER_S: Final = 10.0
"""How long a part may fail before its worker is not ready: longer than a failover's first refusals, a deadlock or a
restart of the part takes, and as long as a take-over of its work by other workers may take."""
LOG_EVERY_S: Final = 60.0
REFUSED_FOR_S: Final = 30.0
"""How long after the last refusal the database is said to allow too few connections: longer than the longest pause
between two tries of a part."""
RUN: Final = "run"
"""The operation of a part that raised outside of every named one."""
_LONGEST_REASON: Final = 300
_DATA_CLASSES: Final = ("22", "23")  # their messages quote rows
_PASSWORD: Final = re.compile(r"//[^/@\s]*@")
_logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Streak:
    since: float
    failures: int = 0
    reason: str = ""
    logged: bool = False
    harmless: bool = False


class PartFailures:
    """What fails in one part. `name` is empty for code that no supervisor runs."""

    def __init__(self, name: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.name = name
        self.total = 0
        self._clock = clock
        self._streaks: dict[str, _Streak] = {}
        self._logged_at: dict[tuple[str, type[BaseException] | None], float] = {}
        self._raised: tuple[int, str] | None = None
        self.refused_at: float | None = None
        """When the database last refused a connection because there were too many."""
        self.refusal = ""

    @property
    def any(self) -> bool:
        return bool(self._streaks)

    @property
    def failing_seconds(self) -> float:
        """Of the operation that has been failing for longest; 0: none is."""
        now = self._clock()
        return max((now - streak.since for streak in self._streaks.values()), default=0.0)

    def failed(
        self, operation: str, error: BaseException, about: str = "", *, harmless: bool = False
    ) -> None:
        """`about`: the item that it failed for, if it is one of many. `harmless`: the part does its work all the same, so
        that readiness does not change.
        """
        now = self._clock()
        streak = self._streaks.setdefault(operation, _Streak(now))
        streak.failures += 1
        streak.harmless = harmless
        streak.reason = f"{about}: {reason_of(error)}" if about else reason_of(error)
        self.total += 1
        if isinstance(error, asyncpg.TooManyConnectionsError):
            self.refused_at, self.refusal = now, reason_of(error)
        # By class only for defects, each of which has a traceback to show: an outage has many faces.
        defect = type(error) if needs_operator(error) or not is_transient(error) else None
        logged_at = self._logged_at.get((operation, defect))
        if logged_at is not None and now - logged_at < LOG_EVERY_S:
            return
        self._logged_at[operation, defect] = now
        streak.logged = True
        if streak.failures == 1:
            text = f"{self._label(operation)} failed: {streak.reason}"
        else:
            lasted = now - streak.since
            text = (
                f"{self._label(operation)} has been failing for {lasted:.0f} s, {streak.failures} times in a row: "
                f"{streak.reason}"
            )
        if defect is not None and logged_at is None:
            _logger.error("%s\n%s", text, _as_text("".join(traceback.format_exception(error))))
        else:
            _logger.warning("%s", text)

    def succeeded(self, operation: str) -> None:
        streak = self._streaks.pop(operation, None)
        if streak is not None and streak.logged:
            _logger.warning(
                "%s works again after %.1f s and %d failures",
                self._label(operation),
                self._clock() - streak.since,
                streak.failures,
            )

    def note_raised(self, operation: str, error: BaseException) -> None:
        """The operation lets this error through; if nobody handles it, it ends the part and is this operation's."""
        self._raised = (id(error), operation)

    def ended_by(self, error: BaseException) -> None:
        """The part's `run` raised this."""
        by, operation = self._raised or (0, RUN)
        self._raised = None
        self.failed(operation if by == id(error) else RUN, error)

    def reasons(self, after_s: float = FAILING_AFTER_S) -> list[str]:
        """One sentence for each operation that has been failing for as long."""
        now = self._clock()
        wall = datetime.now(UTC)
        return [
            f"{self._label(operation)} has been failing since {iso_millis(wall - timedelta(seconds=now - streak.since))}: "
            f"{streak.reason}"
            for operation, streak in self._streaks.items()
            if now - streak.since >= after_s and not streak.harmless
        ]

    def _label(self, operation: str) -> str:
        if not self.name:
            return operation
        return self.name if operation == RUN else f"{self.name}: {operation}"


class Failures:
    """Of all parts of one process."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._parts: dict[str, PartFailures] = {}

    def __iter__(self) -> Iterator[PartFailures]:
        return iter(self._parts.values())

    def part(self, name: str) -> PartFailures:
        if name not in self._parts:
            self._parts[name] = PartFailures(name, self._clock)
        return self._parts[name]

    def reasons(self, after_s: float = FAILING_AFTER_S) -> list[str]:
        found = [sentence for part in self for sentence in part.reasons(after_s)]
        # Parts that share too few connections fail and recover in turns, so that none of them fails for long.
        refused = [part for part in self if part.refused_at is not None]
        last = max(refused, key=lambda part: part.refused_at or 0.0, default=None)
        if last and last.refused_at is not None and self._clock() - last.refused_at < REFUSED_FOR_S:
            found.append(last.refusal)
        return found


_part: ContextVar[PartFailures | None] = ContextVar("part", default=None)


def enter_part(part: PartFailures) -> None:
    """From here on this task, and the tasks that it starts, report to this part."""
    _part.set(part)


def current_part() -> PartFailures:
    """Outside of every part: a new one without a name, which logs and is forgotten."""
    return _part.get() or PartFailures("")


def failed(operation: str, error: BaseException, about: str = "", *, harmless: bool = False) -> None:
    current_part().failed(operation, error, about, harmless=harmless)


def succeeded(operation: str) -> None:
    part = _part.get()
    if part is not None and part.any:
        part.succeeded(operation)


@contextmanager
def carrying_on(operation: str, about: str = "") -> Iterator[None]:
    """Reports an error and swallows it: that it is tried again is up to the caller."""
    try:
        yield
    except Exception as error:  # noqa: BLE001  whatever it is, it is reported
        failed(operation, error, about)
    else:
        succeeded(operation)


def reason_of(error: BaseException) -> str:
    """One sentence, fit for whoever may see whether a worker is ready: no password, and nothing of the data."""
    return _PASSWORD.sub("//…@", " ".join(_as_text(_words(error)).split()))[:_LONGEST_REASON]


def _as_text(said: str) -> str:
    """An error may quote what no log can hold."""
    return said.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")


def _words(error: BaseException) -> str:
    name = type(error).__name__
    if isinstance(error, asyncpg.TooManyConnectionsError):
        return (
            f"the database refuses more connections ({error.args[0]}): raise max_connections, or the CONNECTION LIMIT "
            "of the role or the database; or lower DURO_DATABASE_CONNECTIONS or the number of workers"
        )
    if isinstance(error, asyncpg.PostgresError):
        state = error.sqlstate or ""
        if state.startswith(_DATA_CLASSES):
            return f"the database refused the data ({name}, SQLSTATE {state})"
        return f"{error.args[0] if error.args else name} (SQLSTATE {state})"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError | DuroError) or type(error) in (
        asyncpg.InterfaceError,
        asyncpg.InternalClientError,
    ):
        return str(error) or name
    return f"{name}; the log has its traceback"
