"""The page on the data model that duro began with, sentence by sentence, goes on: money, renewals, recovery, and the log.

As in test_seed.py: each test shows the sentence in its docstring.
"""

import re
from collections.abc import AsyncIterator
from decimal import Decimal
from uuid import UUID

import asyncpg
import pytest

from schema import events, log
from schema.billing import books
from schema.billing.books import Changes
from schema.billing.rows import DunningState, Status
from schema.database import Database
from schema.ids import SUBSCRIPTION, format_id
from schema.pages import After
from schema.timestamps import iso_millis
from service.billing.failures import FailureCode
from service.billing.gateway import Outcome
from service.billing.invoicing import next_invoice
from service.billing.ledger import Unit
from service.billing.lifecycle import Action
from service.billing.renewing import act
from tests.support.billing import Business, business
from tests.support.billing_rows import TABLES, another, insert, refused_by
from tests.support.catalog import columns, indexes
from tests.support.events import sequence_all


@pytest.fixture
async def shop(database: Database) -> AsyncIterator[Business]:
    async with business(database) as made:
        yield made


async def test_every_amount_is_an_int_of_kobo(owner: asyncpg.Connection, shop: Business) -> None:
    """Every amount is an Int of kobo — ₦5,000.00 is 500000. No floats anywhere near money."""
    rows = [row for row in await columns(owner, "sandbox") if row["table"] in TABLES]
    amounts = [row for row in rows if re.search("amount|discount|refunded", row["name"])]
    assert {(row["type"], row["base"]) for row in amounts} == {("kobo", "int8")}
    assert not {row["base"] for row in rows} & {"float4", "float8", "money"}

    sub = await shop.subscribe(await shop.plan(500_000))
    (invoice,) = await shop.invoices(sub)
    (payment,) = await shop.payments()
    told = [data["amount"] for _, data in await shop.events()]
    for amount in (invoice.amount, payment.amount, *told, *shop.gateway.taken.values()):
        assert type(amount) is int
        assert amount == 500_000


async def test_currency_is_a_sibling_field_default_ngn(owner: asyncpg.Connection, shop: Business) -> None:
    """Currency is a sibling field, default NGN."""
    rows = [row for row in await columns(owner, "sandbox") if row["table"] in TABLES]
    with_amounts = {row["table"] for row in rows if row["type"] == "kobo"}
    siblings = {row["table"]: row["default"] for row in rows if row["name"] == "currency"}
    assert with_amounts <= set(siblings)
    for table in ("plans", "invoices", "payment_attempts"):
        assert siblings[table] == "'NGN'::text"
    sub = await shop.subscribe(await shop.plan())
    assert [invoice.currency for invoice in await shop.invoices(sub)] == ["NGN"]


async def test_per_plan_fx_is_supported(shop: Business) -> None:
    """… with per-plan FX supported: two plans of ten dollars, each charged in naira at a rate of its own."""
    for rate, naira in (("1600", 1_600_000), ("1523.4567", 1_523_457)):
        plan = await shop.plan(1_000, currency="USD", charge_currency="NGN", fx_rate=Decimal(rate))
        (invoice,) = await shop.invoices(await shop.subscribe(plan))
        assert (plan.amount, plan.currency) == (1_000, "USD")
        assert (invoice.amount, invoice.currency) == (naira, "NGN")
        assert [order.currency for order in shop.gateway.orders.values()][-1] == "NGN"


async def test_an_invoices_idempotency_key_is_renewal_subscription_period_start(shop: Business) -> None:
    """An invoice's idempotencyKey is renewal_{subscriptionId}_{periodStart}, unique per (tenantId, idempotencyKey)."""
    sub = await shop.subscribe()
    await shop.after(days=31)
    invoices = await shop.invoices(sub)
    assert len(invoices) == 2
    for invoice in invoices:
        assert (
            invoice.idempotency_key
            == f"renewal_{format_id(SUBSCRIPTION, sub)}_{iso_millis(invoice.period_start)}"
        )
    unique = (await indexes(shop.pool, "sandbox", "invoices"))["invoices_tenant_id_idempotency_key_key"]
    assert (unique["columns"], unique["guards"]) == (["tenant_id", "idempotency_key"], True)


async def test_the_renewal_scanner_can_fire_twice_for_the_same_period_and_the_second_insert_is_rejected_by_the_database(
    shop: Business,
) -> None:
    """The renewal scanner can fire twice for the same period and the second insert is rejected by the database, not by
    application logic."""
    sub = await shop.subscribe()
    renewal_at = (await shop.subscription(sub)).current_period_end

    async def fire(unit: Unit) -> int:
        """As a scanner that has not seen what another has done."""
        (case,) = await books.cases(unit.tx, [(shop.tenant, sub)])
        return len(await unit.write(Changes(new_invoices=[next_invoice(case, renewal_at)])))

    assert [await shop.engine.ledger.transact(fire) for _ in range(2)] == [1, 0]
    assert await shop.types() == [*FIRST_CHARGE, "invoice_created"]
    latest = (await shop.invoices(sub))[-1]
    row = dict((await shop.pool.fetchrow("SELECT * FROM invoices WHERE id = $1", latest.id)).items())
    with refused_by("invoices_tenant_id_idempotency_key_key"):
        await insert(shop.pool, "invoices", another(row))


FIRST_CHARGE = [
    *("subscription_created", "invoice_created"),
    *("subscription_payment_success", "subscription_activated"),
]


async def test_a_failing_invoice_gets_exactly_one_dunning_schedule_carrying_the_whole_recovery_state(
    shop: Business,
) -> None:
    """A failing invoice gets exactly one DunningSchedule carrying the whole recovery state — attempts made, the chosen rail,
    whether to be payday-aware, the last action taken."""
    sub = await shop.subscribe()
    shop.gateway.answers = lambda _order: Outcome(FailureCode.CARD_NOT_SUPPORTED)
    await shop.after(days=31)
    schedule = await shop.schedule(sub)
    assert schedule
    latest = (await shop.invoices(sub))[-1]
    assert schedule.invoice_id == latest.id
    failed = len(await shop.payments()) - 1
    assert failed > 2
    assert await shop.pool.fetchval("SELECT count(*) FROM dunning_schedules") == 1
    assert schedule.attempts == failed - 1, "without the charge that failed first"
    assert schedule.rail == "direct_debit", "the last one that there is"
    assert schedule.payday_aware
    assert (schedule.state, schedule.last_action) == ("exhausted", "exhaust")
    assert "no rail is left" in schedule.last_reason
    row = await shop.pool.fetchrow("SELECT * FROM dunning_schedules")
    with refused_by("dunning_schedules_tenant_id_invoice_id_key"):
        await insert(shop.pool, "dunning_schedules", another(dict(row.items())))


async def test_the_schedule_is_the_recovery_state_machines_memory(shop: Business) -> None:
    """It is the recovery state machine's memory: an engine that has never heard of the invoice goes on where the schedule
    says."""
    sub = await shop.subscribe()
    shop.gateway.answers = lambda _order: Outcome(FailureCode.INSUFFICIENT_FUNDS)
    await shop.after(days=31)
    waiting = await shop.schedule(sub)
    assert waiting
    assert waiting.state is DunningState.WAITING
    async with business(shop.database) as fresh:
        fresh.tenant = shop.tenant
        assert waiting.next_attempt_at
        await fresh.at(waiting.next_attempt_at)
        after = await fresh.schedule(sub)
        assert after
        assert (after.id, after.state, after.attempts) == (waiting.id, "recovered", 1)
        assert (await fresh.subscription(sub)).status is Status.ACTIVE


async def test_every_meaningful_change_writes_a_row_to_events(shop: Business) -> None:
    """Every meaningful change writes a row to events."""
    sub, dearer = await shop.subscribe(), await shop.plan(900_000)
    (paid,) = await shop.payments()
    told = await shop.types()
    assert told == FIRST_CHARGE
    subscriptions = shop.subscriptions
    for change, expected in (
        (lambda: subscriptions.cancel(sub, at_period_end=True), ["subscription_updated"]),
        (lambda: subscriptions.keep(sub), ["subscription_updated"]),
        (lambda: subscriptions.limit(sub, 12), ["subscription_updated"]),
        (lambda: subscriptions.change_plan(sub, dearer.id), ["subscription_plan_changed"]),
        (lambda: replace_card(shop, sub), ["subscription_updated"]),
        (lambda: subscriptions.pause(sub), ["subscription_paused"]),
        (lambda: subscriptions.resume(sub), ["subscription_resumed"]),
        (lambda: subscriptions.refund(paid.id, 100), ["subscription_payment_refunded"]),
        (lambda: shop.after(days=31), ["invoice_created", "subscription_payment_success"]),
        (lambda: subscriptions.cancel(sub), ["subscription_cancelled"]),
    ):
        await change()
        await shop.engine.charges.settled()
        before, told = told, await shop.types()
        assert told[len(before) :] == expected


async def replace_card(shop: Business, sub: UUID) -> None:
    await shop.subscriptions.replace_payment_method(sub, await shop.card())


async def test_a_change_and_its_event_are_written_together_or_not_at_all(shop: Business) -> None:
    """Every meaningful change writes a row to events: none is without it when the process dies in between."""
    sub = await shop.subscribe()

    class Died(Exception):
        pass

    async def pause_and_die(unit: Unit) -> None:
        (case,) = await books.cases(unit.tx, await books.lock(unit.tx, shop.tenant, sub))
        await unit.write(act(case, Action.PAUSE, unit.now))
        assert (await unit.tx.fetchval("SELECT status FROM subscriptions")) == "paused"
        raise Died

    with pytest.raises(Died):
        await shop.engine.ledger.transact(pause_and_die)
    assert (await shop.subscription(sub)).status == "active"
    assert await shop.types() == FIRST_CHARGE


async def test_there_is_one_append_only_log_with_many_readers(shop: Business) -> None:
    """The webhook system consumes that table; the dashboard activity feed reads it; analytics aggregate it. One append-only
    log, many readers."""
    await shop.subscribe()
    async with shop.pool.acquire() as reader:
        await sequence_all(reader)
        for consumer, read in (("fanout", 4), ("activity", 1), ("rollups", 0)):
            async with reader.transaction():
                cursor = await log.take_cursor(reader, consumer)
                assert cursor
                page = await log.read_after(reader, cursor.pos, read) if read else []
                await log.move_cursor(reader, cursor, page[-1].pos if page else 0)
            assert [entry.type for entry in page] == FIRST_CHARGE[:read]
            assert await log.backlog(reader, consumer) == len(FIRST_CHARGE) - read
        feed = await events.list_events(reader, shop.tenant, None, After(), 20)
        assert [event.type for event in feed.items] == FIRST_CHARGE[::-1]
        for statement in ("UPDATE events SET type = type", "DELETE FROM events", "TRUNCATE events"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await reader.execute(statement)
