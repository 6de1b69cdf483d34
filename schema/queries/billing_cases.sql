-- Statements of the billing engine, across tenants and in batches: lock the subscriptions, read everything
-- about them with a snapshot younger than the locks, then write whole rows. See
-- schema/billing/billing_cases.py.
--
-- A subquery per subscription checks whether an attempt is in flight. NOT EXISTS would be a join, and while
-- few attempts are in flight the planner compares each subscription with all of them.

-- name: lock_due
-- $1 status, $2 now, $3 limit, $4 tenants or null: all. Subscriptions whose period has ended and that have
-- no attempt in flight, the longest due first.
SELECT s.tenant_id, s.id
  FROM subscriptions s
 WHERE s.status = $1 AND s.current_period_end <= $2
   AND (s.held_until IS NULL OR s.held_until <= $2)
   AND ($4::uuid[] IS NULL OR s.tenant_id = ANY($4))
   AND (SELECT a.id FROM payment_attempts a
         WHERE a.tenant_id = s.tenant_id AND a.subscription_id = s.id AND a.state = 'in_flight') IS NULL
 ORDER BY s.current_period_end
 LIMIT $3
   FOR NO KEY UPDATE OF s SKIP LOCKED;

-- name: lock_recovering
-- $1 state of the dunning schedule, $2 now, $3 limit, $4 tenants or null: all. Subscriptions with a due
-- schedule and no attempt in flight (such as a refund), the longest due first.
SELECT s.tenant_id, s.id
  FROM dunning_schedules d
  JOIN subscriptions s ON s.tenant_id = d.tenant_id AND s.id = d.subscription_id
 WHERE d.state = $1 AND d.next_attempt_at <= $2 AND NOT d.in_flight
   AND (s.held_until IS NULL OR s.held_until <= $2)
   AND ($4::uuid[] IS NULL OR s.tenant_id = ANY($4))
   AND (SELECT a.id FROM payment_attempts a
         WHERE a.tenant_id = s.tenant_id AND a.subscription_id = s.id AND a.state = 'in_flight') IS NULL
 ORDER BY d.next_attempt_at
 LIMIT $3
   FOR NO KEY UPDATE OF s SKIP LOCKED;

-- name: lock_of_attempts
-- $1 tenants, $2 payment attempts. Their subscriptions, always in the same order, so that two batches do
-- not deadlock.
SELECT s.tenant_id, s.id
  FROM unnest($1::uuid[], $2::uuid[]) AS k (tenant_id, id)
  JOIN payment_attempts a ON a.tenant_id = k.tenant_id AND a.id = k.id
  JOIN subscriptions s ON s.tenant_id = a.tenant_id AND s.id = a.subscription_id
 ORDER BY s.tenant_id, s.id
   FOR NO KEY UPDATE OF s;

-- name: lock
-- $1 tenant, $2 subscription.
SELECT tenant_id, id FROM subscriptions WHERE tenant_id = $1 AND id = $2 FOR NO KEY UPDATE;

-- name: cases
-- $1 tenants, $2 subscriptions. Each with its attempt in flight, if any; that attempt's invoice, or else
-- the unpaid one, with its dunning schedule; and for a refund in flight the charge.
SELECT s AS subscription, p AS plan, c.blacklisted_at IS NOT NULL AS blacklisted, o AS promo_code,
       t AS settings, a AS attempt, coalesce(i, u) AS invoice, d AS schedule, r AS charge
  FROM unnest($1::uuid[], $2::uuid[]) WITH ORDINALITY AS k (tenant_id, id, n)
  JOIN subscriptions s ON s.tenant_id = k.tenant_id AND s.id = k.id
  JOIN plans p ON p.tenant_id = s.tenant_id AND p.id = s.plan_id
  JOIN customers c ON c.tenant_id = s.tenant_id AND c.id = s.customer_id
  LEFT JOIN promo_codes o ON o.tenant_id = s.tenant_id AND o.id = s.promo_code_id
  LEFT JOIN store_settings t ON t.tenant_id = s.tenant_id
  LEFT JOIN payment_attempts a ON a.tenant_id = s.tenant_id AND a.subscription_id = s.id
      AND a.state = 'in_flight'
  LEFT JOIN payment_attempts r ON r.tenant_id = a.tenant_id AND r.id = a.refund_of
  LEFT JOIN invoices i ON i.tenant_id = a.tenant_id AND i.id = a.invoice_id
  LEFT JOIN invoices u ON u.tenant_id = s.tenant_id AND u.subscription_id = s.id
      AND u.status IN ('open', 'uncollectible')
  LEFT JOIN dunning_schedules d ON d.tenant_id = coalesce(i.tenant_id, u.tenant_id)
      AND d.invoice_id = coalesce(i.id, u.id)
 ORDER BY k.n;

-- name: add_subscriptions
-- $1 rows.
INSERT INTO subscriptions SELECT * FROM unnest($1::subscriptions[]);

-- name: save_subscriptions
-- $1 rows. The customer does not change.
UPDATE subscriptions s
   SET plan_id = n.plan_id, status = n.status, payment_method_id = n.payment_method_id,
       promo_code_id = n.promo_code_id,
       anchor = n.anchor, period = n.period, current_period_start = n.current_period_start,
       current_period_end = n.current_period_end, cycles = n.cycles, max_cycles = n.max_cycles,
       cancel_at_period_end = n.cancel_at_period_end, held_until = n.held_until, fault = n.fault,
       updated_at = n.updated_at, ended_at = n.ended_at
  FROM unnest($1::subscriptions[]) AS n
 WHERE s.tenant_id = n.tenant_id AND s.id = n.id;

-- name: add_invoices
-- $1 rows. Returns the new ones: an idempotency key that exists is skipped.
INSERT INTO invoices SELECT * FROM unnest($1::invoices[])
ON CONFLICT (tenant_id, idempotency_key) DO NOTHING
RETURNING id;

-- name: save_invoices
-- $1 rows. Only what changes after creation.
UPDATE invoices i
   SET status = n.status, attempts = n.attempts, paid_at = n.paid_at
  FROM unnest($1::invoices[]) AS n
 WHERE i.tenant_id = n.tenant_id AND i.id = n.id;

-- name: add_attempts
-- $1 rows.
INSERT INTO payment_attempts SELECT * FROM unnest($1::payment_attempts[]);

-- name: save_attempts
-- $1 rows. Only what changes after creation.
UPDATE payment_attempts a
   SET state = n.state, failure_code = n.failure_code, refunded = n.refunded, leased_until = n.leased_until,
       finished_at = n.finished_at
  FROM unnest($1::payment_attempts[]) AS n
 WHERE a.tenant_id = n.tenant_id AND a.id = n.id;

-- name: save_schedules
-- $1 rows, new or existing: one per invoice.
INSERT INTO dunning_schedules AS d SELECT * FROM unnest($1::dunning_schedules[])
ON CONFLICT (tenant_id, invoice_id) DO UPDATE
   SET state = excluded.state, attempts = excluded.attempts, rail = excluded.rail,
       failure_code = excluded.failure_code,
       last_action = excluded.last_action, last_reason = excluded.last_reason, in_flight = excluded.in_flight,
       next_attempt_at = excluded.next_attempt_at, updated_at = excluded.updated_at;

-- name: record_events
-- Column arrays: $1 tenant, $2 type, $3 data, $4 moment (null: now). Their ids, in the order of recording.
SELECT record_event(e.tenant_id, e.type, e.data, e.at) AS id
  FROM unnest($1::uuid[], $2::text[], $3::jsonb[], $4::timestamptz[]) WITH ORDINALITY
      AS e (tenant_id, type, data, at, n)
 ORDER BY e.n;

-- name: take_over
-- $1 now, $2 limit, $3 the new lease's end, $4 tenants or null: all. Attempts in flight whose lease has
-- expired, the longest first, with the payment method of each.
UPDATE payment_attempts a
   SET leased_until = $3
  FROM (SELECT tenant_id, id FROM payment_attempts
         WHERE leased_until <= $1 AND ($4::uuid[] IS NULL OR tenant_id = ANY($4))
         ORDER BY leased_until LIMIT $2
           FOR NO KEY UPDATE SKIP LOCKED) AS k, subscriptions s
 WHERE a.tenant_id = k.tenant_id AND a.id = k.id
   AND s.tenant_id = a.tenant_id AND s.id = a.subscription_id
RETURNING a AS attempt, s.payment_method_id;

-- name: hold
-- $1 tenants, $2 subscriptions, $3 until, $4 error.
UPDATE subscriptions s
   SET held_until = $3, fault = $4
  FROM unnest($1::uuid[], $2::uuid[]) AS k (tenant_id, id)
 WHERE s.tenant_id = k.tenant_id AND s.id = k.id;

-- name: clock
SELECT clock_timestamp();

-- name: transaction_id
-- The id by which `fate` finds this transaction; null: it has written nothing.
SELECT pg_current_xact_id_if_assigned()::text;

-- name: fate
-- $1 transaction. Returns committed, aborted or in progress; null: too long ago.
SELECT pg_xact_status($1::text::xid8);

-- name: next_due
-- $1 now, $2 tenants or null: all. When each scanner next has work; null: never, in the present state.
WITH next (scanner, at) AS (
    SELECT t.status, (SELECT s.current_period_end FROM subscriptions s
                       WHERE s.status = t.status AND ($2::uuid[] IS NULL OR s.tenant_id = ANY($2))
                         AND (s.held_until IS NULL OR s.held_until <= $1)
                       ORDER BY s.current_period_end LIMIT 1)
      FROM unnest('{active,trialing,incomplete}'::text[]) AS t (status)
    UNION ALL
    SELECT t.state, (SELECT d.next_attempt_at FROM dunning_schedules d
                      WHERE d.state = t.state AND NOT d.in_flight
                        AND ($2::uuid[] IS NULL OR d.tenant_id = ANY($2))
                      ORDER BY d.next_attempt_at LIMIT 1)
      FROM unnest('{waiting,awaiting_card}'::text[]) AS t (state)
    UNION ALL
    SELECT 'in_flight', (SELECT a.leased_until FROM payment_attempts a
                          WHERE a.leased_until IS NOT NULL AND ($2::uuid[] IS NULL OR a.tenant_id = ANY($2))
                          ORDER BY a.leased_until LIMIT 1)
)
SELECT scanner, at FROM next WHERE at IS NOT NULL;

-- name: status
-- $1 now, $2 since when an attempt in flight counts as unanswered. Counts what is due, in flight, waiting
-- and held, each by index, up to 100,000. Held subscriptions are counted apart and are not late.
SELECT (SELECT count(*) FROM (SELECT FROM subscriptions WHERE status = 'active' AND current_period_end <= $1
                                 AND (held_until IS NULL OR held_until <= $1) LIMIT 100000) x)
       + (SELECT count(*) FROM (SELECT FROM subscriptions
                                WHERE status = 'trialing' AND current_period_end <= $1
                                   AND (held_until IS NULL OR held_until <= $1) LIMIT 100000) x)
           AS renewals_due,
       $1 - least((SELECT current_period_end FROM subscriptions
                    WHERE status = 'active' AND (held_until IS NULL OR held_until <= $1)
                    ORDER BY current_period_end LIMIT 1),
                  (SELECT current_period_end FROM subscriptions
                    WHERE status = 'trialing' AND (held_until IS NULL OR held_until <= $1)
                    ORDER BY current_period_end LIMIT 1)) AS renewals_late_by,
       (SELECT count(*) FROM (SELECT FROM dunning_schedules WHERE state = 'waiting' AND next_attempt_at <= $1
                              LIMIT 100000) x)
           AS recoveries_due,
       (SELECT count(*) FROM (SELECT FROM dunning_schedules WHERE state = 'waiting' LIMIT 100000) x)
           AS recovering,
       (SELECT count(*) FROM (SELECT FROM dunning_schedules WHERE state = 'awaiting_card' LIMIT 100000) x)
           AS awaiting_card,
       (SELECT count(*) FROM (SELECT FROM payment_attempts WHERE leased_until IS NOT NULL LIMIT 100000) x)
           AS in_flight,
       (SELECT count(*) FROM (SELECT FROM payment_attempts WHERE leased_until IS NOT NULL AND created_at <= $2
                              LIMIT 100000) x)
           AS unanswered,
       (SELECT count(*) FROM (SELECT FROM subscriptions WHERE held_until > $1 LIMIT 100000) x) AS held;

-- name: unanswered
-- $1 in flight since before this time, $2 limit. Attempts without an answer of the gateway.
SELECT tenant_id, id, subscription_id, kind, amount, currency, created_at
  FROM payment_attempts
 WHERE leased_until IS NOT NULL AND created_at <= $1
 ORDER BY leased_until
 LIMIT $2;

-- name: held
-- $1 now, $2 limit. Subscriptions that the scanners skip, and why.
SELECT tenant_id, id, held_until, fault FROM subscriptions WHERE held_until > $1 ORDER BY held_until LIMIT $2;

-- name: release
-- Lets the scanners process held subscriptions again. Returns how many were held. Found by the index of
-- held ones, and locked in the order in which results are written.
WITH held AS MATERIALIZED (SELECT tenant_id, id FROM subscriptions WHERE held_until >= '-infinity'
                           ORDER BY held_until),
locked AS (SELECT s.tenant_id, s.id FROM held h
           JOIN subscriptions s ON s.tenant_id = h.tenant_id AND s.id = h.id
            ORDER BY s.tenant_id, s.id FOR NO KEY UPDATE OF s),
released AS (UPDATE subscriptions s SET held_until = NULL, fault = NULL
               FROM locked l WHERE s.tenant_id = l.tenant_id AND s.id = l.id RETURNING 1)
SELECT count(*) FROM released;
