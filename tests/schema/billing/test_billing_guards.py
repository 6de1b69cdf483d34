"""What there may be one of, the database holds to: invoices of a key and of a period, what is owed, charges in flight and
charges that worked, dunning schedules, names. And what is in use cannot be deleted.
"""

from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from schema.ids import new_id
from tests.support.billing.billing_rows import (
    END,
    FAILED,
    IN_FLIGHT,
    LATER,
    START,
    TABLES,
    Columns,
    Rows,
    another,
    insert,
    insert_all,
    refused_by,
    rows_of,
)
from tests.support.servers.connections import SANDBOX, Connect

REFUND = {"kind": "refund"}
OPEN = {"status": "open", "paid_at": None}
NewTenant = Callable[[], Awaitable[UUID]]


@pytest.fixture
async def data(connect: Connect) -> asyncpg.Connection:
    return await connect(SANDBOX)


@pytest.fixture
async def rows(data: asyncpg.Connection, tenant: UUID) -> Rows:
    """Of a tenant, in the tables."""
    written = rows_of(tenant)
    await insert_all(data, written)
    return written


def next_invoice(row: Columns, **changes: Any) -> Columns:
    """Of the period after, so that only `changes` can be in the way."""
    return another(row, idempotency_key="next", period_start=END, period_end=LATER) | changes


async def test_an_invoice_of_a_key_exists_once_in_a_tenant(
    data: asyncpg.Connection, rows: Rows, new_tenant: NewTenant
) -> None:
    invoice = rows["invoices"]
    key = invoice["idempotency_key"]
    assert key == f"renewal_{invoice['subscription_id']}_2026-06-01"
    with refused_by("invoices_tenant_id_idempotency_key_key"):
        await insert(data, "invoices", next_invoice(invoice, idempotency_key=key))
    with refused_by("invoices_tenant_id_idempotency_key_key", "a void one keeps its key"):
        await insert(
            data, "invoices", next_invoice(invoice, idempotency_key=key, status="void", paid_at=None)
        )
    theirs = rows_of(await new_tenant())
    theirs["invoices"]["idempotency_key"] = key
    await insert_all(data, theirs)


async def test_the_periods_of_a_subscription_never_overlap(data: asyncpg.Connection, rows: Rows) -> None:
    invoice = rows["invoices"]
    length = END - START
    for what, start, end in (
        ("the same again", START, END),
        ("its end", END - length / 30, LATER),
        ("its beginning", START - length, START + length / 30),
        ("all of it and more", START - length, LATER),
        ("a part of it", START + length / 3, START + length / 2),
        ("a microsecond of it", END.replace(hour=0) - END.resolution, LATER),
    ):
        with refused_by("invoices_overlap", what):
            await insert(data, "invoices", next_invoice(invoice, period_start=start, period_end=end))
    void = {"status": "void", "paid_at": None, "idempotency_key": "void"}
    await insert(data, "invoices", another(invoice, **void))
    await insert(data, "invoices", next_invoice(invoice))
    await insert(
        data,
        "invoices",
        another(invoice, idempotency_key="before", period_start=START - length, period_end=START),
    )
    with refused_by("invoices_overlap", "what was void comes back"):
        await data.execute("UPDATE invoices SET status = 'paid', paid_at = now() WHERE status = 'void'")


async def test_a_subscription_owes_one_invoice_at_a_time(data: asyncpg.Connection, rows: Rows) -> None:
    invoice = rows["invoices"]
    await insert(data, "invoices", next_invoice(invoice, **OPEN))
    after = {"idempotency_key": "after", "period_start": LATER, "period_end": LATER + (END - START)}
    for status in ("open", "uncollectible"):
        with refused_by("invoices_unpaid", status):
            await insert(data, "invoices", another(invoice, **OPEN, **after) | {"status": status})
    with refused_by("invoices_unpaid", "what was paid is owed again"):
        await data.execute("UPDATE invoices SET status = 'open', paid_at = NULL WHERE id = $1", invoice["id"])
    await data.execute("UPDATE invoices SET status = 'void' WHERE status = 'open'")
    await insert(data, "invoices", another(invoice, **OPEN, **after))


async def test_a_subscription_has_one_charge_or_refund_in_flight(
    data: asyncpg.Connection, rows: Rows
) -> None:
    charge = rows["payment_attempts"]
    await insert(data, "payment_attempts", another(charge, **IN_FLIGHT, number=2))
    for what, changes in (("a charge", {"number": 3}), ("a refund", REFUND | {"refund_of": charge["id"]})):
        with refused_by("payment_attempts_in_flight", what):
            await insert(data, "payment_attempts", another(charge, **IN_FLIGHT) | changes)
    await data.execute(
        "UPDATE payment_attempts SET state = 'failed', failure_code = 'x', leased_until = NULL, finished_at = now()"
        " WHERE state = 'in_flight'"
    )
    await insert(data, "payment_attempts", another(charge, **IN_FLIGHT, number=3))


async def test_an_invoice_is_paid_once(data: asyncpg.Connection, rows: Rows) -> None:
    charge = rows["payment_attempts"]
    with refused_by("payment_attempts_paid"):
        await insert(data, "payment_attempts", another(charge, number=2))
    with refused_by("payment_attempts_paid", "the answer to a second charge"):
        async with data.transaction():
            await insert(data, "payment_attempts", another(charge, **IN_FLIGHT, number=2))
            await data.execute(
                "UPDATE payment_attempts SET state = 'succeeded', leased_until = NULL, finished_at = now()"
                " WHERE state = 'in_flight'"
            )
    await insert(data, "payment_attempts", another(charge, **FAILED, number=2))
    await insert(data, "payment_attempts", another(charge, **REFUND, refund_of=charge["id"]))


async def test_refunds_never_exceed_the_payment(data: asyncpg.Connection, rows: Rows) -> None:
    refund = "UPDATE payment_attempts SET refunded = refunded + $2::bigint WHERE id = $1"
    charge = rows["payment_attempts"]["id"]
    await data.execute(refund, charge, 300_000)
    with refused_by("payment_attempts_check3"):
        await data.execute(refund, charge, 200_001)
    with refused_by("minor_units_check", "giving back more than was refunded"):
        await data.execute(refund, charge, -300_001)
    await data.execute(refund, charge, 200_000)


async def test_an_invoice_has_one_dunning_schedule(data: asyncpg.Connection, rows: Rows) -> None:
    schedule = rows["dunning_schedules"]
    over = {"state": "recovered", "next_attempt_at": None}
    for changes in ({}, over):
        with refused_by("dunning_schedules_tenant_id_invoice_id_key"):
            await insert(data, "dunning_schedules", another(schedule, **changes))
    await insert(data, "invoices", next_invoice(rows["invoices"]) | (following := {"id": new_id()}))
    await insert(data, "dunning_schedules", another(schedule, invoice_id=following["id"]))


async def test_names_are_unique_per_tenant(
    data: asyncpg.Connection, rows: Rows, new_tenant: NewTenant
) -> None:
    names = {
        "promo_codes_tenant_id_code_key": ("promo_codes", "code"),
        "payment_links_tenant_id_slug_key": ("payment_links", "slug"),
        "customers_by_email": ("customers", "email"),
    }
    theirs = rows_of(await new_tenant())
    for constraint, (table, column) in names.items():
        with refused_by(constraint):
            await insert(data, table, another(rows[table]))
        theirs[table][column] = rows[table][column]
    await insert_all(data, theirs)


async def test_a_promo_code_is_redeemed_up_to_its_maximum(data: asyncpg.Connection, rows: Rows) -> None:
    await data.execute("UPDATE promo_codes SET max_redemptions = 2")
    redeem = "UPDATE promo_codes SET redemptions = redemptions + 1"
    await data.execute(redeem)
    await data.execute(redeem)
    with refused_by("promo_codes_check1"):
        await data.execute(redeem)
    with refused_by("promo_codes_check1", "a maximum below what has been redeemed"):
        await data.execute("UPDATE promo_codes SET max_redemptions = 1")


async def test_a_plan_that_is_in_use_cannot_be_deleted(data: asyncpg.Connection, rows: Rows) -> None:
    """Whatever uses it; and nobody deletes what was sold, owed or paid at all."""
    delete = "DELETE FROM plans WHERE id = $1"
    tenant = rows["plans"]["tenant_id"]
    fresh = rows_of(tenant)
    for table, without in (
        ("payment_links", {}),
        ("subscriptions", {}),
        ("checkout_sessions", {"status": "open", "subscription_id": None, "completed_at": None}),
    ):
        plan = rows_of(tenant)["plans"]
        await insert(data, "plans", plan)
        row = rows[table] | without | {"id": new_id(), "plan_id": plan["id"]}
        row |= {"slug": fresh["payment_links"]["slug"]} if table == "payment_links" else {}
        await insert(data, table, row)
        with refused_by(f"{table}_tenant_id_plan_id_fkey"):
            await data.execute(delete, plan["id"])
    await insert(data, "plans", fresh["plans"])
    assert await data.execute(delete, fresh["plans"]["id"]) == "DELETE 1"
    for table in set(TABLES) - {"plans", "payment_links", "idempotency_keys"}:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await data.execute(f"DELETE FROM {table}")
