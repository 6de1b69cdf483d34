"""Deletes a month of events while producers work, so that nothing is added between the last check and the drop:

      seal events                    waits for open writers; after it no event can be added to the month
              │
      check: every consumer has applied them, so no new deliveries are made ── no ──► unseal: kept
              │
      seal deliveries                none can become pending any more; pending ones continue as usual
              │
      check again, which now stays true ── something needs it ──► unseal: kept
              │
      record it in retired_months    in the transaction of the check, which excludes new rebuilds. From its commit on the
              │                      month counts as deleted and positions say so. The next run finishes a run that
              │                      dies after it
      for events, event_log, webhook_deliveries, webhook_attempts:
              detach, concurrently   waits for users of the parent and blocks none of them
              count again            a number other than recorded: stop and drop nothing
              drop

A seal refuses only what is new in the month: a back-dated event, a replay, a backfill. It never refuses a worker's change
of existing rows: such a statement covers many months and would fail for all.

Events are dropped before event_log: after a restore, sequence_restored_events would give an event without a position a second
one. A run that fails before the record unseals. A killed run leaves a sealed month, which the next run unseals first, or a
worker within half a minute (unseal_leftovers).

What is emptied instead of dropped is emptied in one transaction under one partition's lock, which checks again. Locks that
could block others are requested in short attempts.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Final

import asyncpg

from schema.connections.database import Executor
from schema.errors import Conflict
from schema.modes import Mode
from schema.queries import load
from schema.retention.retention_rules import (
    DELIVERIES,
    EVENTS,
    Ages,
    Candidate,
    Deletion,
    Facts,
    Month,
    RowKind,
    candidates,
    facts_of,
    monthly_partitions,
    reasons_to_keep,
)

_SQL = load("retention")
_DDL = load("retention_ddl")
_SHORT: Final = "100ms"  # others queue behind this request
_LONG: Final = "2s"  # no one queues behind this request
_PAUSE_S: Final = 0.2
_SEALED: Final = ("events", "webhook_deliveries")

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result for a candidate, or the planned one."""

    mode: Mode
    candidate: Candidate
    kept: Sequence[str]
    """Reasons why it is kept; empty if it is deleted."""

    @property
    def freed(self) -> int:
        return 0 if self.kept else self.candidate.bytes


@asynccontextmanager
async def exclusive_run(lock_holder: asyncpg.Connection) -> AsyncIterator[None]:
    """Excludes other runs in this database. Raises Conflict if one is running.

    An idle transaction of `lock_holder` holds the lock, so that connection is reserved meanwhile.
    """
    await lock_holder.execute(_SQL["disable_time_limits"])
    transaction = lock_holder.transaction()
    await transaction.start()
    try:
        try:
            await lock_holder.execute(_SQL["lock"])
        except asyncpg.LockNotAvailableError:
            raise Conflict(
                "Another duro retention run is running in this database: wait until it ends."
            ) from None
        yield
    finally:
        with suppress(
            OSError, asyncpg.PostgresError, asyncpg.InterfaceError
        ):  # then the lock is free already
            await transaction.rollback()


async def unseal_leftovers(worker: Executor) -> int:
    """Unseals partitions that a killed run left sealed; returns how many. Does nothing while a run is active."""
    opened: int = await worker.fetchval(_SQL["unseal_leftovers"])
    return opened


class RetentionRun:
    """Deletes months of one mode, through the owner's connection."""

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
        """Yields what a run would do, changing nothing."""
        await self._enter()
        async for outcome in self._each(self._check):
            yield outcome

    async def run(self) -> AsyncIterator[Outcome]:
        """Deletes. Raises Conflict when it is blocked for too long or finds an unexpected state; it can then be run again."""
        await self._enter()
        await self._finish_earlier_runs()
        await self._unseal_leftovers()
        async for outcome in self._each(self._apply):
            yield outcome

    async def _enter(self) -> None:
        await self._owner.execute(f"SET search_path = {self._mode.schema}, pg_temp")
        await self._owner.execute("SET timezone = 'UTC'")
        await self._owner.execute("SET plan_cache_mode = force_custom_plan")  # plans depend on the month
        # The server ends the long check of a killed run.
        await self._owner.execute("SET client_connection_check_interval = '1s'")

    async def _each(self, process: Callable[[Candidate], Awaitable[list[str]]]) -> AsyncIterator[Outcome]:
        now = await self._owner.fetchval(_SQL["now"])
        kept_since: dict[RowKind, Month] = {}
        done: dict[tuple[Month, bool], RowKind] = {}
        for planned in candidates(await monthly_partitions(self._owner), self._ages, now):
            rows = (planned.month, planned.kind is RowKind.ACTIVITY)
            stays = planned.after_events and done.get((planned.month, False)) is not RowKind.EVENTS
            candidate = planned.emptied() if stays else planned
            if candidate is None or rows in done:
                continue
            if older := kept_since.get(candidate.kind):
                reasons = [f"{older} is older and is kept"]
            elif not (reasons := await process(candidate)):
                done[rows] = candidate.kind
            if reasons:
                kept_since.setdefault(candidate.kind, candidate.month)
            yield Outcome(self._mode, candidate, reasons)

    async def _check(self, candidate: Candidate) -> list[str]:
        if candidate.half_attached:
            return [candidate.half_attached]
        return reasons_to_keep(await facts_of(self._owner, candidate.month), candidate.kind, self._mode)

    async def _apply(self, candidate: Candidate) -> list[str]:
        self._report(candidate.month, "checking")
        if reasons := await self._check(candidate):
            return reasons
        if candidate.deletion is Deletion.EMPTY:
            return await self._empty(candidate)
        if candidate.kind is RowKind.ACTIVITY:
            for partition in candidate.partitions:
                await self._with_retries(partition.name, _SHORT, partial(self._drop, partition.name))
            return []
        return await self._retire(candidate)

    # A month of events

    async def _retire(self, candidate: Candidate) -> list[str]:
        month = candidate.month
        tables = [partition.name for partition in candidate.partitions]
        try:
            await self._seal(candidate, "events", _LONG)
            reasons = reasons_to_keep(await facts_of(self._owner, month), candidate.kind, self._mode)
            if not reasons:
                await self._seal(candidate, "webhook_deliveries", _SHORT)
                facts, reasons = await self._note(candidate, tables)
        except BaseException:  # also after the end of the connection; then the next run unseals
            with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError, Conflict):
                await self._unseal_leftovers()
            raise
        if reasons:
            await self._unseal_leftovers()
        else:
            await self._finish(month, facts.events, tables)
        return reasons

    async def _seal(self, candidate: Candidate, parent: str, wait: str) -> None:
        for partition in candidate.partitions:
            if partition.parent == parent:
                await self._with_retries(
                    partition.name, wait, partial(self._owner.execute, _SQL["seal"], partition.name)
                )

    async def _unseal_leftovers(self) -> None:
        for row in await self._owner.fetch(_SQL["sealed_leftovers"]):
            name = row["relname"]
            await self._with_retries(name, _SHORT, partial(self._owner.execute, _SQL["unseal"], name))

    async def _note(self, candidate: Candidate, tables: Sequence[str]) -> tuple[Facts, list[str]]:
        """Checks for the last time and, if nothing needs the month, records it, in one transaction."""
        month = candidate.month
        async with self._owner.transaction():
            await self._owner.execute("SET LOCAL lock_timeout = 0")  # this lock is never held for long
            await self._owner.execute(_SQL["lock_retired_months"])
            facts = await facts_of(self._owner, month)
            reasons = reasons_to_keep(facts, candidate.kind, self._mode)
            if not reasons:
                await self._require_sealed(candidate)
                await self._owner.execute(
                    _SQL["begin_retiring"], month.first, facts.last_pos, facts.events, tables
                )
        return facts, reasons

    async def _require_sealed(self, candidate: Candidate) -> None:
        sealed = [each.name for each in candidate.partitions if each.parent in _SEALED]
        if not await self._owner.fetchval(_SQL["still_sealed"], sealed):
            raise Conflict(
                f"{self._mode} {candidate.month} was unsealed during the check because this run lost its lock: run this again."
            )

    async def _finish_earlier_runs(self) -> None:
        for row in await self._owner.fetch(_SQL["unfinished_months"]):
            self._report(month := Month(row["month"]), "finishing an earlier run")
            await self._finish(month, row["events"], row["tables"])

    async def _finish(self, month: Month, events: int, tables: Sequence[str]) -> None:
        for parent in (*EVENTS, *DELIVERIES):
            name = f"{parent}_{month.suffix}"
            if name not in tables:
                continue
            await self._detach(parent, name)
            if await self._state(name):
                if parent in EVENTS:
                    await self._require_unchanged(name, events)
                self._report(month, f"dropping {name}")
                await self._with_retries(name, _LONG, partial(self._drop, name))
        await self._owner.execute(_SQL["finish_retiring"], month.first)

    async def _detach(self, parent: str, name: str) -> None:
        async def detach() -> None:
            match await self._state(name):
                case "attached":
                    await self._owner.execute(_named("detach", name, parent))
                case "pending":
                    await self._owner.execute(_named("finish_detaching", name, parent))

        await self._with_retries(name, _LONG, detach)

    async def _require_unchanged(self, name: str, events: int) -> None:
        found = await self._owner.fetchval(_named("count", name))
        if found not in {0, events}:  # 0: nothing can be lost
            raise Conflict(
                f"{self._mode.schema}.{name} has {found} rows but had {events} when it was sealed, so its seal was bypassed: "
                "it is detached and will not be dropped; move the new rows elsewhere, then run this again."
            )

    async def _drop(self, name: str) -> None:
        await self._owner.execute(_named("drop", name))

    # Emptying

    async def _empty(self, candidate: Candidate) -> list[str]:
        reasons: list[str] = []

        async def empty() -> None:
            async with self._owner.transaction():
                await self._owner.execute(_SQL["limit_statement_time"])
                # Deliveries first: the order in which workers settle.
                for partition in sorted(candidate.partitions, key=lambda each: each.parent, reverse=True):
                    await self._owner.execute(_named("lock", partition.name))
                await self._owner.execute(_SQL["prefer_indexes"])
                reasons.extend(await self._recheck(candidate))
                if reasons:
                    return
                for partition in candidate.partitions:
                    await self._owner.execute(_SQL["truncate"], partition.name)

        self._report(candidate.month, "emptying")
        try:
            await self._with_retries(candidate.partitions[0].name, _SHORT, empty)
        except asyncpg.QueryCanceledError:
            return ["it took too long and would block others: run this again at a quieter time"]
        return reasons

    async def _recheck(self, candidate: Candidate) -> list[str]:
        """Checks under the lock for changes since the first check."""
        if candidate.kind is RowKind.ACTIVITY:
            return []
        span = (candidate.month.start, candidate.month.end)
        if await self._owner.fetchval(_SQL["has_pending_delivery"], *span):
            return ["a delivery has just become pending"]
        if await self._owner.fetchval(_SQL["has_unfolded_attempt"], *span):
            return ["an attempt has just been made"]
        return []

    # Waiting

    async def _state(self, name: str) -> str | None:
        row = await self._owner.fetchrow(_SQL["partition_state"], name)
        return row["state"] if row else None

    async def _with_retries(self, name: str, wait: str, action: Callable[[], Awaitable[object]]) -> None:
        """Repeats an action until its lock is granted. Raises Conflict after `patience_s`."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self._patience_s
        await self._owner.execute(f"SET lock_timeout = '{wait}'")
        while True:
            try:
                await action()
            except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError):
                if loop.time() > until:
                    raise Conflict(await self._blockers(name)) from None
                self._progress(f"{self._mode}: waiting for transactions that use {name}")
                await asyncio.sleep(_PAUSE_S)
            else:
                return

    async def _blockers(self, name: str) -> str:
        row = await self._owner.fetchrow(_SQL["oldest_transaction"])
        oldest = (
            f" (the oldest has been open for {row['seconds']:.0f} s, process {row['pid']})"
            if row and row["seconds"] is not None
            else ""
        )
        return (
            f"Transactions have blocked {self._mode.schema}.{name} for {self._patience_s:.0f} s{oldest}: "
            "run this again when they have ended; it continues where it stopped."
        )

    def _report(self, month: Month, what: str) -> None:
        self._progress(f"{self._mode} {month}: {what}")


def _named(statement: str, partition: str, parent: str = "") -> str:
    return _DDL[statement].replace(":partition", partition).replace(":parent", parent)
