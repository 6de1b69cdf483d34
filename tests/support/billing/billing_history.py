"""Fills a database with years of billing by SQL in a second or two. All rows satisfy the constraints.

tenants         1 … TENANTS; nine rows in ten are BIG's. The n-th row has the same tenant in every table
lists           BIG has more than DEEP pages of PAGE in each
subscriptions   in all states; running periods end after NOW, except for
                DUE of each scanned state, HELD after a defect, and IN_FLIGHT with a charge in flight: these end before NOW
SUBSCRIPTION    has an invoice for each of HOURS hours, paid and recovered; its CUSTOMER has a payment for each
PHONE           belongs to a customer of every tenant, with OF_PHONE subscriptions in total
schedules       waiting ones and those awaiting a card are due after NOW, except for a few
"""

from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

import asyncpg

NOW: Final = datetime(2026, 6, 28, 9, tzinfo=UTC)
LONG_AGO: Final = NOW - timedelta(days=1000)
LATER: Final = NOW + timedelta(days=60)
"""Every running subscription is due by then."""

TABLES: Final = (
    *("store_settings", "plans", "customers", "promo_codes", "payment_links"),
    *("subscriptions", "invoices", "payment_attempts", "dunning_schedules", "checkout_sessions"),
)
TENANTS: Final = 20
PAGE: Final = 10
DEEP: Final = 500
SUBSCRIPTIONS: Final = 10_000
HOURS: Final = PAGE * DEEP + 200
LISTED: Final = 6_200
"""Plans, promo codes, payment links and checkout sessions."""
OF_PHONE: Final = 600
DUE: Final = 5
HELD: Final = 40
IN_FLIGHT: Final = 30
REFUNDING: Final = 10

BIG: Final = UUID(int=1)
SUBSCRIPTION: Final = UUID(int=1)
CUSTOMER: Final = UUID(int=1)
PHONE: Final = "+2348030000000"

_FIRST_DUE: Final = SUBSCRIPTIONS + 1
_FIRST_HELD: Final = _FIRST_DUE + 3 * DUE
_FIRST_IN_FLIGHT: Final = _FIRST_HELD + HELD
_FIRST_REFUNDING: Final = _FIRST_IN_FLIGHT + IN_FLIGHT
_LAST: Final = _FIRST_REFUNDING + REFUNDING - 1

BILLING_PAST = f"""
SET session_replication_role = replica;
SET search_path = sandbox;

CREATE FUNCTION pg_temp.id(n bigint) RETURNS uuid LANGUAGE sql IMMUTABLE RETURN lpad(to_hex(n), 32, '0')::uuid;
CREATE FUNCTION pg_temp.tenant(n bigint) RETURNS uuid LANGUAGE sql IMMUTABLE RETURN pg_temp.id(
    CASE WHEN n <= {OF_PHONE} THEN (n - 1) % {TENANTS} + 1 WHEN n % 10 > 0 THEN 1 ELSE n / 10 % {TENANTS - 1} + 2 END);
-- Three rows of each moment, so that pages end between equals.
CREATE FUNCTION pg_temp.moment(n bigint) RETURNS timestamptz LANGUAGE sql IMMUTABLE RETURN
    '{NOW}'::timestamptz - interval '900 days' + n / 3 * interval '10 minutes';

-- Nobody takes statistics but the test.
DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY '{{{",".join(TABLES)}}}'::text[] LOOP
        EXECUTE format('ALTER TABLE %I SET (autovacuum_enabled = off)', name);
    END LOOP;
END $$;

INSERT INTO core.tenants (id, name) SELECT pg_temp.id(n), 'tenant ' || n FROM generate_series(1, {TENANTS}) n;
INSERT INTO store_settings (tenant_id) SELECT id FROM core.tenants;

INSERT INTO plans (tenant_id, id, name, amount, "interval", created_at)
SELECT pg_temp.tenant(n), pg_temp.id(n), 'plan ' || n, 500000, 'month', pg_temp.moment(n) FROM generate_series(1, {LISTED}) n;
INSERT INTO promo_codes (tenant_id, id, code, percent_off, created_at)
SELECT pg_temp.tenant(n), pg_temp.id(n), 'CODE-' || n, 10, pg_temp.moment(n) FROM generate_series(1, {LISTED}) n;
INSERT INTO payment_links (tenant_id, id, plan_id, slug, created_at)
SELECT pg_temp.tenant(n), pg_temp.id(n), pg_temp.tenant(n), 'link-' || n, pg_temp.moment(n) FROM generate_series(1, {LISTED}) n;
INSERT INTO customers (tenant_id, id, name, email, phone, created_at)
SELECT pg_temp.tenant(n), pg_temp.id(n), 'customer ' || n, CASE WHEN n % 50 > 0 THEN 'customer-' || n || '@example.com' END,
       CASE WHEN n <= {TENANTS} THEN '{PHONE}' WHEN n % 3 > 0 OR n % 50 = 0 THEN '+234701' || lpad(n::text, 7, '0') END,
       pg_temp.moment(n)
  FROM generate_series(1, {_LAST}) n;

INSERT INTO subscriptions (tenant_id, id, customer_id, plan_id, status, anchor, current_period_start, current_period_end, cycles,
                           held_until, fault, created_at, updated_at, ended_at)
SELECT pg_temp.tenant(n), pg_temp.id(n), pg_temp.id(CASE WHEN n <= {OF_PHONE} THEN (n - 1) % {TENANTS} + 1 ELSE n END),
       pg_temp.tenant(n), status, ends - interval '30 days', ends - interval '30 days', ends, 2,
       CASE WHEN held THEN '{NOW}'::timestamptz + interval '1 hour' END, CASE WHEN held THEN 'a defect' END,
       pg_temp.moment(n), pg_temp.moment(n), CASE WHEN status IN ('canceled', 'expired', 'incomplete_expired') THEN ends END
  FROM (SELECT n, held, status,
               CASE WHEN n >= {_FIRST_DUE} AND n < {_FIRST_REFUNDING} THEN '{NOW}'::timestamptz - (n - {_FIRST_HELD} + 100) * interval '1 minute'
                    WHEN status IN ('active', 'trialing', 'incomplete') THEN '{NOW}'::timestamptz + (n % 40000 + 1) * interval '1 minute'
                    ELSE '{NOW}'::timestamptz - n * interval '10 minutes' END AS ends
          FROM generate_series(1, {_LAST}) n,
               LATERAL (SELECT n BETWEEN {_FIRST_HELD} AND {_FIRST_IN_FLIGHT - 1} OR n % 20 = 2 AND n BETWEEN 9801 AND 9900 AS held,
                               CASE WHEN n <= {OF_PHONE} OR n >= {_FIRST_HELD} THEN 'active'
                                    WHEN n >= {_FIRST_DUE} THEN ('{{active,trialing,incomplete}}'::text[])[(n - {_FIRST_DUE}) % 3 + 1]
                                    ELSE coalesce(('{{trialing,incomplete,past_due,paused,unpaid,canceled,expired,incomplete_expired}}'
                                                   ::text[])[n % 20 + 1], 'active') END AS status) AS x) AS y;

-- By number: the hours of SUBSCRIPTION; of every other the period before its last one, and of half of them and of those that
-- fail the last one; of those whose renewal is in flight the next one.
CREATE TEMPORARY TABLE wanted AS
SELECT h AS i, 1 AS n, 'paid' AS status, '{NOW}'::timestamptz - interval '3 years' + h * interval '1 hour' AS starts,
       interval '1 hour' AS lasts
  FROM generate_series(1, {HOURS}) h
UNION ALL
SELECT 20000 + n, n, 'paid', current_period_start - interval '30 days', interval '30 days'
  FROM generate_series({OF_PHONE} + 1, {_LAST}) n JOIN subscriptions ON id = pg_temp.id(n)
UNION ALL
SELECT 50000 + n, n, CASE status WHEN 'past_due' THEN 'open' WHEN 'unpaid' THEN 'uncollectible' ELSE 'paid' END,
       current_period_start, interval '30 days'
  FROM generate_series({OF_PHONE} + 1, {_LAST}) n JOIN subscriptions ON id = pg_temp.id(n)
 WHERE n % 2 = 1 OR status IN ('past_due', 'unpaid')
UNION ALL
SELECT 80000 + n, n, 'open', current_period_end, interval '30 days'
  FROM generate_series({_FIRST_IN_FLIGHT}, {_FIRST_REFUNDING - 1}) n JOIN subscriptions ON id = pg_temp.id(n);

ALTER TABLE invoices DROP CONSTRAINT invoices_overlap;  -- no statement looks it up, and it takes longer than all the rest
INSERT INTO invoices (tenant_id, id, subscription_id, status, amount, idempotency_key, period_start, period_end, attempts,
                      created_at, paid_at)
SELECT pg_temp.tenant(n), pg_temp.id(i), pg_temp.id(n), status, 500000, 'renewal_' || n || '_' || starts, starts, starts + lasts, 1,
       pg_temp.moment(i), CASE status WHEN 'paid' THEN pg_temp.moment(i) END
  FROM wanted;

-- A charge of each invoice.
INSERT INTO payment_attempts (tenant_id, id, invoice_id, subscription_id, customer_id, kind, number, state, amount, rail,
                              failure_code, leased_until, created_at, finished_at)
SELECT pg_temp.tenant(n), pg_temp.id(i), pg_temp.id(i), pg_temp.id(n), pg_temp.id(n), 'charge', 1,
       CASE WHEN i > 80000 THEN 'in_flight' WHEN status = 'paid' THEN 'succeeded' ELSE 'failed' END, 500000, 'card',
       CASE WHEN i <= 80000 AND status <> 'paid' THEN 'card_declined' END,
       CASE WHEN i > 80000 THEN '{NOW}'::timestamptz + (n % 3 - 1.5) * interval '1 minute' END,
       pg_temp.moment(i), CASE WHEN i <= 80000 THEN pg_temp.moment(i) END
  FROM wanted;
-- Refunds in flight, and a second charge under way of a few that are past due.
INSERT INTO payment_attempts (tenant_id, id, invoice_id, subscription_id, customer_id, kind, refund_of, number, state, amount,
                              rail, leased_until, created_at)
SELECT pg_temp.tenant(n), pg_temp.id(200000 + i), pg_temp.id(i), pg_temp.id(n), pg_temp.id(n), kind,
       CASE kind WHEN 'refund' THEN pg_temp.id(i) END, CASE kind WHEN 'refund' THEN 1 ELSE 2 END, 'in_flight', 100000,
       'card', '{NOW}'::timestamptz + interval '1 minute', pg_temp.moment(i)
  FROM (SELECT 20000 + n AS i, n, 'refund' AS kind FROM generate_series({_FIRST_REFUNDING}, {_LAST}) n
        UNION ALL
        SELECT 50000 + n, n, 'charge' FROM generate_series(9902, 10000, 20) n) AS x;
UPDATE payment_attempts a SET refunded = 100000
  FROM payment_attempts r WHERE r.kind = 'refund' AND a.tenant_id = r.tenant_id AND a.id = r.refund_of;

-- Of SUBSCRIPTION's hours, and of what fails: every third of those waits for a card.
INSERT INTO dunning_schedules (tenant_id, id, invoice_id, subscription_id, state, attempts, rail, payday_aware, failure_code,
                               last_action, last_reason, in_flight, next_attempt_at, created_at, updated_at)
SELECT pg_temp.tenant(n), pg_temp.id(i), pg_temp.id(i), pg_temp.id(n), state, 1, 'card', true, 'card_declined', 'retry', 'declined',
       in_flight, CASE WHEN state IN ('waiting', 'awaiting_card')
                       THEN '{NOW}'::timestamptz + CASE WHEN n < 1000 OR n > 9800 THEN -1 ELSE 1 END * n * interval '1 minute' END,
       pg_temp.moment(i), pg_temp.moment(i)
  FROM wanted w,
       LATERAL (SELECT status = 'open' AND n > 9900 AS in_flight,
                       CASE WHEN status = 'paid' THEN 'recovered' WHEN status = 'uncollectible' THEN 'exhausted'
                            WHEN n / 20 % 3 = 0 AND n <= 9900 THEN 'awaiting_card' ELSE 'waiting' END AS state) AS x
 WHERE i <= {HOURS} OR i BETWEEN 50000 AND 80000 AND status <> 'paid';

-- A few are open, and half of those are over.
INSERT INTO checkout_sessions (tenant_id, id, plan_id, payment_link_id, promo_code_id, status, subscription_id, created_at,
                               expires_at, completed_at)
SELECT pg_temp.tenant(n), pg_temp.id(n), pg_temp.tenant(n), CASE WHEN n % 3 = 0 THEN pg_temp.id(n) END,
       CASE WHEN n % 5 = 0 THEN pg_temp.id(n) END, status, CASE status WHEN 'completed' THEN pg_temp.id(n) END, pg_temp.moment(n),
       CASE status WHEN 'open' THEN '{NOW}'::timestamptz + (n % 2 - 0.5) * interval '1 hour' ELSE pg_temp.moment(n + 400) END,
       CASE status WHEN 'completed' THEN pg_temp.moment(n) END
  FROM generate_series(1, {LISTED}) n,
       LATERAL (SELECT CASE WHEN n > {LISTED - 40} THEN 'open' WHEN n % 2 = 0 THEN 'completed' ELSE 'expired' END AS status) AS x;
RESET session_replication_role;
"""

_OVERLAPS = """
SELECT count(*)
  FROM (SELECT period_start < max(period_end) OVER (PARTITION BY tenant_id, subscription_id ORDER BY period_start
                                                    ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS early
          FROM invoices WHERE status <> 'void') AS x
 WHERE early
"""
_REFERENCES = """
SELECT conname AS name, conrelid::regclass::text AS of, confrelid::regclass::text AS to,
       (SELECT string_agg(format('o.%I = t.%I', a.attname, b.attname), ' AND ')
          FROM unnest(conkey, confkey) AS k (mine, its)
          JOIN pg_attribute a ON a.attrelid = conrelid AND a.attnum = k.mine
          JOIN pg_attribute b ON b.attrelid = confrelid AND b.attnum = k.its) AS joined,
       (SELECT string_agg(format('o.%I IS NOT NULL', attname), ' AND ')
          FROM pg_attribute WHERE attrelid = conrelid AND attnum = ANY(conkey)) AS given
  FROM pg_constraint
 WHERE contype = 'f' AND conrelid = ANY($1::regclass[])
"""


async def constraint_violations(superuser: asyncpg.Connection) -> dict[str, int]:
    """Returns violations by constraint, because constraints were not enforced while the history was written."""
    found = {"invoices_overlap": await superuser.fetchval(_OVERLAPS)}
    for row in await superuser.fetch(_REFERENCES, TABLES):
        found[row["name"]] = await superuser.fetchval(
            f"SELECT count(*) FROM {row['of']} o WHERE {row['given']}"
            f"   AND NOT EXISTS (SELECT FROM {row['to']} t WHERE {row['joined']})"
        )
    return {name: count for name, count in found.items() if count}
