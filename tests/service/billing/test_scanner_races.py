"""Scanners race: over the same subscriptions, for one period, and on contradictory rows.

The tests run statements one by one on their own connections.
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from types import MappingProxyType
from uuid import UUID

import asyncpg
import pytest

from schema.billing import billing_cases
from schema.billing.billing_cases import Changes, Overdue
from schema.billing.rows import DunningState, Status
from service.billing.decisions.invoicing import next_invoice
from service.billing.gateway.gateway import Outcome
from service.billing.ledger import Unit
from service.billing.scanning import Begin, recoveries, renewals
from tests.support.billing.billing_world import TenantBilling
from tests.support.database_waits import wait_until_blocked
from tests.support.servers.connections import SANDBOX, Connect

_PAUSE = 4711


async def due(billing: TenantBilling, count: int) -> list[UUID]:
    plan = await billing.plan(interval="week")
    subs = [await billing.subscribe(plan) for _ in range(count)]
    billing.clock.advance(billing.clock.time + timedelta(weeks=1))
    return subs


async def past_due(billing: TenantBilling, count: int) -> list[UUID]:
    """TenantFilter first recovery charge is due."""
    subs = await due(billing, count)
    billing.gateway.answers = lambda order: Outcome("processor_error") if order.number == 1 else None
    assert await billing.step("renewals") == count
    await billing.engine.charges.settled()
    return subs


async def unit(billing: TenantBilling, connect: Connect) -> Unit:
    """A transaction that has begun."""
    connection = await connect(SANDBOX)
    await connection.execute("BEGIN")
    return Unit(connection, billing.clock.time, billing.clock.moment)


async def test_two_scanners_share_the_due_work_without_waiting(
    billing: TenantBilling, connect: Connect
) -> None:
    subs = await due(billing, 5)
    one, two = await unit(billing, connect), await unit(billing, connect)
    first = await billing_cases.lock_due(one.tx, Status.ACTIVE, one.now, 3)
    second = await billing_cases.lock_due(two.tx, Status.ACTIVE, two.now, 3)
    assert (len(first), len(second)) == (3, 2)
    assert {id_ for _, id_ in [*first, *second]} == set(subs)


RACES: list[tuple[str, Begin, Callable[[TenantBilling, int], Awaitable[list[UUID]]]]] = [
    ("lock_due", renewals(Status.ACTIVE), due),
    ("lock_recovering", recoveries(DunningState.WAITING), past_due),
]


@pytest.mark.parametrize(("lock", "begin", "prepare"), RACES, ids=[race[0] for race in RACES])
async def test_a_charge_begun_by_another_scanner_is_not_begun_twice(
    billing: TenantBilling,
    connect: Connect,
    owner: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
    lock: str,
    begin: Begin,
    prepare: Callable[[TenantBilling, int], Awaitable[list[UUID]]],
) -> None:
    """The locked row has not changed, so it can be locked. Only its related rows show that a charge is in
    flight. The second scanner's statement waits between its read and its lock until the first has committed.
    """
    await prepare(billing, 3)
    one, two = await unit(billing, connect), await unit(billing, connect)
    assert len(await begin(one, 10)) == 3
    await owner.execute("SELECT pg_advisory_lock($1)", _PAUSE)
    paused = billing_cases._SQL[lock].replace(" ORDER BY", f" AND {standing_still()} ORDER BY", 1)
    with monkeypatch.context() as slow:
        slow.setattr(billing_cases, "_SQL", MappingProxyType({**billing_cases._SQL, lock: paused}))
        second: asyncio.Task[list[Overdue]] = asyncio.create_task(begin(two, 10))
        await wait_until_blocked(owner, two.tx)
        await one.tx.execute("COMMIT")
        await owner.execute("SELECT pg_advisory_unlock($1)", _PAUSE)
        assert await second == []
    assert len(two.locked) == 3, "otherwise this test has shown nothing"
    assert two.recorded == []


def standing_still() -> str:
    return f"(SELECT count(*) FROM pg_advisory_xact_lock_shared({_PAUSE})) = 1"


async def test_a_second_invoice_of_a_period_is_rejected(
    billing: TenantBilling, connect: Connect, owner: asyncpg.Connection
) -> None:
    """Two scanners decide on the same reading and write concurrently, as if there were no locks."""
    (sub,) = await due(billing, 1)
    one, two = await unit(billing, connect), await unit(billing, connect)
    (case,) = await billing_cases.cases(one.tx, [(billing.tenant, sub)])
    assert len(await one.write(Changes(new_invoices=[next_invoice(case, one.now)]))) == 1
    second = asyncio.create_task(two.write(Changes(new_invoices=[next_invoice(case, two.now)])))
    await wait_until_blocked(owner, two.tx)
    await one.tx.execute("COMMIT")
    assert await second == []
    assert two.recorded == []
    await two.tx.execute("COMMIT")
    assert (await billing.types()).count("invoice_created") == 2
    assert len(await billing.payments()) == 2


async def test_a_period_with_an_invoice_is_held_and_not_charged(
    billing: TenantBilling, owner: asyncpg.Connection
) -> None:
    """The invoice is paid but the period has not moved. duro never writes that, so an operator must check it."""
    subs = await due(billing, 3)
    await billing.scan()
    before = await billing.subscription(subs[1])
    await owner.execute(
        "UPDATE subscriptions SET period = 0, current_period_start = anchor, current_period_end = current_period_start"
        " WHERE id = $1",
        subs[1],
    )
    asked = billing.gateway.charged.total()
    assert await billing.step("renewals") == 1
    await billing.engine.charges.settled()
    assert billing.gateway.charged.total() == asked
    (held,) = await billing_cases.held(billing.pool, billing.clock.time, 10)
    assert (held.id, held.fault) == (
        subs[1],
        "renewals: InvoiceExists: an unpaid period already has an invoice",
    )
    assert before.cycles == (await billing.subscription(subs[1])).cycles == 2


async def test_a_batch_of_answers_locks_subscriptions_in_order(
    billing: TenantBilling, connect: Connect, owner: asyncpg.Connection
) -> None:
    """The order of the answers does not matter, so two batches cannot deadlock."""
    subs = sorted(await due(billing, 4))
    attempts = sorted(await billing.payments(), key=lambda attempt: attempt.subscription_id)
    one, two = await unit(billing, connect), await unit(billing, connect)
    await billing_cases.lock(one.tx, billing.tenant, subs[0])
    waiting = asyncio.create_task(billing_cases.lock_of_attempts(two.tx, attempts[::-1]))
    await wait_until_blocked(owner, two.tx)
    assert [await billing_cases.lock(one.tx, billing.tenant, sub) for sub in subs[1:]]
    await one.tx.execute("COMMIT")
    assert [id_ for _, id_ in await waiting] == subs


async def test_a_release_locks_subscriptions_in_order(
    billing: TenantBilling, connect: Connect, owner: asyncpg.Connection
) -> None:
    """Expired holds are released while their subscriptions are charged.

    That must not deadlock with a batch of answers.
    """
    subs = sorted(await due(billing, 3))
    for nth, sub in enumerate(subs[::-1]):  # the last one's is the oldest, in the table and by its end
        until = billing.clock.time - timedelta(hours=9 - nth)
        await billing_cases.hold(billing.pool, [(billing.tenant, sub)], until, "a fault")
    one, releasing = await unit(billing, connect), await connect(SANDBOX)
    await billing_cases.lock(one.tx, billing.tenant, subs[0])
    waiting = asyncio.create_task(billing_cases.release(releasing))
    await wait_until_blocked(owner, releasing)
    assert [await billing_cases.lock(one.tx, billing.tenant, sub) for sub in subs[1:]]
    await one.tx.execute("COMMIT")
    assert await waiting == 3
