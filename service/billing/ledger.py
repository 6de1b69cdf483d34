"""A transaction of the billing engine: a change and its events commit together, or neither does.

    async def work(unit): keys = await billing_cases.lock_due(unit.tx, …); …; await unit.write(changes)
    await ledger.transact(work)

After a transient error (a deadlock, a cut connection) the work is repeated from the start, a few times. It is not repeated
when the answer to its COMMIT was lost: to subscribe twice is to charge twice. Then the server is asked for the outcome:

    COMMIT ── no answer ──► committed ──► the result, as if the answer had come
                    │  └──► aborted ────► the work is repeated
                    └─────► unknown for too long ──► CommitInDoubt; nothing is repeated here
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, TypeAlias, TypeVar
from uuid import UUID

from tenacity import (
    AsyncRetrying,
    retry_if_exception,
    retry_if_exception_type,
    retry_if_result,
    stop_after_attempt,
    wait_random_exponential,
)

from schema.billing import billing_cases
from schema.billing.billing_cases import Changes, Fact, Key
from schema.billing.rows import PaymentAttempt
from schema.connections.database import Connection, Pool
from schema.connections.error_kinds import is_query_canceled, is_transient
from service.billing.clock import Clock

T = TypeVar("T")
TRIES: Final = 4
ASK_FOR_S: Final = 15.0
"""How long to ask for a COMMIT's outcome: longer than a session can stay in a transaction after its client is gone."""


class CommitInDoubt(ConnectionError):
    """It is unknown whether the transaction took effect. A caller that would repeat an effect must not continue; one that
    reads the state first, as a scanner does, may."""


@dataclass(slots=True)
class Unit:
    """An open transaction. Everything written in it carries one time."""

    tx: Connection
    now: datetime
    moment: Callable[[], datetime | None]
    """See Clock."""
    locked: Sequence[Key] = ()
    """The subscriptions that the work has locked, to name the one that it fails for."""
    done: int = 0
    """How many of them had something to do."""
    recorded: list[tuple[UUID, Fact]] = field(default_factory=list)
    """Ids of the events, in order."""

    async def write(self, changes: Changes) -> list[PaymentAttempt]:
        """The attempts that are in flight once this is committed."""
        begun, facts = await billing_cases.write(self.tx, changes)
        await self.record(facts)
        return begun

    async def record(self, facts: Sequence[Fact]) -> None:
        if facts:
            ids = await billing_cases.record(self.tx, facts, [self.moment() for _ in facts])
            self.recorded += zip(ids, facts, strict=True)


Work: TypeAlias = Callable[[Unit], Awaitable[T]]


class Ledger:
    """Transactions of one mode."""

    def __init__(self, pool: Pool, clock: Clock) -> None:
        self.pool = pool
        self.clock = clock

    async def transact(self, work: Work[T]) -> T:
        async for attempt in AsyncRetrying(
            retry=retry_if_exception(_may_be_repeated),
            wait=wait_random_exponential(multiplier=0.02, max=1),
            stop=stop_after_attempt(TRIES),
            reraise=True,
        ):
            with attempt:
                return await self.once(work)
        raise AssertionError("tenacity ends with a result or an error")

    async def once(self, work: Work[T]) -> T:
        written: str | None = None
        try:
            async with self.pool.acquire() as tx, tx.transaction():
                unit = Unit(tx, await self.clock.now(tx), self.clock.moment)
                result = await work(unit)
                await self.committing(unit)
                written = await billing_cases.transaction_id(tx)
        except Exception as error:
            if written is None or not is_transient(error) or not await self._took_effect(written, error):
                raise
        self.committed(unit)
        return result

    async def _took_effect(self, transaction: str, lost: Exception) -> bool:
        """Raises CommitInDoubt."""
        asking = AsyncRetrying(
            retry=retry_if_exception_type(Exception) | retry_if_result(lambda effect: effect is None),
            wait=wait_random_exponential(multiplier=0.02, max=1),
        )
        try:
            async with asyncio.timeout(ASK_FOR_S):
                return bool(await asking(billing_cases.took_effect, self.pool, transaction))
        except TimeoutError:
            raise CommitInDoubt("The connection was lost during COMMIT and the outcome is unknown.") from lost

    async def committing(self, unit: Unit) -> None:
        """Called before a transaction commits; for subclasses."""

    def committed(self, unit: Unit) -> None:
        """Called after each committed transaction; for subclasses."""


def _may_be_repeated(error: BaseException) -> bool:
    """A statement that timed out would do so again with the same amount of work."""
    return is_transient(error) and not is_query_canceled(error) and not isinstance(error, CommitInDoubt)
