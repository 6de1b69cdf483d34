-- Positions of the log and cursors of consumers. See migrations/data/0006_sequencer.sql for the protocol.

-- name: sequence
-- $1 limit. How many events got a position; null while another session is sequencing.
SELECT sequence_events($1);

-- name: backlog
-- $1 consumer. Events with a position that it has not applied; no row for an unknown consumer. Each newest
-- tick is the last entry of its index.
SELECT (SELECT last_pos FROM sequencer ORDER BY tick DESC LIMIT 1)
       - coalesce((SELECT pos FROM cursors WHERE consumer = $1 ORDER BY tick DESC LIMIT 1), 0)
  FROM consumers
 WHERE name = $1;

-- name: position
-- $1 consumer. Its cursor, whether or not a transaction holds it.
SELECT coalesce((SELECT pos FROM cursors WHERE consumer = $1 ORDER BY tick DESC LIMIT 1), 0);

-- name: take_cursor
-- $1 consumer. A row if this transaction now holds the cursor; none while another transaction holds it.
SELECT tick, pos FROM take_cursor($1);

-- name: lock_consumer
-- $1 consumer. Waits for its cursor and holds it until the transaction ends.
SELECT FROM consumers WHERE name = $1 FOR UPDATE;

-- name: move_cursor
-- $1 consumer, $2 the present tick or null, $3 the new position.
WITH left_behind AS (DELETE FROM cursors WHERE consumer = $1 AND tick = $2)
INSERT INTO cursors (consumer, pos) VALUES ($1, $3);

-- name: read_after
-- $1 position, $2 limit, $3 bytes of data at most, but at least one event. In order. The log is cut first,
-- and OFFSET 0 keeps the join a look-up per row, whatever the statistics. The condition names the tenant
-- for the reason given in deliveries.sql. The log's last position, from the same snapshot, shows whether
-- there is more.
SELECT pos, id, tenant_id, type, created_at, data,
       (SELECT last_pos FROM sequencer ORDER BY tick DESC LIMIT 1) AS last_pos
  FROM (SELECT l.pos, e.id, e.tenant_id, e.type, e.created_at, e.data,
               sum(octet_length(e.data)) OVER (ORDER BY l.pos) - octet_length(e.data) AS bytes_before
          FROM (SELECT pos, event_id, tenant_id, created_at FROM event_log
                 WHERE pos > $1 ORDER BY pos LIMIT $2) l
         CROSS JOIN LATERAL (SELECT e.id, e.tenant_id, e.type, e.created_at, e.data::text AS data
                               FROM events e
                              WHERE e.id = l.event_id AND e.created_at = l.created_at
                                AND e.tenant_id = l.tenant_id OFFSET 0) e) AS batch
 WHERE bytes_before < $3
 ORDER BY pos;

-- name: read_one
-- $1 position.
SELECT l.pos, e.id, e.tenant_id, e.type, e.created_at, e.data::text AS data
  FROM event_log l
  JOIN events e ON e.id = l.event_id AND e.created_at = l.created_at AND e.tenant_id = l.tenant_id
 WHERE l.pos = $1;

-- name: entry_after
-- $1 position. The next event without its data, which may be damaged: from the log's own row alone.
SELECT pos, event_id, tenant_id, created_at FROM event_log WHERE pos > $1 ORDER BY pos LIMIT 1;

-- name: dead_letter
-- $1 consumer, $2 position, $3 tenant, $4 event, $5 the event's created_at, $6 error.
INSERT INTO dead_events (consumer, pos, tenant_id, event_id, created_at, error)
VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (consumer, pos) DO NOTHING;

-- name: dead_events
-- $1 consumer, $2 after which position, $3 limit.
SELECT pos, event_id, tenant_id, created_at, error, dead_at
  FROM dead_events WHERE consumer = $1 AND pos > $2 ORDER BY pos LIMIT $3;

-- name: remove_dead_event
-- $1 consumer, $2 position.
DELETE FROM dead_events WHERE consumer = $1 AND pos = $2;

-- name: consumer_status
-- $1 consumers. The lag of each in events and seconds, its dead-lettered events, and how many committed
-- events have no position yet because no worker sequences (counted up to 100,000; the condition is that of
-- sequence_events()).
WITH log AS MATERIALIZED (
    SELECT done, last_pos, restore_floor FROM sequencer ORDER BY tick DESC LIMIT 1
), unsequenced AS MATERIALIZED (
    SELECT count(*) AS events, min(e.created_at) AS oldest
      FROM (SELECT e.created_at
              FROM log, events e
             WHERE e.xid >= pg_snapshot_xmin(log.done) AND e.xid < pg_snapshot_xmax(pg_current_snapshot())
               AND NOT pg_visible_in_snapshot(e.xid, log.done)
               AND (e.seq > log.restore_floor
                    OR NOT EXISTS (SELECT FROM event_log l
                                   WHERE l.event_id = e.id AND l.created_at = e.created_at))
             LIMIT 100000) e
)
SELECT c.consumer, coalesce(k.pos, 0) AS pos, log.last_pos, k.moved_at,
       (SELECT count(*) FROM dead_events d WHERE d.consumer = c.consumer) AS dead,
       unsequenced.events AS unsequenced,
       extract(epoch FROM now() - coalesce(
           (SELECT l.created_at FROM event_log l WHERE l.pos = coalesce(k.pos, 0) + 1),
           unsequenced.oldest))::float8 AS lag_seconds
  FROM unnest($1::text[]) AS c (consumer)
 CROSS JOIN log
 CROSS JOIN unsequenced
  LEFT JOIN LATERAL (SELECT pos, moved_at FROM cursors k
                      WHERE k.consumer = c.consumer ORDER BY tick DESC LIMIT 1) k ON true
 ORDER BY c.consumer;
