-- The activity feed. See migrations/data/0017_activity.sql for the columns and the indexes. Each list below
-- walks one index. The view picks the serving generation.

-- name: add
-- $1 generation. Column arrays, one entry per event: $2 id, $3 tenant, $4 created_at, $5 pos, $6 type, $7
-- summary, $8 subject kind, $9 subject, $10 subscription, $11 invoice, $12 customer, $13 amount, $14
-- currency, $15 links. An existing entry is kept.
INSERT INTO activity (generation, id, tenant_id, created_at, pos, type, summary, subject_kind, subject_id,
                      subscription_id, invoice_id, customer_id, amount, currency, links)
SELECT $1::integer, n.*
  FROM unnest($2::uuid[], $3::uuid[], $4::timestamptz[], $5::bigint[], $6::text[], $7::text[], $8::text[],
              $9::uuid[],
              $10::uuid[], $11::uuid[], $12::uuid[], $13::bigint[], $14::text[], $15::jsonb[]) AS n
ON CONFLICT DO NOTHING;

-- name: list
-- $1 tenant, $2 from and $3 until (exclusive) or null, $4 and $5 the last row's created_at and id or null,
-- $6 limit. Newest first. Here and below each bound of time is a condition of its own, so that months
-- outside are not read. In the statements below the condition on the tenant is written so that no index on
-- tenants serves it.
SELECT id, created_at, pos, type, summary, subject_kind, subject_id, customer_id, amount, currency, links
  FROM activity_feed
 WHERE tenant_id = $1
   AND created_at >= coalesce($2::timestamptz, '-infinity')
   AND created_at < coalesce($3::timestamptz, 'infinity')
   AND created_at <= coalesce($4::timestamptz, 'infinity')
   AND (created_at, id) < (coalesce($4::timestamptz, 'infinity'), $5::uuid)
 ORDER BY created_at DESC, id DESC
 LIMIT $6;

-- name: by_type
-- $1 … $6 as in list, $7 types. At most one page of each type, then the newest of those.
SELECT f.*
  FROM unnest($7::text[]) AS wanted (type)
 CROSS JOIN LATERAL (
       SELECT id, created_at, pos, type, summary, subject_kind, subject_id, customer_id, amount, currency,
              links
         FROM activity_feed
        WHERE activity_type_key(tenant_id, type) = activity_type_key($1, wanted.type)
          AND type = wanted.type AND tenant_id IS NOT DISTINCT FROM $1
          AND created_at >= coalesce($2::timestamptz, '-infinity')
          AND created_at < coalesce($3::timestamptz, 'infinity')
          AND created_at <= coalesce($4::timestamptz, 'infinity')
          AND (created_at, id) < (coalesce($4::timestamptz, 'infinity'), $5::uuid)
        ORDER BY created_at DESC, id DESC
        LIMIT $6) AS f
 ORDER BY f.created_at DESC, f.id DESC
 LIMIT $6;

-- name: by_customer
-- $1 … $6 as in list, $7 types or null, $8 customer.
SELECT id, created_at, pos, type, summary, subject_kind, subject_id, customer_id, amount, currency, links
  FROM activity_feed
 WHERE customer_id = $8::uuid AND tenant_id IS NOT DISTINCT FROM $1
   AND ($7::text[] IS NULL OR type = ANY($7))
   AND created_at >= coalesce($2::timestamptz, '-infinity')
   AND created_at < coalesce($3::timestamptz, 'infinity')
   AND created_at <= coalesce($4::timestamptz, 'infinity')
   AND (created_at, id) < (coalesce($4::timestamptz, 'infinity'), $5::uuid)
 ORDER BY created_at DESC, id DESC
 LIMIT $6;

-- name: by_subscription
-- $1 … $6 as in list, $7 types or null, $8 customer or null, $9 subscription. Every entry that concerns it.
SELECT id, created_at, pos, type, summary, subject_kind, subject_id, customer_id, amount, currency, links
  FROM activity_feed
 WHERE subscription_id = $9::uuid AND tenant_id IS NOT DISTINCT FROM $1
   AND ($7::text[] IS NULL OR type = ANY($7))
   AND ($8::uuid IS NULL OR customer_id = $8)
   AND created_at >= coalesce($2::timestamptz, '-infinity')
   AND created_at < coalesce($3::timestamptz, 'infinity')
   AND created_at <= coalesce($4::timestamptz, 'infinity')
   AND (created_at, id) < (coalesce($4::timestamptz, 'infinity'), $5::uuid)
 ORDER BY created_at DESC, id DESC
 LIMIT $6;

-- name: by_invoice
-- $1 … $6 as in list, $7 types or null, $8 customer or null, $9 invoice. Every entry that concerns it.
SELECT id, created_at, pos, type, summary, subject_kind, subject_id, customer_id, amount, currency, links
  FROM activity_feed
 WHERE invoice_id = $9::uuid AND tenant_id IS NOT DISTINCT FROM $1
   AND ($7::text[] IS NULL OR type = ANY($7))
   AND ($8::uuid IS NULL OR customer_id = $8)
   AND created_at >= coalesce($2::timestamptz, '-infinity')
   AND created_at < coalesce($3::timestamptz, 'infinity')
   AND created_at <= coalesce($4::timestamptz, 'infinity')
   AND (created_at, id) < (coalesce($4::timestamptz, 'infinity'), $5::uuid)
 ORDER BY created_at DESC, id DESC
 LIMIT $6;

-- name: by_subject
-- $1 … $6 as in list, $7 types or null, $8 customer or null, $9 the subject's id and $10 its prefix, which
-- is neither a subscription's nor an invoice's.
SELECT id, created_at, pos, type, summary, subject_kind, subject_id, customer_id, amount, currency, links
  FROM activity_feed
 WHERE subject_id = $9::uuid AND subject_kind = $10::text AND subject_kind NOT IN ('sub', 'inv')
   AND tenant_id IS NOT DISTINCT FROM $1
   AND ($7::text[] IS NULL OR type = ANY($7))
   AND ($8::uuid IS NULL OR customer_id = $8)
   AND created_at >= coalesce($2::timestamptz, '-infinity')
   AND created_at < coalesce($3::timestamptz, 'infinity')
   AND created_at <= coalesce($4::timestamptz, 'infinity')
   AND (created_at, id) < (coalesce($4::timestamptz, 'infinity'), $5::uuid)
 ORDER BY created_at DESC, id DESC
 LIMIT $6;

-- name: deliveries_of
-- Column arrays: $2 events of tenant $1, $3 their created_at; $4 deliveries of each event to read at most.
-- Counts deliveries by their present state: `retrying` are those whose last attempt failed and that wait
-- for the next one. `endpoints` are the first $5 that have not received the event. Events without
-- deliveries have no row.
SELECT e.id AS event_id, d.*
  FROM unnest($2::uuid[], $3::timestamptz[]) AS e (id, created_at)
 CROSS JOIN LATERAL (
       SELECT count(*) AS deliveries,
              count(*) FILTER (WHERE status = 'failed') AS failed,
              count(*) FILTER (WHERE status = 'skipped') AS skipped,
              count(*) FILTER (WHERE status = 'pending' AND schedule_attempts > 0) AS retrying,
              coalesce((array_agg(endpoint_id ORDER BY endpoint_id)
                            FILTER (WHERE status IN ('failed', 'skipped')
                                       OR status = 'pending' AND schedule_attempts > 0))[:$5::integer],
                       '{}') AS endpoints
         FROM (SELECT endpoint_id, status, schedule_attempts
                 FROM webhook_deliveries
                WHERE event_id = e.id AND created_at = e.created_at AND tenant_id = $1
                ORDER BY endpoint_id
                LIMIT $4) AS seen) AS d
 WHERE d.deliveries > 0;
