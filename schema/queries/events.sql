-- Events as producers write them and people look at them.

-- name: record
-- $1 tenant, $2 type, $3 data. Returns the event's id.
SELECT record_event($1::uuid, $2::text, $3::jsonb);

-- name: list
-- $1 tenant, $2 type or null, $3 and $4 the last row's created_at and id or null, $5 limit. Newest first. In
-- this and the other lists, coalesce and not OR: in the one plan for all pages a page then begins by index.
SELECT id, type, data::text AS data, created_at
  FROM events
 WHERE tenant_id = $1
   AND ($2::text IS NULL OR type = $2)
   AND (created_at, id) < (coalesce($3::timestamptz, 'infinity'), $4::uuid)
 ORDER BY created_at DESC, id DESC
 LIMIT $5;

-- name: locate
-- $1 event. Whose it is. The order is that of the one index that begins with the id: while a partition is empty any
-- other that has it would look as good.
SELECT tenant_id FROM events WHERE id = $1 ORDER BY created_at LIMIT 1;

-- name: show
-- $1 tenant, $2 event. With its position, null while it has none, and its deliveries.
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
