-- Replays. See migrations/data/0010_replays.sql for the columns of a job.

-- name: replay_one
-- $1 tenant, $2 delivery. A settled delivery starts a new schedule. A pending one gets an immediate extra
-- attempt, and its schedule stays as it is. Returns the former status.
UPDATE webhook_deliveries d
   SET status     = 'pending',
       settled_at = NULL,
       lane       = CASE WHEN was.status = 'pending' THEN d.lane ELSE 1 END,
       schedule_attempts = CASE WHEN was.status = 'pending' THEN d.schedule_attempts ELSE 0 END,
       replays    = d.replays + (was.status = 'pending')::integer,
       retry_at   = CASE WHEN was.status = 'pending' THEN d.retry_at ELSE now() END,
       due_at     = now()
  FROM (SELECT tenant_id, id, created_at, status FROM webhook_deliveries
         WHERE tenant_id = $1 AND id = $2 FOR UPDATE) AS was
 WHERE d.tenant_id = was.tenant_id AND d.id = was.id AND d.created_at = was.created_at
RETURNING was.status;

-- name: begin
-- $1 id, $2 tenant, $3 kind, $4 endpoint or null, $5 statuses; $6 since and $7 until, where null is now, or
-- $8 after which position and $9 up to which, where null is the end of the log. The first step starts
-- before the first row.
INSERT INTO webhook_replays (id, tenant_id, kind, endpoint_id, statuses, since, until, after_pos, until_pos,
                             at_time, at_id, at_pos)
SELECT $1, $2, $3, $4, $5,
       $6, CASE WHEN $6::timestamptz IS NOT NULL THEN coalesce($7::timestamptz, clock_timestamp()) END,
       $8,
       CASE WHEN $8::bigint IS NOT NULL
            THEN coalesce($9::bigint, (SELECT last_pos FROM sequencer ORDER BY tick DESC LIMIT 1)) END,
       $6, CASE WHEN $6::timestamptz IS NOT NULL THEN '00000000-0000-0000-0000-000000000000'::uuid END, $8
RETURNING *;

-- name: now
-- The database's clock, by which events are recorded.
SELECT clock_timestamp();

-- name: show
-- $1 replay.
SELECT * FROM webhook_replays WHERE id = $1;

-- name: list
-- $1 tenant, $2 and $3 the last row's created_at and id or null, $4 limit. Newest first.
SELECT *
  FROM webhook_replays
 WHERE tenant_id = $1
   AND (created_at, id) < (coalesce($2::timestamptz, 'infinity'), $3::uuid)
 ORDER BY created_at DESC, id DESC
 LIMIT $4;

-- name: set_lock_timeout
-- For this transaction: another process may be running a step of the same job.
SET LOCAL lock_timeout = '10s';

-- name: lock
-- $1 replay. Held from here to the step's commit.
SELECT * FROM webhook_replays WHERE id = $1 FOR UPDATE;

-- name: move
-- $1 replay, $2 and $3 the last row's created_at and id, or $4 the last position; $5 examined, $6 replayed,
-- $7 skipped in this step, $8 whether it was the last.
UPDATE webhook_replays
   SET at_time = $2, at_id = $3, at_pos = $4,
       examined = examined + $5, replayed = replayed + $6, skipped = skipped + $7,
       moved_at = clock_timestamp(),
       finished_at = CASE WHEN $8::boolean THEN clock_timestamp() END
 WHERE id = $1
RETURNING *;

-- name: undelivered
-- $1 tenant, $2 and $3 after which created_at and id, $4 until, $5 limit. Failed and skipped deliveries,
-- oldest first.
SELECT id, created_at
  FROM webhook_deliveries
 WHERE tenant_id = $1 AND status IN ('failed', 'skipped')
   AND created_at >= $2 AND (created_at, id) > ($2, $3) AND created_at < $4
 ORDER BY created_at, id
 LIMIT $5;

-- name: events_by_time
-- $1 tenant, $2 and $3 after which created_at and id, $4 until, $5 limit. Oldest first.
SELECT id, created_at
  FROM events
 WHERE tenant_id = $1
   AND created_at >= $2 AND (created_at, id) > ($2, $3) AND created_at < $4
 ORDER BY created_at, id
 LIMIT $5;

-- name: events_by_position
-- $1 tenant, $2 after which position, $3 up to which, $4 positions to examine. The tenant's events among
-- them, and always the last position examined. It walks all tenants' positions, because a job's progress is
-- their share, and a job runs once.
WITH looked_at AS MATERIALIZED (
    SELECT pos, event_id, tenant_id, created_at
      FROM event_log
     WHERE pos > $2 AND pos <= $3
     ORDER BY pos
     LIMIT $4
)
SELECT pos, event_id AS id, created_at, tenant_id = $1 AS ours
  FROM looked_at
 WHERE tenant_id = $1 OR pos = (SELECT max(pos) FROM looked_at)
 ORDER BY pos;

-- name: endpoints_of_tenant
-- $1 tenant. How many there are: no event has more deliveries.
SELECT count(*) FROM webhook_endpoints WHERE tenant_id = $1;

-- name: deliveries_of_events
-- $1 tenant; columns of the events: $2 id, $3 created_at; $4 endpoint or null for all. OFFSET 0, here and
-- below, keeps it a look-up per row; otherwise the planner may walk all deliveries of the tenant. Bounds
-- instead of OR: with the one generic plan the index finds the endpoint's delivery among those of a
-- thousand others. Every look-up names the tenant, as in deliveries.sql.
SELECT d.id, d.created_at
  FROM unnest($2::uuid[], $3::timestamptz[]) AS e (id, created_at)
 CROSS JOIN LATERAL (SELECT d.id, d.created_at FROM webhook_deliveries d
                      WHERE d.tenant_id = $1 AND d.event_id = e.id AND d.created_at = e.created_at
                        AND d.endpoint_id BETWEEN coalesce($4::uuid, '00000000-0000-0000-0000-000000000000')
                                              AND coalesce($4::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
                     OFFSET 0) d;

-- name: replay
-- $1 tenant; columns of the deliveries: $2 id, $3 created_at; $4 statuses, $5 endpoint or null. Deliveries
-- with one of these statuses start a new schedule, unless their endpoint is disabled. Returns how many did,
-- and how many were skipped because their endpoint is disabled.
WITH chosen AS MATERIALIZED (
    SELECT d.id, d.created_at, coalesce(w.enabled, false) AS enabled
      FROM unnest($2::uuid[], $3::timestamptz[]) AS p (id, created_at)
     CROSS JOIN LATERAL (SELECT d.id, d.created_at, d.endpoint_id, d.status FROM webhook_deliveries d
                          WHERE d.tenant_id = $1 AND d.id = p.id AND d.created_at = p.created_at OFFSET 0) d
      LEFT JOIN LATERAL (SELECT w.enabled FROM webhook_endpoints w
                          WHERE w.tenant_id = $1 AND w.id = d.endpoint_id OFFSET 0) w ON true
     WHERE d.status = ANY($4::text[]) AND ($5::uuid IS NULL OR d.endpoint_id = $5)
), replayed AS (
    UPDATE webhook_deliveries d
       SET status = 'pending', lane = 1, settled_at = NULL, schedule_attempts = 0, retry_at = now(),
           due_at = now()
      FROM chosen c
     WHERE d.tenant_id = $1 AND d.id = c.id AND d.created_at = c.created_at AND c.enabled
       AND d.status = ANY($4::text[])
    RETURNING d.id
)
SELECT (SELECT count(*) FROM replayed) AS replayed, count(*) FILTER (WHERE NOT enabled) AS skipped
  FROM chosen;

-- name: backfill
-- $1 tenant, $2 endpoint; columns of the events: $3 id, $4 created_at; $5 types. Adds the missing delivery
-- for each event of these types. Returns how many.
WITH lacking AS (
    INSERT INTO webhook_deliveries (id, tenant_id, endpoint_id, event_id, event_type, created_at,
                                    status, lane, due_at, retry_at)
    SELECT new_ulid(), e.tenant_id, $2, e.id, e.type, e.created_at, 'pending', 1, now(), now()
      FROM unnest($3::uuid[], $4::timestamptz[]) AS n (id, created_at)
     CROSS JOIN LATERAL (SELECT e.id, e.tenant_id, e.type, e.created_at, e.xid, e.seq FROM events e
                          WHERE e.tenant_id = $1 AND e.id = n.id AND e.created_at = n.created_at OFFSET 0) e
     WHERE e.type = ANY($5::text[])
     ORDER BY e.xid, e.seq  -- as fan-out does, which may be at the same pairs: two orders would deadlock
    ON CONFLICT (event_id, endpoint_id, created_at) DO NOTHING
    RETURNING id
)
SELECT count(*) FROM lacking;

-- name: is_enabled
-- $1 tenant, $2 endpoint.
SELECT enabled FROM webhook_endpoints WHERE tenant_id = $1 AND id = $2;

-- name: skipped_since
-- $1 tenant, $2 endpoint, $3 since when, $4 deliveries to examine. How many of the endpoint's newest
-- undelivered deliveries were skipped since then; whether there are more to examine; and the created_at of
-- the oldest one's event, or, if there are more, of the oldest one examined: no later than any that was
-- skipped.
WITH newest AS MATERIALIZED (
    SELECT created_at, endpoint_id = $2 AND status = 'skipped' AND settled_at >= $3 AS mine
      FROM webhook_deliveries
     WHERE tenant_id = $1 AND status IN ('failed', 'skipped')
     ORDER BY created_at DESC, id DESC
     LIMIT $4::bigint + 1
), found AS (
    SELECT count(*) FILTER (WHERE mine) AS count, min(created_at) FILTER (WHERE mine) AS since,
           count(*) > $4 AS more
      FROM newest
)
SELECT count, more,
       CASE WHEN more THEN (SELECT created_at FROM webhook_deliveries
                             WHERE tenant_id = $1 AND status IN ('failed', 'skipped')
                             ORDER BY created_at, id LIMIT 1)
            ELSE since END AS since
  FROM found;
