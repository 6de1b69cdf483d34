-- A delivery's life. See migrations/data/0004_deliveries.sql for the columns' meaning.

-- name: endpoints_of_tenants
-- $1 tenants. Where their events may go, as of now.
SELECT id, tenant_id, url, event_types, sealed_headers, enabled, sealed_secrets
  FROM webhook_endpoints
 WHERE tenant_id = ANY($1::uuid[]);

-- name: fan_out
-- Column arrays: $1 id, $2 tenant, $3 endpoint, $4 event, $5 event type, $6 the event's created_at,
-- $7 enabled, $8 claimed; $9 lease, $10 worker, $11 lease duration. One delivery per (event, endpoint); returns the
-- ids that are new. What the worker has room for is leased at birth and needs no second look.
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
  FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::text[], $6::timestamptz[], $7::boolean[], $8::boolean[])
       AS n (id, tenant_id, endpoint_id, event_id, event_type, created_at, enabled, claimed)
ON CONFLICT (event_id, endpoint_id, created_at) DO NOTHING
RETURNING id;

-- name: endpoints_waiting
-- $1 start after this endpoint, $2 limit. Endpoints that have a delivery due, each found by one step along the index.
WITH RECURSIVE step (endpoint_id, tenant_id, due_at) AS (
    (SELECT endpoint_id, tenant_id, due_at FROM webhook_deliveries
      WHERE status = 'pending' AND lease IS NULL AND endpoint_id > $1
      ORDER BY endpoint_id, due_at LIMIT 1)
    UNION ALL
    SELECT next.endpoint_id, next.tenant_id, next.due_at
      FROM step,
           LATERAL (SELECT d.endpoint_id, d.tenant_id, d.due_at FROM webhook_deliveries d
                     WHERE d.status = 'pending' AND d.lease IS NULL AND d.endpoint_id > step.endpoint_id
                     ORDER BY d.endpoint_id, d.due_at LIMIT 1) AS next
)
SELECT tenant_id, endpoint_id FROM step WHERE due_at <= now() LIMIT $2;

-- name: claim
-- $1 endpoints, $2 how many of each, $3 lease, $4 worker, $5 lease duration. Oldest due first; what another
-- worker is claiming is passed by. Returns all that sending needs.
WITH picked AS MATERIALIZED (
    SELECT d.id, d.created_at
      FROM unnest($1::uuid[], $2::integer[]) AS want (endpoint_id, room)
     CROSS JOIN LATERAL (SELECT d.id, d.created_at FROM webhook_deliveries d
                          WHERE d.endpoint_id = want.endpoint_id AND d.status = 'pending' AND d.lease IS NULL
                            AND d.due_at <= now()
                          ORDER BY d.due_at
                          LIMIT want.room
                            FOR UPDATE SKIP LOCKED) d
), claimed AS (
    UPDATE webhook_deliveries d
       SET lease = $3, leased_by = $4, leased_until = now() + $5::interval
      FROM picked p
     WHERE d.id = p.id AND d.created_at = p.created_at
    RETURNING d.id, d.tenant_id, d.endpoint_id, d.event_id, d.event_type, d.created_at, d.tries, d.replays
)
SELECT c.id, c.tenant_id, c.endpoint_id, c.event_id, c.event_type, c.created_at, c.tries, c.replays > 0 AS replay,
       e.data::text AS data
  FROM claimed c
  JOIN events e ON e.id = c.event_id AND e.created_at = c.created_at;

-- name: endpoints_by_id
-- $1 endpoints.
SELECT id, tenant_id, url, event_types, sealed_headers, enabled, sealed_secrets
  FROM webhook_endpoints
 WHERE id = ANY($1::uuid[]);

-- name: settle
-- Column arrays, one entry per delivery: $1 delivery, $2 the event's created_at, $3 lease, $4 verdict
-- (delivered, failed, skipped, retry, kept), $5 how long until the retry, $6 replay, and of the attempt, whose id is
-- null when none was made: $7 id, $8 tenant, $9 endpoint, $10 started_at, $11 outcome, $12 status code, $13 error,
-- $14 response body, $15 address, $16 … $20 milliseconds of dns, connect, tls, first byte, total.
-- The lease fences: a delivery that was taken over keeps its newer state, and the attempt is told as unsettled.
-- A replay that was asked for meanwhile starts the schedule anew instead of ending it. Returns what was settled.
WITH result AS (
    SELECT r.*, r.verdict IN ('delivered', 'failed', 'skipped') AS ends, r.replay::integer AS replayed
      FROM unnest($1::uuid[], $2::timestamptz[], $3::bigint[], $4::text[], $5::interval[], $6::boolean[],
                  $7::uuid[], $8::uuid[], $9::uuid[], $10::timestamptz[], $11::text[], $12::smallint[], $13::text[],
                  $14::bytea[], $15::text[], $16::real[], $17::real[], $18::real[], $19::real[], $20::real[])
           AS r (delivery_id, created_at, lease, verdict, retry_in, replay,
                 attempt_id, tenant_id, endpoint_id, started_at, outcome, status_code, error,
                 response_body, address, dns_ms, connect_ms, tls_ms, first_byte_ms, total_ms)
), settled AS (
    UPDATE webhook_deliveries d
       SET status     = CASE WHEN r.ends AND d.replays <= r.replayed THEN r.verdict ELSE 'pending' END,
           settled_at = CASE WHEN r.ends AND d.replays <= r.replayed THEN now() END,
           attempts   = d.attempts + (r.attempt_id IS NOT NULL)::integer,
           tries      = CASE WHEN r.ends AND d.replays > r.replayed THEN 0
                             WHEN r.verdict = 'kept' THEN d.tries
                             ELSE d.tries + (r.attempt_id IS NOT NULL)::integer END,
           replays    = greatest(d.replays - r.replayed - r.ends::integer, 0),
           retry_at   = CASE WHEN r.ends AND d.replays > r.replayed THEN now()
                             WHEN r.ends THEN NULL
                             WHEN r.verdict = 'kept' THEN d.retry_at
                             ELSE now() + r.retry_in END,
           due_at     = CASE WHEN d.replays > r.replayed THEN now()
                             WHEN r.ends THEN NULL
                             WHEN r.verdict = 'kept' THEN d.retry_at
                             ELSE now() + r.retry_in END,
           lease = NULL, leased_by = NULL, leased_until = NULL
      FROM result r
     WHERE d.id = r.delivery_id AND d.created_at = r.created_at AND d.lease = r.lease
    RETURNING d.id, r.lease
), history AS (
    INSERT INTO webhook_attempts (id, tenant_id, delivery_id, endpoint_id, created_at, replay, started_at, outcome,
                                  status_code, error, response_body, address,
                                  dns_ms, connect_ms, tls_ms, first_byte_ms, total_ms, settled)
    SELECT r.attempt_id, r.tenant_id, r.delivery_id, r.endpoint_id, r.created_at, r.replay, r.started_at, r.outcome,
           r.status_code, r.error, r.response_body, r.address,
           r.dns_ms, r.connect_ms, r.tls_ms, r.first_byte_ms, r.total_ms,
           EXISTS (SELECT FROM settled s WHERE s.id = r.delivery_id AND s.lease = r.lease)
      FROM result r
     WHERE r.attempt_id IS NOT NULL
    ON CONFLICT DO NOTHING
)
SELECT id FROM settled;

-- name: release_unknown_leases
-- $1 worker, $2 the leases it knows of, $3 lease duration, $4 how old a lease must be. Gives back what the worker
-- holds without knowing it: a claim whose commit looked as if it had failed.
UPDATE webhook_deliveries
   SET lease = NULL, leased_by = NULL, leased_until = NULL
 WHERE lease IS NOT NULL AND leased_by = $1 AND lease <> ALL($2::bigint[])
   AND leased_until < now() + $3::interval - $4::interval;

-- name: take_over
-- $1 workers known to be dead. Their deliveries are due at once.
UPDATE webhook_deliveries
   SET lease = NULL, leased_by = NULL, leased_until = NULL
 WHERE lease IS NOT NULL AND leased_by = ANY($1::integer[]);

-- name: release_orphans
-- $1 workers that are registered, $2 lease duration, $3 how old a lease must be. What is leased to nobody, and what
-- anybody has held beyond every deadline, is due again.
UPDATE webhook_deliveries
   SET lease = NULL, leased_by = NULL, leased_until = NULL
 WHERE lease IS NOT NULL
   AND (leased_until < now()
        OR (leased_by <> ALL($1::integer[]) AND leased_until < now() + $2::interval - $3::interval));

-- name: note_health
-- Column arrays, one entry per endpoint: $1 endpoint, $2 tenant, $3 succeeded last, $4 failures since the last
-- success of this batch (or in all), $5 when, $6 error.
INSERT INTO endpoint_health AS h (endpoint_id, tenant_id, consecutive_failures, failing_since,
                                  last_success_at, last_failure_at, last_error)
SELECT n.endpoint_id, n.tenant_id, n.failures, CASE WHEN n.failures > 0 THEN n.at END,
       CASE WHEN n.succeeded THEN n.at END, CASE WHEN n.failures > 0 THEN n.at END, n.error
  FROM unnest($1::uuid[], $2::uuid[], $3::boolean[], $4::integer[], $5::timestamptz[], $6::text[])
       AS n (endpoint_id, tenant_id, succeeded, failures, at, error)
 ORDER BY n.endpoint_id  -- two workers upsert in one order: no deadlock
ON CONFLICT (endpoint_id) DO UPDATE
   SET consecutive_failures = excluded.consecutive_failures
           + CASE WHEN excluded.last_success_at IS NULL THEN h.consecutive_failures ELSE 0 END,
       failing_since = CASE WHEN excluded.last_success_at IS NULL THEN coalesce(h.failing_since, excluded.failing_since)
                            ELSE excluded.failing_since END,
       last_success_at = coalesce(excluded.last_success_at, h.last_success_at),
       last_failure_at = coalesce(excluded.last_failure_at, h.last_failure_at),
       last_error = CASE WHEN excluded.consecutive_failures > 0 THEN excluded.last_error
                         WHEN excluded.last_success_at IS NOT NULL THEN NULL ELSE h.last_error END,
       updated_at = now();

-- name: disable_endpoint
-- $1 endpoint, $2 reason, $3 the URL that gave cause, or null. Whether it was enabled, and there, until now.
SELECT disable_endpoint($1, $2, $3);

-- name: do_not_wait_long
-- For the present transaction: somebody may be at the endpoint's row.
SET LOCAL lock_timeout = '2s';

-- name: enable_endpoint
-- $1 endpoint. Whether it was disabled until now.
SELECT enable_endpoint($1);

-- name: list
-- $1 tenant, $2 status or null, $3 endpoint or null, $4 and $5 the last row's created_at and id or null, $6 limit.
SELECT id, endpoint_id, event_id, event_type, created_at, status, attempts, due_at, settled_at
  FROM webhook_deliveries
 WHERE tenant_id = $1
   AND ($2::text IS NULL OR status = $2)
   AND ($3::uuid IS NULL OR endpoint_id = $3)
   AND (created_at, id) < (coalesce($4::timestamptz, 'infinity'), $5::uuid)
 ORDER BY created_at DESC, id DESC
 LIMIT $6;

-- name: locate
-- $1 delivery. Whose it is.
SELECT tenant_id FROM webhook_deliveries WHERE id = $1;

-- name: show
-- $1 tenant, $2 delivery.
SELECT id, endpoint_id, event_id, event_type, created_at, status, attempts AS attempts_made, tries, replays, due_at, retry_at,
       settled_at, lease IS NOT NULL AS in_flight
  FROM webhook_deliveries
 WHERE tenant_id = $1 AND id = $2;

-- name: attempts
-- $1 tenant, $2 delivery, $3 the event's created_at. Oldest first.
SELECT id, started_at, replay, outcome, status_code, error, response_body, address,
       dns_ms, connect_ms, tls_ms, first_byte_ms, total_ms, settled
  FROM webhook_attempts
 WHERE tenant_id = $1 AND delivery_id = $2 AND created_at = $3
 ORDER BY id;

-- name: replay
-- $1 tenant, $2 delivery. A settled delivery starts its schedule anew; a pending one gets one more attempt
-- at once, and its schedule stays as it is. Returns the status it had.
UPDATE webhook_deliveries d
   SET status     = 'pending',
       settled_at = NULL,
       tries      = CASE WHEN was.status = 'pending' THEN d.tries ELSE 0 END,
       replays    = d.replays + (was.status = 'pending')::integer,
       retry_at   = CASE WHEN was.status = 'pending' THEN d.retry_at ELSE now() END,
       due_at     = now()
  FROM (SELECT id, created_at, status FROM webhook_deliveries
         WHERE tenant_id = $1 AND id = $2 FOR UPDATE) AS was
 WHERE d.id = was.id AND d.created_at = was.created_at
RETURNING was.status;

-- name: replay_since
-- $1 tenant, $2 statuses, $3 endpoint or null, $4 since, $5 until, $6 and $7 the last row's created_at and id or
-- null, $8 limit. One step of a bulk replay, oldest first; returns where it got to and what it replayed.
WITH step AS (
    SELECT d.id, d.created_at, d.status, d.endpoint_id
      FROM webhook_deliveries d
     WHERE d.tenant_id = $1 AND d.created_at >= $4 AND d.created_at < $5
       AND (d.created_at, d.id) > (coalesce($6::timestamptz, '-infinity'), $7::uuid)
     ORDER BY d.created_at, d.id
     LIMIT $8
), replayed AS (
    UPDATE webhook_deliveries d
       SET status = 'pending', settled_at = NULL, tries = 0, retry_at = now(), due_at = now()
      FROM step s
     WHERE d.id = s.id AND d.created_at = s.created_at
       AND d.status = ANY($2::text[]) AND ($3::uuid IS NULL OR d.endpoint_id = $3)
       AND EXISTS (SELECT FROM webhook_endpoints w WHERE w.id = d.endpoint_id AND w.enabled)
    RETURNING d.id
)
SELECT (SELECT count(*) FROM replayed) AS replayed, count(*) AS seen,
       (array_agg(created_at ORDER BY created_at DESC, id DESC))[1] AS created_at,
       (array_agg(id ORDER BY created_at DESC, id DESC))[1] AS id
  FROM step;
