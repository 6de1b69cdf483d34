"""Inserts thousands of due subscriptions by SQL: half are renewals (active, and ended trials), half are past due with a
recovery charge to make.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from schema.connections.database import Database, Executor
from schema.core import wallet
from schema.core.wallet import NewMethod
from schema.ids import new_id
from schema.secret_box import SecretBox

AMOUNT: Final = 500_000
_CARDS: Final = 50
_LATE_BY: Final = timedelta(hours=1)
"""Maximum delay. A period is a month, so no subscription becomes due twice."""

_PLAN = """
INSERT INTO plans (tenant_id, id, name, amount, "interval") VALUES ($1, $2, 'Gym', $3, 'month')
"""
_SUBSCRIPTIONS = """
WITH each AS MATERIALIZED (
    SELECT n, gen_random_uuid() AS customer, gen_random_uuid() AS subscription, gen_random_uuid() AS invoice,
           (ARRAY['active', 'past_due', 'trialing', 'past_due'])[1 + n % 4] AS status,
           $3::timestamptz - $4::interval * random() AS due
      FROM generate_series(1, $5::integer) AS n
), people AS (
    INSERT INTO customers (tenant_id, id, name, email)
    SELECT $1, customer, 'Customer ' || n, 'customer-' || n || '@example.com' FROM each
), subscribed AS (
    INSERT INTO subscriptions (tenant_id, id, customer_id, plan_id, status, payment_method_id, anchor,
                               current_period_start, current_period_end, cycles, created_at, updated_at)
    SELECT $1, subscription, customer, $2, status, ($6::uuid[])[1 + n % cardinality($6::uuid[])], due - interval '1 month',
           due - interval '1 month', due, CASE WHEN status = 'trialing' THEN 0 ELSE 1 END, due - interval '1 month', due
      FROM each
), owed AS (
    INSERT INTO invoices (tenant_id, id, subscription_id, status, amount, idempotency_key, period_start, period_end,
                          attempts, created_at)
    SELECT $1, invoice, subscription, 'open', $7, 'owed_' || invoice, due, due + interval '1 month', 1, due
      FROM each WHERE status = 'past_due'
), failed AS (
    INSERT INTO payment_attempts (tenant_id, id, invoice_id, subscription_id, customer_id, kind, number, state, amount,
                                  rail, failure_code, created_at, finished_at)
    SELECT $1, gen_random_uuid(), invoice, subscription, customer, 'charge', 1, 'failed', $7, 'card',
           'processor_error', due, due
      FROM each WHERE status = 'past_due'
)
INSERT INTO dunning_schedules (tenant_id, id, invoice_id, subscription_id, state, rail, payday_aware, failure_code,
                               last_action, last_reason, next_attempt_at, created_at, updated_at)
SELECT $1, gen_random_uuid(), invoice, subscription, 'waiting', 'card', false, 'processor_error', 'retry', 'at once', due,
       due, due
  FROM each WHERE status = 'past_due'
"""


async def add_due(
    database: Database, data: Executor, tenant: UUID, count: int, now: datetime, cards: Sequence[str]
) -> None:
    """Adds `count` subscriptions of one plan, due within the hour before `now`. They share a few payment methods, made from
    these cards in turn.
    """
    box = SecretBox(database.key)
    entries = [
        (f"+23480{new_id().int % 10**8:08d}", NewMethod("card", cards[n % len(cards)])) for n in range(_CARDS)
    ]
    methods = await wallet.enrol_many(database.core, box, entries)
    plan = new_id()
    await data.execute(_PLAN, tenant, plan, AMOUNT)
    await data.execute(_SUBSCRIPTIONS, tenant, plan, now, _LATE_BY, count, methods, AMOUNT)
