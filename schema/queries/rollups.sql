-- Rollups: sums are added to, states are replaced. See migrations/data/0018_rollups.sql.

-- name: states
-- $1 generation; arrays of $2 tenants, $3 subscriptions. The known ones. OFFSET 0 keeps it a look-up per
-- row.
SELECT k.tenant_id, k.subscription_id, s.pos, s.status, s.plan_id, s.currency, s.mrr, s.was_active,
       s.failure_code
  FROM unnest($2::uuid[], $3::uuid[]) AS k (tenant_id, subscription_id)
 CROSS JOIN LATERAL (SELECT * FROM subscription_states s
                      WHERE s.generation = $1 AND s.tenant_id = k.tenant_id
                        AND s.subscription_id = k.subscription_id
                     OFFSET 0) s;

-- name: add_events
-- $1 generation; arrays of $2 tenants, $3 types, $4 hours, $5 plans, $6 rails, $7 failure codes, $8
-- currencies, $9 events, $10 those without an amount, $11 the sum of the others' amounts.
INSERT INTO event_hours AS h (generation, tenant_id, type, hour, plan_id, rail, failure_code, currency,
                              events, unpriced, amount)
SELECT $1, * FROM unnest($2::uuid[], $3::text[], $4::timestamptz[], $5::uuid[], $6::text[], $7::text[],
                         $8::text[], $9::bigint[], $10::bigint[], $11::bigint[])
ON CONFLICT (generation, tenant_id, type, hour, plan_id, rail, failure_code, currency) DO UPDATE
   SET events = h.events + excluded.events, unpriced = h.unpriced + excluded.unpriced,
       amount = h.amount + excluded.amount;

-- name: add_movements
-- $1 generation; arrays of $2 tenants, $3 hours, $4 kinds, $5 plans, $6 currencies, $7 subscriptions, $8
-- change of the number that counts, $9 change of MRR.
INSERT INTO movement_hours
    AS h (generation, tenant_id, hour, kind, plan_id, currency, subscriptions, counted, mrr)
SELECT $1, * FROM unnest($2::uuid[], $3::timestamptz[], $4::text[], $5::uuid[], $6::text[],
                         $7::bigint[], $8::bigint[], $9::bigint[])
ON CONFLICT (generation, tenant_id, hour, kind, plan_id, currency) DO UPDATE
   SET subscriptions = h.subscriptions + excluded.subscriptions, counted = h.counted + excluded.counted,
       mrr = h.mrr + excluded.mrr;

-- name: add_recoveries
-- $1 generation; arrays of $2 tenants, $3 hours, $4 kinds, $5 failure codes, $6 currencies, $7
-- subscriptions, $8 amounts.
INSERT INTO recovery_hours
    AS h (generation, tenant_id, hour, kind, failure_code, currency, subscriptions, amount)
SELECT $1, * FROM unnest($2::uuid[], $3::timestamptz[], $4::text[], $5::text[], $6::text[], $7::bigint[],
                         $8::bigint[])
ON CONFLICT (generation, tenant_id, hour, kind, failure_code, currency) DO UPDATE
   SET subscriptions = h.subscriptions + excluded.subscriptions, amount = h.amount + excluded.amount;

-- name: save_states
-- $1 generation; arrays of $2 tenants, $3 subscriptions, $4 positions, $5 statuses, $6 plans, $7
-- currencies, $8 MRR, $9 whether it was active, $10 failure codes.
INSERT INTO subscription_states
    AS s (generation, tenant_id, subscription_id, pos, status, plan_id, currency, mrr,
                                      was_active, failure_code)
SELECT $1, * FROM unnest($2::uuid[], $3::uuid[], $4::bigint[], $5::text[], $6::uuid[], $7::text[],
                         $8::bigint[], $9::boolean[], $10::text[])
ON CONFLICT (generation, tenant_id, subscription_id) DO UPDATE
   SET pos = excluded.pos, status = excluded.status, plan_id = excluded.plan_id, currency = excluded.currency,
       mrr = excluded.mrr, was_active = excluded.was_active, failure_code = excluded.failure_code;
