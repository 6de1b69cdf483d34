"""Tracks since when and why the operations of a part fail, for readiness, metrics and the log.

      well ──failed()──► failing ──failed()──► failing      a streak: logged when it begins, with the traceback of a
        ▲                   │                               defect, and then once a minute at most
        └────succeeded()────┘                               logged, with how long it lasted, if its failures were

The supervisor sets the part in the context of its task, and tasks that the part starts inherit it. So code
that catches an error and continues reports it with `failed`, and needs to know only the name of its own
operation. Code that reports failures of an operation must also report its successes, or the operation counts
as failing forever. Names of operations are constants without ids or URLs.
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

from schema.connections.error_kinds import DATA_CLASSES, is_transient, needs_operator
from schema.errors import DuroError
from schema.timestamps import iso_millis

FAILING_AFTER_S: Final = 10.0
"""How long a part may fail before its worker is not ready.

Longer than the first refusals of a failover, a deadlock or a restart of the part, and as long as a take-over
of its work by other workers may take.
"""
LOG_EVERY_S: Final = 60.0
REFUSED_FOR_S: Final = 30.0
"""How long the last refusal of a connection is reported: longer than the longest pause between two tries."""
RUN: Final = "run"
"""The operation name for errors outside any named operation."""
_LONGEST_REASON: Final = 300
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
    """The failures of one part. `name` is empty for code that no supervisor runs."""

    def __init__(self, name: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.name = name
        self.total = 0
        self._clock = clock
        self._streaks: dict[str, _Streak] = {}
        self._logged_at: dict[tuple[str, type[BaseException] | None], float] = {}
        self._raised: tuple[int, str] | None = None
        self.refused_at: float | None = None
        """When the database last refused a connection because of its limit."""
        self.refusal = ""

    @property
    def any(self) -> bool:
        return bool(self._streaks)

    @property
    def failing_seconds(self) -> float:
        """Returns for how long the longest-failing operation has been failing; 0 if none is."""
        now = self._clock()
        return max((now - streak.since for streak in self._streaks.values()), default=0.0)

    def failed(
        self, operation: str, error: BaseException, about: str = "", *, harmless: bool = False
    ) -> None:
        """`about` names the item, if the operation handles many. `harmless`: the part still does its work, so
        readiness does not change.
        """
        now = self._clock()
        streak = self._streaks.setdefault(operation, _Streak(now))
        streak.failures += 1
        streak.harmless = harmless
        streak.reason = f"{about}: {reason_of(error)}" if about else reason_of(error)
        self.total += 1
        if isinstance(error, asyncpg.TooManyConnectionsError):
            self.refused_at, self.refusal = now, reason_of(error)
        # Per error class only for defects, so that each logs its traceback. One outage raises errors of many
        # classes.
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
        """The operation raises this error. If the error ends the part, it counts for this operation."""
        self._raised = (id(error), operation)

    def ended_by(self, error: BaseException) -> None:
        """The part's `run` raised this."""
        by, operation = self._raised or (0, RUN)
        self._raised = None
        self.failed(operation if by == id(error) else RUN, error)

    def reasons(self, after_s: float = FAILING_AFTER_S) -> list[str]:
        """Returns one sentence per operation that has been failing for at least `after_s`."""
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
    """The failures of all parts of one process."""

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
        # Parts that share too few connections fail and recover alternately, so none of them fails for long.
        refused = [part for part in self if part.refused_at is not None]
        last = max(refused, key=lambda part: part.refused_at or 0.0, default=None)
        if last and last.refused_at is not None and self._clock() - last.refused_at < REFUSED_FOR_S:
            found.append(last.refusal)
        return found


_part: ContextVar[PartFailures | None] = ContextVar("part", default=None)


def enter_part(part: PartFailures) -> None:
    """Makes this task, and the tasks that it starts, report to this part."""
    _part.set(part)


def current_part() -> PartFailures:
    """Returns the current part; outside any part a new one without a name, which only logs."""
    return _part.get() or PartFailures("")


def failed(operation: str, error: BaseException, about: str = "", *, harmless: bool = False) -> None:
    current_part().failed(operation, error, about, harmless=harmless)


def succeeded(operation: str) -> None:
    part = _part.get()
    if part is not None and part.any:
        part.succeeded(operation)


@contextmanager
def carrying_on(operation: str, about: str = "") -> Iterator[None]:
    """Reports an error and suppresses it. The caller decides whether to retry."""
    try:
        yield
    except Exception as error:  # noqa: BLE001  every error is reported
        failed(operation, error, about)
    else:
        succeeded(operation)


def reason_of(error: BaseException) -> str:
    """Returns one sentence for the readiness endpoint, without passwords and data."""
    return _PASSWORD.sub("//…@", " ".join(_as_text(_words(error)).split()))[:_LONGEST_REASON]


def _as_text(message: str) -> str:
    """Escapes characters that a log cannot contain."""
    return message.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")


def _words(error: BaseException) -> str:
    name = type(error).__name__
    if isinstance(error, asyncpg.TooManyConnectionsError):
        return (
            f"the database refuses more connections ({error.args[0]}): raise max_connections, or the CONNECTION LIMIT "
            "of the role or the database; or lower DURO_DATABASE_CONNECTIONS or the number of workers"
        )
    if isinstance(error, asyncpg.PostgresError):
        state = error.sqlstate or ""
        if state.startswith(DATA_CLASSES):
            return f"the database refused the data ({name}, SQLSTATE {state})"
        advice = (
            ": run duro migrate with this DURO_SECRET_KEY"
            if type(error) is asyncpg.InvalidPasswordError
            else ""
        )
        return f"{error.args[0] if error.args else name} (SQLSTATE {state}){advice}"
    if isinstance(error, TimeoutError):
        return "timed out"
    if isinstance(error, OSError | DuroError) or type(error) in (
        asyncpg.InterfaceError,
        asyncpg.InternalClientError,
    ):
        return str(error) or name
    return f"{name}; the log has its traceback"
