"""One valid row of each billing table, written column by column, so that tests can write what repositories
never would.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeAlias
from uuid import UUID

import asyncpg
import pytest

from schema.ids import new_id

Columns: TypeAlias = dict[str, Any]
Rows: TypeAlias = dict[str, Columns]
"""By table."""

START: Final = datetime(2026, 6, 1, tzinfo=UTC)
END: Final = START + timedelta(days=30)
LATER: Final = END + timedelta(days=30)
IN_FLIGHT: Final[Columns] = {"state": "in_flight", "leased_until": END, "finished_at": None}
FAILED: Final[Columns] = {"state": "failed", "failure_code": "card_declined"}


def rows_of(tenant: UUID) -> Rows:
    """Returns rows with new ids and names.

    A row refers to earlier ones. The invoice is paid and has a recovery.
    """
    plan, customer, promo, link, subscription, invoice, charge = (new_id() for _ in range(7))
    suffix = plan.hex[-12:]
    of_all: Columns = {"tenant_id": tenant}
    return {
        "store_settings": of_all,
        "idempotency_keys": of_all | {"key": suffix, "request_hash": bytes(32)},
        "plans": of_all | {"id": plan, "name": "Gold", "amount": 500_000, "interval": "month"},
        "customers": of_all | {"id": customer, "name": "Ada Obi", "email": f"ada-{suffix}@example.com"},
        "promo_codes": of_all | {"id": promo, "code": f"CODE-{suffix.upper()}", "percent_off": 10},
        "payment_links": of_all | {"id": link, "plan_id": plan, "slug": f"gold-{suffix}"},
        "subscriptions": of_all
        | {
            "id": subscription,
            "customer_id": customer,
            "plan_id": plan,
            "promo_code_id": promo,
            "status": "active",
            "anchor": START,
            "current_period_start": START,
            "current_period_end": END,
            "created_at": START,
            "updated_at": START,
        },
        "invoices": of_all
        | {
            "id": invoice,
            "subscription_id": subscription,
            "status": "paid",
            "amount": 500_000,
            "idempotency_key": f"renewal_{subscription}_{START:%Y-%m-%d}",
            "period_start": START,
            "period_end": END,
            "created_at": START,
            "paid_at": START,
        },
        "payment_attempts": of_all
        | {
            "id": charge,
            "invoice_id": invoice,
            "subscription_id": subscription,
            "customer_id": customer,
            "kind": "charge",
            "number": 1,
            "state": "succeeded",
            "amount": 500_000,
            "rail": "card",
            "created_at": START,
            "finished_at": START,
        },
        "dunning_schedules": of_all
        | {
            "id": new_id(),
            "invoice_id": invoice,
            "subscription_id": subscription,
            "state": "waiting",
            "rail": "card",
            "payday_aware": True,
            "failure_code": "card_declined",
            "last_action": "retry",
            "last_reason": "declined",
            "next_attempt_at": END,
            "created_at": START,
            "updated_at": START,
        },
        "checkout_sessions": of_all
        | {
            "id": new_id(),
            "plan_id": plan,
            "payment_link_id": link,
            "promo_code_id": promo,
            "status": "completed",
            "subscription_id": subscription,
            "created_at": START,
            "expires_at": END,
            "completed_at": START,
        },
    }


TABLES: Final = tuple(rows_of(UUID(int=0)))


def another(row: Columns, **changes: Any) -> Columns:
    """Returns a copy of the row with a new id."""
    return row | {"id": new_id()} | changes


async def insert(connection: asyncpg.Connection, table: str, columns: Columns) -> None:
    names = ", ".join(f'"{name}"' for name in columns)
    parameters = ", ".join(f"${number}" for number in range(1, len(columns) + 1))
    await connection.execute(f"INSERT INTO {table} ({names}) VALUES ({parameters})", *columns.values())


async def insert_all(connection: asyncpg.Connection, rows: Rows, *, until: str | None = None) -> None:
    """Inserts the rows before the table `until`."""
    for table, columns in rows.items():
        if table == until:
            return
        if table == "store_settings":  # a tenant has one
            await connection.execute(
                "INSERT INTO store_settings (tenant_id) VALUES ($1) ON CONFLICT DO NOTHING",
                columns["tenant_id"],
            )
        else:
            await insert(connection, table, columns)


@contextmanager
def refused_by(constraint: str, what: str = "it") -> Iterator[None]:
    """Expects a violation of exactly this constraint, because a row that violates two would prove neither."""
    try:
        yield
    except asyncpg.IntegrityConstraintViolationError as error:
        assert error.constraint_name == constraint, f"{what}: {error}"  # noqa: PT017  whose it is, is the point
    else:
        pytest.fail(f"{what}: {constraint} accepted it")
