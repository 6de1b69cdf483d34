-- The life of a delivery. See migrations/data/0008_deliveries.sql for the columns.
--
-- Conditions name a row by (tenant, id, created_at) although the id is unique. While a partition is empty,
-- all its indexes cost the planner the same. A plan made then must use the index that begins with the
-- tenant, because it is kept while the partition fills.

-- name: endpoints_of_tenants
-- $1 tenants. The endpoints that their events may go to, as of now. Deliveries of a held endpoint are not
-- sent directly: they wait in the table, where claims apply its limits.
SELECT e.id, e.tenant_id, e.url, e.event_types, e.sealed_headers, e.enabled, e.sealed_secrets,
       e.paused OR e.rate_limit IS NOT NULL OR h.open_until IS NOT NULL AS held,
       h.failing_since IS NOT NULL AS failing, now() AS now
  FROM webhook_endpoints e
  LEFT JOIN LATERAL (SELECT h.open_until, h.failing_since FROM endpoint_health h
                      WHERE h.endpoint_id = e.id OFFSET 0) h ON true
 WHERE e.tenant_id = ANY($1::uuid[]);

-- name: fan_out
-- Column arrays: $1 id, $2 tenant, $3 endpoint, $4 event, $5 event type, $6 the event's created_at, $7
-- enabled, $8 claimed; $9 lease, $10 worker, $11 lease duration. One delivery per (event, endpoint);
-- returns the ids of the new ones. Deliveries that the worker has slots for are leased on insert and need
-- no claim.
INSERT INTO webhook_deliveries (id, tenant_id, endpoint_id, event_id, event_type, created_at,
                                status, due_at, retry_at, settled_at, lease, leased_by, leased_until)
SELECT n.id, n.tenant_id, n.endpoint_id, n.event_id, n.event_type, n.created_at,
       CASE WHEN n.enabled THEN 'pending' ELSE 'skipped' END,
       CASE WHEN n.enabled THEN now() END,
       CASE WHEN n.enabled THEN now() END,
       CASE WHEN NOT n.enabled THEN now() END,
       CASE WHEN n.claimed THEN $9::bigint END,
       CASE WHEN n.claimed THEN $10::integer END,
       CASE WHEN n.claimed THEN now() + $11::interval END
  FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::text[], $6::timestamptz[], $7::boolean[],
              $8::boolean[])
       AS n (id, tenant_id, endpoint_id, event_id, event_type, created_at, enabled, claimed)
ON CONFLICT (event_id, endpoint_id, created_at) DO NOTHING
RETURNING id;

-- name: endpoints_waiting
-- $1 lane, $2 start after this endpoint, $3 steps at most. Endpoints with waiting deliveries in the lane,
-- one step along the index each, and whether one of these may be claimed now. OFFSET 0 keeps the joins a
-- look-up per row. No breaker opens for more than five minutes, so a longer time means that the clock was
-- set back after it opened.
WITH RECURSIVE step (number, endpoint_id, tenant_id, due_at) AS (
    (SELECT 1, endpoint_id, tenant_id, due_at FROM webhook_deliveries
      WHERE status = 'pending' AND lease IS NULL AND lane = $1 AND endpoint_id > $2
      ORDER BY endpoint_id, due_at LIMIT 1)
    UNION ALL
    SELECT step.number + 1, next.endpoint_id, next.tenant_id, next.due_at
      FROM step,
           LATERAL (SELECT d.endpoint_id, d.tenant_id, d.due_at FROM webhook_deliveries d
                     WHERE d.status = 'pending' AND d.lease IS NULL AND d.lane = $1
                       AND d.endpoint_id > step.endpoint_id
                     ORDER BY d.endpoint_id, d.due_at LIMIT 1) AS next
     WHERE step.number < $3
)
SELECT s.tenant_id, s.endpoint_id,
       s.due_at <= now() AND NOT coalesce(e.paused, false)
       AND coalesce(h.open_until <= now() OR h.open_until > now() + interval '330 s', true)
       AND ($1 = 0 OR (SELECT retries_paused_at IS NULL FROM delivery_switches)) AS claimable,
       coalesce(e.enabled, true) AS enabled,
       e.rate_limit,
       CASE WHEN h.open_until IS NOT NULL THEN h.openings END AS openings
  FROM step s
  LEFT JOIN LATERAL (SELECT h.open_until, h.openings FROM endpoint_health h
                      WHERE h.endpoint_id = s.endpoint_id OFFSET 0) h ON true
  LEFT JOIN LATERAL (SELECT e.paused, e.enabled, e.rate_limit FROM webhook_endpoints e
                      WHERE e.id = s.endpoint_id OFFSET 0) e ON true
 ORDER BY s.endpoint_id;

-- name: add_rate_limits
-- $1 endpoints with a rate limit. Makes the rows that `lock_rate_limits` locks.
INSERT INTO endpoint_rate_limits (endpoint_id, next_at)
SELECT endpoint_id, '-infinity' FROM unnest($1::uuid[]) AS endpoint_id
ON CONFLICT DO NOTHING;

-- name: lock_rate_limits
-- $1 endpoints. Those that no other worker is claiming for, with the clock that their rate limits go by.
SELECT endpoint_id, nullif(next_at, '-infinity') AS next_at, clock_timestamp() AS now
  FROM endpoint_rate_limits
 WHERE endpoint_id = ANY($1::uuid[])
   FOR UPDATE SKIP LOCKED;

-- name: advance_rate_limits
-- $1 endpoints, $2 when the rate limit allows the next delivery of each.
UPDATE endpoint_rate_limits p
   SET next_at = n.next_at
  FROM unnest($1::uuid[], $2::timestamptz[]) AS n (endpoint_id, next_at)
 WHERE p.endpoint_id = n.endpoint_id;

-- name: claim
-- $1 lane, $2 endpoints, $3 how many of each, $4 lease, $5 worker, $6 lease duration, $7 whether to read
-- the events' data, which may be damaged. Oldest due first. Skips deliveries that another worker is
-- claiming. Returns everything that sending needs.
WITH picked AS MATERIALIZED (
    SELECT d.tenant_id, d.id, d.created_at
      FROM unnest($2::uuid[], $3::integer[]) AS want (endpoint_id, room)
     CROSS JOIN LATERAL (SELECT d.tenant_id, d.id, d.created_at FROM webhook_deliveries d
                          WHERE d.lane = $1 AND d.endpoint_id = want.endpoint_id
                            AND d.status = 'pending' AND d.lease IS NULL AND d.due_at <= now()
                          ORDER BY d.due_at
                          LIMIT want.room
                            FOR UPDATE SKIP LOCKED) d
), claimed AS (
    UPDATE webhook_deliveries d
       SET lease = $4, leased_by = $5, leased_until = now() + $6::interval
      FROM picked p
     WHERE d.tenant_id = p.tenant_id AND d.id = p.id AND d.created_at = p.created_at
    RETURNING d.id, d.tenant_id, d.endpoint_id, d.event_id, d.event_type, d.created_at,
              d.schedule_attempts, d.replays
)
SELECT c.id, c.tenant_id, c.endpoint_id, c.event_id, c.event_type, c.created_at,
       c.schedule_attempts, c.replays > 0 AS replay,
       CASE WHEN $7::boolean THEN e.data::text ELSE '' END AS data
  FROM claimed c
  JOIN events e ON e.tenant_id = c.tenant_id AND e.id = c.event_id AND e.created_at = c.created_at;

-- name: event_data
-- $1 tenant, $2 event, $3 its created_at. The data of one event, as `claim` reads it.
SELECT data::text FROM events WHERE tenant_id = $1 AND id = $2 AND created_at = $3;

-- name: skip_waiting
-- $1 lane, $2 an endpoint that was found disabled, $3 limit. Skips its due deliveries without an attempt,
-- if it is still disabled.
UPDATE webhook_deliveries d
   SET status = 'skipped', settled_at = now(), due_at = NULL, retry_at = NULL, replays = 0
  FROM (SELECT tenant_id, id, created_at FROM webhook_deliveries
         WHERE lane = $1 AND endpoint_id = $2 AND status = 'pending' AND lease IS NULL AND due_at <= now()
           AND EXISTS (SELECT FROM webhook_endpoints e WHERE e.id = $2 AND NOT e.enabled)
         ORDER BY due_at
         LIMIT $3
           FOR UPDATE OF webhook_deliveries SKIP LOCKED) AS waiting
 WHERE d.tenant_id = waiting.tenant_id AND d.id = waiting.id AND d.created_at = waiting.created_at;

-- name: endpoints_by_id
-- $1 endpoints.
SELECT e.id, e.tenant_id, e.url, e.event_types, e.sealed_headers, e.enabled, e.sealed_secrets, true AS held,
       h.failing_since IS NOT NULL AS failing
  FROM webhook_endpoints e
  LEFT JOIN LATERAL (SELECT h.failing_since FROM endpoint_health h WHERE h.endpoint_id = e.id OFFSET 0) h
      ON true
 WHERE e.id = ANY($1::uuid[]);

-- name: settle
-- Column arrays, one entry per delivery: $1 delivery, $2 the event's created_at, $3 lease, $4 verdict
-- (delivered, failed, skipped, retry, kept), $5 how long until the retry, $6 replay, $7 whether an attempt
-- was made, $8 tenant. A delivery with another lease was taken over and keeps its newer state. (The
-- condition on the lease is written so that no index on leases serves it: such a plan, made while a new
-- partition was empty, would be kept.) A replay requested during the attempt starts a new schedule instead
-- of ending it. Returns the settled deliveries.
WITH result AS (
    SELECT r.*, r.verdict IN ('delivered', 'failed', 'skipped') AS ends, r.replay::integer AS replayed,
           r.attempted::integer AS attempt
      FROM unnest($1::uuid[], $2::timestamptz[], $3::bigint[], $4::text[], $5::interval[], $6::boolean[],
                  $7::boolean[], $8::uuid[])
           AS r (delivery_id, created_at, lease, verdict, retry_in, replay, attempted, tenant_id)
), settled AS (
    UPDATE webhook_deliveries d
       SET status     = CASE WHEN r.ends AND d.replays <= r.replayed THEN r.verdict ELSE 'pending' END,
           settled_at = CASE WHEN r.ends AND d.replays <= r.replayed THEN now() END,
           attempts   = d.attempts + r.attempt,
           schedule_attempts = CASE WHEN r.ends AND d.replays > r.replayed THEN 0
                                    WHEN r.verdict = 'kept' THEN d.schedule_attempts
                                    ELSE d.schedule_attempts + r.attempt END,
           replays    = greatest(d.replays - r.replayed - r.ends::integer, 0),
           retry_at   = CASE WHEN r.ends AND d.replays > r.replayed THEN now()
                             WHEN r.ends THEN NULL
                             WHEN r.verdict = 'kept' THEN d.retry_at
                             ELSE now() + r.retry_in END,
           due_at     = CASE WHEN d.replays > r.replayed THEN now()
                             WHEN r.ends THEN NULL
                             WHEN r.verdict = 'kept' THEN d.retry_at
                             ELSE now() + r.retry_in END,
           lane       = 1,
           lease      = NULL, leased_by = NULL, leased_until = NULL
      FROM result r
     WHERE d.tenant_id = r.tenant_id AND d.id = r.delivery_id AND d.created_at = r.created_at
       AND d.lease IS NOT DISTINCT FROM r.lease
    RETURNING d.id, r.lease
)
SELECT id, lease FROM settled;

-- name: record_attempts
-- Column arrays, one entry per attempt: $1 id, $2 tenant, $3 delivery, $4 endpoint, $5 the event's
-- created_at, $6 replay, $7 started_at, $8 outcome, $9 status code, $10 error, $11 response body, $12
-- address, $13 … $17 milliseconds of dns, connect, tls, first byte, total, $18 settled. An existing row
-- stays as it is.
INSERT INTO webhook_attempts (id, tenant_id, delivery_id, endpoint_id, created_at, replay, started_at,
                              outcome, status_code, error, response_body, address,
                              dns_ms, connect_ms, tls_ms, first_byte_ms, total_ms, settled)
SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::timestamptz[], $6::boolean[],
                     $7::timestamptz[], $8::text[], $9::smallint[], $10::text[], $11::bytea[], $12::text[],
                     $13::real[], $14::real[], $15::real[], $16::real[], $17::real[], $18::boolean[])
ON CONFLICT DO NOTHING;

-- name: record_attempts_again
-- $1 … $18 as above. For attempts that may have been recorded before, or whose delivery may be gone:
-- retention drops a month that only a late result still names, and no partition would take that attempt.
INSERT INTO webhook_attempts (id, tenant_id, delivery_id, endpoint_id, created_at, replay, started_at,
                              outcome, status_code, error, response_body, address,
                              dns_ms, connect_ms, tls_ms, first_byte_ms, total_ms, settled)
SELECT n.*
  FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::timestamptz[], $6::boolean[],
              $7::timestamptz[], $8::text[], $9::smallint[], $10::text[], $11::bytea[], $12::text[],
              $13::real[], $14::real[], $15::real[], $16::real[], $17::real[], $18::boolean[])
       AS n (id, tenant_id, delivery_id, endpoint_id, created_at)
 WHERE EXISTS (SELECT FROM webhook_deliveries d
                WHERE d.tenant_id = n.tenant_id AND d.id = n.delivery_id AND d.created_at = n.created_at)
ON CONFLICT DO NOTHING;

-- name: release_unknown_leases
-- $1 worker, $2 the leases it knows, $3 lease duration, $4 minimum age of a lease. Releases leases that the
-- worker holds without knowing: of a claim whose commit seemed to have failed.
UPDATE webhook_deliveries
   SET lease = NULL, leased_by = NULL, leased_until = NULL
 WHERE lease IS NOT NULL AND leased_by = $1 AND lease <> ALL($2::bigint[])
   AND leased_until < now() + $3::interval - $4::interval;

-- name: release_leases
-- $1 the ids that this worker has had, $2 leases that it does not hold any more.
UPDATE webhook_deliveries
   SET lease = NULL, leased_by = NULL, leased_until = NULL
 WHERE lease IS NOT NULL AND leased_by = ANY($1::integer[]) AND lease = ANY($2::bigint[]);

-- name: take_over
-- $1 workers known to be dead. Makes their deliveries due immediately. Rows that another session has locked
-- are skipped, so that they do not delay the others; release_orphans gets them after the worker's row is
-- deleted.
UPDATE webhook_deliveries d
   SET lease = NULL, leased_by = NULL, leased_until = NULL
  FROM (SELECT tenant_id, id, created_at FROM webhook_deliveries
         WHERE lease IS NOT NULL AND leased_by = ANY($1::integer[])
           FOR UPDATE SKIP LOCKED) AS held
 WHERE d.tenant_id = held.tenant_id AND d.id = held.id AND d.created_at = held.created_at;

-- name: release_orphans
-- $1 registered workers, $2 lease duration, $3 minimum age of a lease. Releases leases of workers that are
-- not registered, and leases that a registered worker has held for twice the lease duration. Before that a
-- registered worker may still settle its delivery after an outage. Rows that another session has locked are
-- left to the next sweep.
UPDATE webhook_deliveries d
   SET lease = NULL, leased_by = NULL, leased_until = NULL
  FROM (SELECT tenant_id, id, created_at FROM webhook_deliveries
         WHERE lease IS NOT NULL
           AND CASE WHEN leased_by = ANY($1::integer[]) THEN leased_until < now() - $2::interval
                    ELSE leased_until < now() + $2::interval - $3::interval END
           FOR UPDATE SKIP LOCKED) AS orphaned
 WHERE d.tenant_id = orphaned.tenant_id AND d.id = orphaned.id AND d.created_at = orphaned.created_at;
