-- Events, as producers record them and people read them.

-- name: record
-- $1 tenant, $2 type, $3 data. Returns the event's id.
SELECT record_event($1::uuid, $2::text, $3::jsonb);

-- name: list
-- $1 tenant, $2 type or null, $3 and $4 the last row's created_at and id or null, $5 limit. Newest first.
-- Lists use coalesce instead of OR, so that the one generic plan starts each page by index.
SELECT id, type, data::text AS data, created_at
  FROM events
 WHERE tenant_id = $1
   AND ($2::text IS NULL OR type = $2)
   AND (created_at, id) < (coalesce($3::timestamptz, 'infinity'), $4::uuid)
 ORDER BY created_at DESC, id DESC
 LIMIT $5;

-- name: locate
-- $1 event. Its tenant. ORDER BY selects the one index that begins with the id: while a partition is empty
-- any other index that has the id costs the same.
SELECT tenant_id FROM events WHERE id = $1 ORDER BY created_at LIMIT 1;

-- name: show
-- $1 tenant, $2 event. With its position, or null before it has one.
SELECT e.id, e.type, e.data::text AS data, e.created_at, l.pos
  FROM events e
  LEFT JOIN event_log l ON l.event_id = e.id AND l.created_at = e.created_at
 WHERE e.tenant_id = $1 AND e.id = $2;

-- name: deliveries_of
-- $1 tenant, $2 event, $3 its created_at.
SELECT id, endpoint_id, status, attempts
  FROM webhook_deliveries
 WHERE tenant_id = $1 AND event_id = $2 AND created_at = $3
 ORDER BY id;

-- name: types
SELECT name, description FROM event_types ORDER BY name;
