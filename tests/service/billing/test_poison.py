"""A subscription or answer that always fails is held or requested again.

It does not block the others in its batch.
"""

from datetime import timedelta
from uuid import UUID

import asyncpg
import pytest

from schema.billing import billing_cases
from service.billing.decisions.invoicing import LEASE
from service.billing.gateway.gateway import Outcome
from service.billing.scanning import HOLD
from tests.support.billing.billing_world import TenantBilling
from tests.support.failing_rows import rejecting_rows

UNANSWERED = "unanswered charges"


async def subscribed(billing: TenantBilling, count: int = 7) -> list[UUID]:
    plan = await billing.plan(interval="week")
    return [await billing.subscribe(plan) for _ in range(count)]


async def cycles(billing: TenantBilling, subs: list[UUID]) -> list[int]:
    return [(await billing.subscription(sub)).cycles for sub in subs]


async def test_a_subscription_whose_invoice_fails_is_held(
    billing: TenantBilling, owner: asyncpg.Connection
) -> None:
    subs = await subscribed(billing)
    async with rejecting_rows(owner, "INSERT ON invoices", f"NEW.subscription_id = '{subs[3]}'"):
        await billing.after(weeks=1)
        assert await cycles(billing, subs) == [2, 2, 2, 1, 2, 2, 2]
        (held,) = await billing_cases.held(billing.pool, billing.clock.time, 10)
        assert (held.id, held.held_until) == (subs[3], billing.clock.time + HOLD)
        assert held.fault == "renewals: RaiseError: this one never works"
        assert await billing.step("renewals") == 0
    assert await billing_cases.release(billing.pool) == 1
    await billing.scan()
    assert await cycles(billing, subs) == [2] * 7


async def test_a_held_subscription_is_retried_automatically(
    billing: TenantBilling, owner: asyncpg.Connection
) -> None:
    subs = await subscribed(billing, 2)
    async with rejecting_rows(owner, "INSERT ON invoices", f"NEW.subscription_id = '{subs[0]}'"):
        await billing.after(weeks=1)
    await billing.at(billing.clock.time + HOLD)
    assert await cycles(billing, subs) == [2, 2]


async def test_a_failing_recovery_is_held_and_blocks_no_other(
    billing: TenantBilling, owner: asyncpg.Connection
) -> None:
    subs = await subscribed(billing)
    billing.gateway.answers = lambda order: Outcome("processor_error") if order.number == 1 else None
    billing.clock.advance(billing.clock.time + timedelta(weeks=1))
    await billing.step("renewals")
    await billing.engine.charges.settled()
    poison = f"NEW.subscription_id = '{subs[0]}'"
    async with rejecting_rows(owner, "INSERT ON payment_attempts", poison):
        await billing.scan()
    assert await cycles(billing, subs) == [1, *[2] * 6]
    (held,) = await billing_cases.held(billing.pool, billing.clock.time, 10)
    assert held.fault.startswith("recoveries: ")
    await billing_cases.release(billing.pool)
    await billing.scan()
    assert await cycles(billing, subs) == [2] * 7


@pytest.mark.parametrize("code", ["raise_exception", "query_canceled"])
async def test_an_unwritable_answer_is_requested_again(
    billing: TenantBilling, owner: asyncpg.Connection, code: str
) -> None:
    """A timeout is treated like a defect, because a smaller batch may be fast enough."""
    subs = await subscribed(billing)
    poison = f"NEW.subscription_id = '{subs[3]}' AND NEW.state <> 'in_flight'"
    async with rejecting_rows(owner, "UPDATE ON payment_attempts", poison, code=code):
        await billing.after(weeks=1)
        assert await cycles(billing, subs) == [2, 2, 2, 1, 2, 2, 2]
        await billing.at(billing.clock.time + LEASE)
        assert await cycles(billing, subs) == [2, 2, 2, 1, 2, 2, 2]
    await billing.at(billing.clock.time + LEASE)
    assert await cycles(billing, subs) == [2] * 7
    assert sorted(billing.gateway.charged.values()) == [*[1] * 13, 3]
    assert len(await billing.events("subscription_payment_success")) == 14
