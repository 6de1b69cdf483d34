-- The health of endpoints. See migrations/data/0009_endpoint_health.sql for the columns, and
-- delivery/health/breaker.py for the states. All times are the database's, because workers' clocks differ
-- and jump.

-- name: note_health
-- Column arrays, one entry per endpoint: $1 endpoint, $2 tenant, $3 succeeded, $4 failures since the last
-- success of this batch (or in total), $5 error. A success resets the failures before it.
INSERT INTO endpoint_health AS h (endpoint_id, tenant_id, consecutive_failures, failing_since,
                                  last_success_at, last_failure_at, last_error)
SELECT n.endpoint_id, n.tenant_id, n.failures, CASE WHEN n.failures > 0 THEN now() END,
       CASE WHEN n.succeeded THEN now() END, CASE WHEN n.failures > 0 THEN now() END, n.error
  FROM unnest($1::uuid[], $2::uuid[], $3::boolean[], $4::integer[], $5::text[])
       AS n (endpoint_id, tenant_id, succeeded, failures, error)
 ORDER BY n.endpoint_id  -- two workers upsert in one order: no deadlock
ON CONFLICT (endpoint_id) DO UPDATE
   SET consecutive_failures = excluded.consecutive_failures
           + CASE WHEN excluded.last_success_at IS NULL THEN h.consecutive_failures ELSE 0 END,
       failing_since = CASE WHEN excluded.last_success_at IS NULL
                            THEN coalesce(h.failing_since, excluded.failing_since)
                            ELSE excluded.failing_since END,
       last_success_at = coalesce(excluded.last_success_at, h.last_success_at),
       last_failure_at = coalesce(excluded.last_failure_at, h.last_failure_at),
       last_error = CASE WHEN excluded.consecutive_failures > 0 THEN excluded.last_error
                         WHEN excluded.last_success_at IS NOT NULL THEN NULL ELSE h.last_error END,
       warned = CASE WHEN excluded.last_success_at IS NULL THEN h.warned ELSE 0 END,
       updated_at = now();

-- name: open_breakers
-- $1 endpoints, $2 number of openings including this one, $3 how long each opens for, $4 the opening that
-- it follows, or 0. A second opening for the same failures changes nothing. Neither does one that follows
-- an opening that is over, because a closed breaker has no openings.
UPDATE endpoint_health h
   SET open_until = clock_timestamp() + n.open_for, openings = n.openings, updated_at = now()
  FROM unnest($1::uuid[], $2::integer[], $3::interval[], $4::integer[])
      AS n (endpoint_id, openings, open_for, follows)
 WHERE h.endpoint_id = n.endpoint_id AND h.openings >= n.follows AND h.openings < n.openings;

-- name: close_breakers
-- $1 endpoints, $2 the opening that each has recovered from. A later opening stays.
UPDATE endpoint_health h
   SET open_until = NULL, openings = 0, updated_at = now()
  FROM unnest($1::uuid[], $2::integer[]) AS n (endpoint_id, openings)
 WHERE h.endpoint_id = n.endpoint_id AND h.openings <= n.openings;

-- name: already_counted
-- Column arrays: $1 tenant, $2 delivery, $3 attempt, $4 the event's created_at. The attempts that another
-- transaction has recorded, and whether it settled their deliveries.
SELECT a.id, a.settled
  FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::timestamptz[])
      AS n (tenant_id, delivery_id, id, created_at)
  JOIN webhook_attempts a USING (tenant_id, delivery_id, id, created_at)
 WHERE a.xmin <> pg_current_xact_id()::xid;

-- name: failing
-- $1 how long, $2 and $3 the last row's failing_since and endpoint or null, $4 limit. Endpoints that have
-- been failing for that long, the longest first, and whether they are enabled and not paused. With a left
-- join the plan starts from this table's index, whatever the statistics.
SELECT h.endpoint_id, h.tenant_id, h.failing_since, h.last_failure_at, h.warned, now() AS now,
       coalesce(e.enabled AND NOT e.paused, false) AS active
  FROM endpoint_health h
  LEFT JOIN webhook_endpoints e ON e.id = h.endpoint_id
 WHERE h.failing_since <= now() - $1::interval
   AND (h.failing_since, h.endpoint_id) > (coalesce($2::timestamptz, '-infinity'), $3::uuid)
 ORDER BY h.failing_since, h.endpoint_id
 LIMIT $4;

-- name: warn
-- $1 endpoint, $2 failing since, $3 percent. No row after a success in between, or when another worker was
-- first.
UPDATE endpoint_health
   SET warned = $3, updated_at = now()
 WHERE endpoint_id = $1 AND failing_since = $2 AND warned < $3
RETURNING consecutive_failures, last_error;

-- name: reset_health
-- $1 endpoint, $2 failing since, or null: any. Past failures no longer count; returns what they were.
UPDATE endpoint_health h
   SET consecutive_failures = 0, failing_since = NULL, warned = 0, open_until = NULL, openings = 0,
       updated_at = now()
  FROM (SELECT endpoint_id, consecutive_failures, last_error FROM endpoint_health
         WHERE endpoint_id = $1 AND ($2::timestamptz IS NULL OR failing_since = $2)
           FOR UPDATE) AS was
 WHERE h.endpoint_id = was.endpoint_id
RETURNING was.consecutive_failures, was.last_error;

-- name: disable_endpoint
-- $1 endpoint, $2 reason, $3 the URL that caused it, or null. Whether this disabled it.
SELECT disable_endpoint($1, $2, $3);

-- name: enable_endpoint
-- $1 endpoint. Whether this enabled it.
SELECT enable_endpoint($1);

-- name: limit_lock_wait
-- For this transaction: another session may have locked the endpoint's row.
SET LOCAL lock_timeout = '2s';

-- name: show
-- $1 tenant, $2 endpoints, $3 how long one may fail before it is disabled.
SELECT endpoint_id, consecutive_failures, failing_since, last_success_at, last_failure_at, last_error,
       open_until, failing_since + $3::interval AS disables_at, now() AS as_of
  FROM endpoint_health
 WHERE tenant_id = $1 AND endpoint_id = ANY($2::uuid[]);
