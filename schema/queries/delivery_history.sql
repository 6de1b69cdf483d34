-- Deliveries for people to read. See migrations/data/0008_deliveries.sql for the columns.

-- name: list
-- $1 tenant, $2 status or null, $3 endpoint or null, $4 and $5 the last row's created_at and id or null, $6
-- limit.
SELECT id, endpoint_id, event_id, event_type, created_at, status, attempts, due_at, settled_at
  FROM webhook_deliveries
 WHERE tenant_id = $1
   AND ($2::text IS NULL OR status = $2)
   AND ($3::uuid IS NULL OR endpoint_id = $3)
   AND (created_at, id) < (coalesce($4::timestamptz, 'infinity'), $5::uuid)
 ORDER BY created_at DESC, id DESC
 LIMIT $6;

-- name: list_undelivered
-- $1 … $6 as in list, where $2 is failed or skipped: those have an index of their own. Pending deliveries
-- have none, because every delivery starts as pending and would have to enter it.
SELECT id, endpoint_id, event_id, event_type, created_at, status, attempts, due_at, settled_at
  FROM webhook_deliveries
 WHERE tenant_id = $1
   AND status IN ('failed', 'skipped') AND status = $2::text
   AND ($3::uuid IS NULL OR endpoint_id = $3)
   AND (created_at, id) < (coalesce($4::timestamptz, 'infinity'), $5::uuid)
 ORDER BY created_at DESC, id DESC
 LIMIT $6;

-- name: locate
-- $1 delivery. Its tenant. ORDER BY selects the one index that begins with the id: while a partition is
-- empty any other index that has the id costs the same.
SELECT tenant_id FROM webhook_deliveries WHERE id = $1 ORDER BY created_at LIMIT 1;

-- name: show
-- $1 tenant, $2 delivery.
SELECT id, endpoint_id, event_id, event_type, created_at, status,
       attempts AS attempts_made, schedule_attempts, replays, due_at, retry_at,
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
