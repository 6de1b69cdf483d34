"""Invariants of a tenant's billing, in one statement that returns the violations."""

from tests.support.billing.billing_world import TenantBilling

_BROKEN = """
WITH s AS (SELECT * FROM subscriptions WHERE tenant_id = $1),
     i AS (SELECT * FROM invoices WHERE tenant_id = $1),
     a AS (SELECT * FROM payment_attempts WHERE tenant_id = $1),
     c AS (SELECT * FROM a WHERE kind = 'charge'),
     d AS (SELECT * FROM dunning_schedules WHERE tenant_id = $1)
SELECT 'past due and in recovery are not the same' AS what, s.id FROM s
 WHERE (status = 'past_due') <> EXISTS (SELECT FROM d WHERE d.subscription_id = s.id AND d.state IN ('waiting', 'awaiting_card'))
UNION ALL
SELECT 'unpaid and an uncollectible invoice are not the same', s.id FROM s
 WHERE (status = 'unpaid') <> EXISTS (SELECT FROM i WHERE i.subscription_id = s.id AND i.status = 'uncollectible')
UNION ALL
SELECT 'more or fewer cycles than paid invoices', s.id FROM s
 WHERE cycles <> (SELECT count(*) FROM i WHERE i.subscription_id = s.id AND i.status = 'paid')
UNION ALL
SELECT 'ended, and it owes', s.id FROM s JOIN i ON i.subscription_id = s.id
 WHERE s.ended_at IS NOT NULL AND i.status IN ('open', 'uncollectible')
UNION ALL
SELECT 'due, and nothing is in flight', s.id FROM s
 WHERE status IN ('active', 'trialing', 'incomplete') AND current_period_end <= $2
   AND NOT EXISTS (SELECT FROM a WHERE a.subscription_id = s.id AND a.state = 'in_flight')
UNION ALL
SELECT 'recovery is due, and nothing is in flight', d.id FROM d
 WHERE next_attempt_at <= $2 AND NOT EXISTS (SELECT FROM a WHERE a.subscription_id = d.subscription_id AND a.state = 'in_flight')
UNION ALL
SELECT 'in flight without a charge, or the reverse', d.id FROM d
 WHERE in_flight <> EXISTS (SELECT FROM c WHERE c.invoice_id = d.invoice_id AND c.state = 'in_flight') AND state = 'waiting'
UNION ALL
SELECT 'paid without one charge of its amount, or the reverse', i.id FROM i
 WHERE (status = 'paid') <> EXISTS (SELECT FROM c WHERE c.invoice_id = i.id AND c.state = 'succeeded' AND c.amount = i.amount)
UNION ALL
SELECT 'charges are miscounted', i.id FROM i
 WHERE attempts <> (SELECT count(*) FROM c WHERE c.invoice_id = i.id) OR attempts <> (SELECT max(number) FROM c WHERE c.invoice_id = i.id)
UNION ALL
SELECT 'refunds do not add up', c.id FROM c
 WHERE refunded <> (SELECT coalesce(sum(r.amount), 0) FROM a AS r WHERE r.refund_of = c.id AND r.state <> 'failed')
UNION ALL
SELECT 'a recovery of nothing that failed', d.id FROM d
 WHERE NOT EXISTS (SELECT FROM c WHERE c.invoice_id = d.invoice_id AND c.state = 'failed')
"""


async def check_invariants(billing: TenantBilling) -> None:
    """Checks the invariants after a scan, and that the gateway took what the rows say."""
    broken = await billing.pool.fetch(_BROKEN, billing.tenant, billing.clock.time)
    assert not broken, [f"{row['what']}: {row['id']}" for row in broken]
    paid = "SELECT coalesce(sum(amount), 0) FROM payment_attempts WHERE tenant_id = $1 AND kind = 'charge' AND state = 'succeeded'"
    assert billing.gateway.taken.total() == await billing.pool.fetchval(paid, billing.tenant)
