"""Fills an activity feed by SQL in a second or two: every filter finds more than DEEP pages of PAGE entries of BIG.

tenants       1 … TENANTS; nine entries in ten are BIG's
entries       three at each time, so that pages end between equals; over four months
CUSTOMER      every other entry is about this customer; all SUBSCRIPTION's, INVOICE's and PAYMENT's are among them
generations   the first serves; a second, being built, has the same entries
deliveries    two delivered per event; every fifth event has a failed one too
"""

from typing import Final
from uuid import UUID

PAGE: Final = 10
DEEP: Final = 500
TENANTS: Final = 10
LINES: Final = 24_000
BIG: Final = UUID(int=1)
CUSTOMER: Final = UUID(int=2)
TYPE: Final = "subscription_payment_success"
RARE: Final = "webhook_endpoint_disabled"

ACTIVITY_PAST = f"""
SET search_path = sandbox;
SELECT make_partitions(date_trunc('month', now()), date_trunc('month', now()) + interval '12 months');

UPDATE projections SET building = 2, newest = 2 WHERE name = 'activity';
SELECT make_generation('activity', 2);

CREATE FUNCTION pg_temp.id(n bigint) RETURNS uuid LANGUAGE sql IMMUTABLE RETURN lpad(to_hex(n), 32, '0')::uuid;

INSERT INTO activity (generation, id, tenant_id, created_at, pos, type, summary, subject_kind, subject_id, subscription_id,
                      invoice_id, customer_id, amount, currency, links)
SELECT g, pg_temp.id(n), pg_temp.id(CASE WHEN n % 10 > 0 THEN 1 ELSE n / 10 % {TENANTS - 1} + 2 END),
       date_trunc('month', now()) + n / 3 * interval '20 minutes', n,
       CASE WHEN n % 1000 = 1 THEN '{RARE}' WHEN n % 2 = 0 THEN 'invoice_created' ELSE '{TYPE}' END,
       'summary ' || n, 'pay', pg_temp.id(CASE WHEN n % 2 = 1 THEN 5 ELSE n END),
       pg_temp.id(CASE WHEN n % 2 = 1 THEN 3 ELSE n END), pg_temp.id(CASE WHEN n % 2 = 1 THEN 4 ELSE n END),
       pg_temp.id(CASE WHEN n % 2 = 1 THEN 2 ELSE n END), 500000, 'NGN', '{{}}'
  FROM generate_series(1, 2) g, generate_series(1, {LINES}) n;

INSERT INTO webhook_deliveries (id, tenant_id, endpoint_id, event_id, event_type, created_at, status, attempts, due_at, retry_at,
                                settled_at)
SELECT gen_random_uuid(), tenant_id, pg_temp.id(e), id, type, created_at,
       CASE WHEN e = 3 THEN 'failed' ELSE 'delivered' END, 1, NULL, NULL, now()
  FROM activity, generate_series(1, 3) e
 WHERE generation = 1 AND (e < 3 OR pos % 5 = 0);
"""
