"""How a month of events goes, with producers at work, so that nothing slips in between the last look and the drop:

      seal events                    whoever wrote to them has ended, nobody can any more
              │
      look again: all are applied, so nobody makes deliveries of them any more ── or not ──► unseal: kept
              │
      seal deliveries                none becomes pending any more; those that are go on as ever
              │
      look again, which now stays true ── somebody needs it ──► unseal: kept
              │
      note it in retired_months      in the transaction of the look, which no rebuild begins in; from its commit on the
              │                      month is as good as gone, and positions tell so; a run that dies after it is
              │                      finished by the next one
      for events, event_log, webhook_deliveries, webhook_attempts:
              detach, concurrently   waits for those who use the parent, holds up none of them
              count once more        another number than was noted: stop, and drop nothing
              drop

Whoever is sealed out is somebody who brings something new: who dates an event back, a replay, a backfill. What workers do with
what is there is never refused: a statement of theirs is about many months, and would fail for all.

Events go before event_log: an event without a position would get a second one after a restore (sequence_restored_events
looks for what has none). A run that fails or is stopped before the note unseals; one that is killed leaves a sealed month,
which the next one unseals first, or a worker within half a minute (open_what_was_left_sealed).

What is emptied instead of dropped is one transaction under one partition's lock, and asks again inside it. Locks that could
hold others up are waited for in short tries.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Final

import asyncpg

from schema.database import Executor
from schema.errors import Conflict
from schema.modes import Mode
from schema.queries import load
from schema.retention import (
    DELIVERIES,
    EVENTS,
    Ages,
    Candidate,
    Facts,
    Fate,
    Month,
    Rules,
    candidates,
    facts_of,
    monthly_partitions,
    reasons_to_keep,
)

_SQL = load("retention")
_DDL = load("retiring")
_SHORT: Final = "100ms"  # others stand behind us in the queue for as long
_LONG: Final = "2s"  # nobody does
_PAUSE_S: Final = 0.2
_SEALED: Final = ("events", "webhook_deliveries")

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a candidate, or would."""

    mode: Mode
    candidate: Candidate
    kept: Sequence[str]
    """Why; nothing: it went."""

    @property
    def freed(self) -> int:
        return 0 if self.kept else self.candidate.bytes


@asynccontextmanager
async def only_one(keeper: asyncpg.Connection) -> AsyncIterator[None]:
    """Raises Conflict while another run is at it in this database.

    A transaction of `keeper` holds the lock, and is idle: that is all this connection is for meanwhile.
    """
    await keeper.execute(_SQL["stay"])
    transaction = keeper.transaction()
    await transaction.start()
    try:
        try:
            await keeper.execute(_SQL["lock"])
        except asyncpg.LockNotAvailableError:
            raise Conflict(
                "Another duro retention run is at work in this database: wait for it to end."
            ) from None
        yield
    finally:
        with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):  # then it is free already
            await transaction.rollback()


async def open_what_was_left_sealed(worker: Executor) -> int:
    """What a run that was killed before its note left sealed: how many partitions were. None while one is at work."""
    opened: int = await worker.fetchval(_SQL["open_what_was_left_sealed"])
    return opened


class Retiring:
    """One mode's months, through the owner's connection."""

    def __init__(
        self,
        owner: asyncpg.Connection,
        mode: Mode,
        ages: Ages,
        *,
        progress: Progress = lambda _line: None,
        patience_s: float = 60.0,
    ) -> None:
        self._owner = owner
        self._mode = mode
        self._ages = ages
        self._progress = progress
        self._patience_s = patience_s

    async def plan(self) -> AsyncIterator[Outcome]:
        """What a run would do, changing nothing."""
        await self._enter()
        async for outcome in self._each(self._would):
            yield outcome

    async def run(self) -> AsyncIterator[Outcome]:
        """Raises Conflict when something holds it up for too long, or is not as it was left: run it again then."""
        await self._enter()
        await self._finish_what_was_begun()
        await self._unseal_what_was_left()
        async for outcome in self._each(self._do):
            yield outcome

    async def _enter(self) -> None:
        await self._owner.execute(f"SET search_path = {self._mode.schema}, pg_temp")
        await self._owner.execute("SET timezone = 'UTC'")
        await self._owner.execute("SET plan_cache_mode = force_custom_plan")  # for the month at hand
        # A run that is killed is not to be at work for the server until its long look has ended.
        await self._owner.execute("SET client_connection_check_interval = '1s'")

    async def _each(self, deal_with: Callable[[Candidate], Awaitable[list[str]]]) -> AsyncIterator[Outcome]:
        now = await self._owner.fetchval(_SQL["now"])
        kept_since: dict[Rules, Month] = {}
        done: dict[tuple[Month, bool], Rules] = {}
        for planned in candidates(await monthly_partitions(self._owner), self._ages, now):
            rows = (planned.month, planned.rules is Rules.ACTIVITY)
            stays = planned.after_events and done.get((planned.month, False)) is not Rules.EVENTS
            candidate = planned.emptied() if stays else planned
            if candidate is None or rows in done:
                continue
            if older := kept_since.get(candidate.rules):
                reasons = [f"{older} is kept, and is older"]
            elif not (reasons := await deal_with(candidate)):
                done[rows] = candidate.rules
            if reasons:
                kept_since.setdefault(candidate.rules, candidate.month)
            yield Outcome(self._mode, candidate, reasons)

    async def _would(self, candidate: Candidate) -> list[str]:
        if candidate.torn:
            return [candidate.torn]
        return reasons_to_keep(await facts_of(self._owner, candidate.month), candidate.rules, self._mode)

    async def _do(self, candidate: Candidate) -> list[str]:
        self._tell(candidate.month, "looking")
        if reasons := await self._would(candidate):
            return reasons
        if candidate.fate is Fate.EMPTY:
            return await self._empty(candidate)
        if candidate.rules is Rules.ACTIVITY:
            for partition in candidate.partitions:
                await self._patiently(partition.name, _SHORT, partial(self._drop, partition.name))
            return []
        return await self._retire(candidate)

    # A month of events

    async def _retire(self, candidate: Candidate) -> list[str]:
        month = candidate.month
        tables = [partition.name for partition in candidate.partitions]
        try:
            await self._seal(candidate, "events", _LONG)
            reasons = reasons_to_keep(await facts_of(self._owner, month), candidate.rules, self._mode)
            if not reasons:
                await self._seal(candidate, "webhook_deliveries", _SHORT)
                facts, reasons = await self._note(candidate, tables)
        except BaseException:  # the connection's end too, which leaves it to the next run
            with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError, Conflict):
                await self._unseal_what_was_left()
            raise
        if reasons:
            await self._unseal_what_was_left()
        else:
            await self._finish(month, facts.events, tables)
        return reasons

    async def _seal(self, candidate: Candidate, parent: str, wait: str) -> None:
        for partition in candidate.partitions:
            if partition.parent == parent:
                await self._patiently(
                    partition.name, wait, partial(self._owner.execute, _SQL["seal"], partition.name)
                )

    async def _unseal_what_was_left(self) -> None:
        for row in await self._owner.fetch(_SQL["sealed"]):
            name = row["relname"]
            await self._patiently(name, _SHORT, partial(self._owner.execute, _SQL["unseal"], name))

    async def _note(self, candidate: Candidate, tables: Sequence[str]) -> tuple[Facts, list[str]]:
        """The last look, and if nobody needs the month the note, in one."""
        month = candidate.month
        async with self._owner.transaction():
            await self._owner.execute("SET LOCAL lock_timeout = 0")  # nobody holds this one for long
            await self._owner.execute(_SQL["lock_book"])
            facts = await facts_of(self._owner, month)
            reasons = reasons_to_keep(facts, candidate.rules, self._mode)
            if not reasons:
                await self._require_sealed(candidate)
                await self._owner.execute(_SQL["begin"], month.first, facts.last_pos, facts.events, tables)
        return facts, reasons

    async def _require_sealed(self, candidate: Candidate) -> None:
        sealed = [each.name for each in candidate.partitions if each.parent in _SEALED]
        if not await self._owner.fetchval(_SQL["still_sealed"], sealed):
            raise Conflict(
                f"{self._mode} {candidate.month} was opened again while it was looked at, for this run has lost its lock: "
                "run this again."
            )

    async def _finish_what_was_begun(self) -> None:
        for row in await self._owner.fetch(_SQL["under_way"]):
            self._tell(month := Month(row["month"]), "finishing what an earlier run began")
            await self._finish(month, row["events"], row["tables"])

    async def _finish(self, month: Month, events: int, tables: Sequence[str]) -> None:
        for parent in (*EVENTS, *DELIVERIES):
            name = f"{parent}_{month.suffix}"
            if name not in tables:
                continue
            await self._detach(parent, name)
            if await self._state(name):
                if parent in EVENTS:
                    await self._require_as_it_was(name, events)
                self._tell(month, f"dropping {name}")
                await self._patiently(name, _LONG, partial(self._drop, name))
        await self._owner.execute(_SQL["finish"], month.first)

    async def _detach(self, parent: str, name: str) -> None:
        async def detach() -> None:
            match await self._state(name):
                case "attached":
                    await self._owner.execute(_named("detach", name, parent))
                case "pending":
                    await self._owner.execute(_named("finish_detaching", name, parent))

        await self._patiently(name, _LONG, detach)

    async def _require_as_it_was(self, name: str, events: int) -> None:
        found = await self._owner.fetchval(_named("count", name))
        if found not in {0, events}:  # 0: there is nothing to lose
            raise Conflict(
                f"{self._mode.schema}.{name} has {found} rows and had {events} when it was closed, so somebody went past "
                "its seal: it is detached and will not be dropped; move what is new elsewhere, then run this again."
            )

    async def _drop(self, name: str) -> None:
        await self._owner.execute(_named("drop", name))

    # What is emptied

    async def _empty(self, candidate: Candidate) -> list[str]:
        reasons: list[str] = []

        async def empty() -> None:
            async with self._owner.transaction():
                await self._owner.execute(_SQL["not_for_long"])
                # Deliveries first, as who settles.
                for partition in sorted(candidate.partitions, key=lambda each: each.parent, reverse=True):
                    await self._owner.execute(_named("lock", partition.name))
                await self._owner.execute(_SQL["by_index"])
                reasons.extend(await self._sudden_reasons(candidate))
                if reasons:
                    return
                for partition in candidate.partitions:
                    await self._owner.execute(_SQL["empty"], partition.name)

        self._tell(candidate.month, "emptying")
        try:
            await self._patiently(candidate.partitions[0].name, _SHORT, empty)
        except asyncpg.QueryCanceledError:
            return ["it took too long while others wait: run this again when there is less to do"]
        return reasons

    async def _sudden_reasons(self, candidate: Candidate) -> list[str]:
        """Asked under the lock: what may have come since the look."""
        if candidate.rules is Rules.ACTIVITY:
            return []
        span = (candidate.month.start, candidate.month.end)
        if await self._owner.fetchval(_SQL["waits_for_delivery"], *span):
            return ["a delivery has just become pending"]
        if await self._owner.fetchval(_SQL["waits_for_fold"], *span):
            return ["an attempt has just been made"]
        return []

    # Waiting

    async def _state(self, name: str) -> str | None:
        row = await self._owner.fetchrow(_SQL["state"], name)
        return row["state"] if row else None

    async def _patiently(self, name: str, wait: str, action: Callable[[], Awaitable[object]]) -> None:
        """Tries again while others are in the way; after long enough raises Conflict."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self._patience_s
        await self._owner.execute(f"SET lock_timeout = '{wait}'")
        while True:
            try:
                await action()
            except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError):
                if loop.time() > until:
                    raise Conflict(await self._who_is_in_the_way(name)) from None
                self._progress(f"{self._mode}: waiting for transactions that use {name}")
                await asyncio.sleep(_PAUSE_S)
            else:
                return

    async def _who_is_in_the_way(self, name: str) -> str:
        row = await self._owner.fetchrow(_SQL["oldest_transaction"])
        oldest = (
            f" (the oldest has been open for {row['seconds']:.0f} s, process {row['pid']})"
            if row and row["seconds"] is not None
            else ""
        )
        return (
            f"Transactions have been in the way of {self._mode.schema}.{name} for {self._patience_s:.0f} s{oldest}: "
            "run this again when they have ended; it goes on where it stopped."
        )

    def _tell(self, month: Month, what: str) -> None:
        self._progress(f"{self._mode} {month}: {what}")


def _named(statement: str, partition: str, parent: str = "") -> str:
    return _DDL[statement].replace(":partition", partition).replace(":parent", parent)
