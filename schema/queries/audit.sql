-- Checks of the log's promises, for drills and the demo. All statements read one mode.

-- name: last_position
-- The last position of the log.
SELECT last_pos FROM sequencer ORDER BY tick DESC LIMIT 1;

-- name: positions_missing
-- $1 position. How many of the positions after it, up to the end of the log, have no event; both sides come
-- from one snapshot. Events that retention has dropped count as missing.
SELECT (SELECT last_pos FROM sequencer ORDER BY tick DESC LIMIT 1) - $1::bigint
       - (SELECT count(*) FROM event_log WHERE pos > $1::bigint);

-- name: without_position
-- $1 events. Those without a position.
SELECT e.id
  FROM unnest($1::uuid[]) AS e (id)
 WHERE NOT EXISTS (SELECT FROM event_log l WHERE l.event_id = e.id);

-- name: recorded
-- $1 events. Those that exist.
SELECT e.id
  FROM unnest($1::uuid[]) AS e (id)
 WHERE EXISTS (SELECT FROM events x WHERE x.id = e.id);

-- name: deliveries_by_status
-- $1 tenants.
SELECT status, count(*) AS count FROM webhook_deliveries WHERE tenant_id = ANY($1::uuid[]) GROUP BY status;
