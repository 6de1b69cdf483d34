-- One tenant's events by position. See migrations/data/0005_event_log.sql for the index, and
-- schema/event_log/positions.py.

-- name: log_end
-- The last position of the log, and the highest position whose event may have been dropped.
SELECT last_pos,
    coalesce((SELECT last_pos FROM retired_months ORDER BY last_pos DESC LIMIT 1), 0) AS dropped_up_to
  FROM sequencer ORDER BY tick DESC LIMIT 1;

-- name: read_tenant
-- $1 tenant, $2 after which position, $3 types or none for all, $4 events at most, $5 bytes of data at
-- most, but at least one event, $6 of the tenant's positions to examine. There is always a row: the end of
-- the log, up to which position events may have been dropped, how many positions were examined and the last
-- of them, how many events were found within $4, and the first of those, within $5. One statement, so that
-- all of it has one snapshot. The tenant leads each comparison; otherwise a plan made for an empty
-- partition would walk all tenants' positions from then on. OFFSET 0 as in log.sql.
WITH log AS MATERIALIZED (
    SELECT last_pos,
        coalesce((SELECT last_pos FROM retired_months ORDER BY last_pos DESC LIMIT 1), 0) AS dropped_up_to
      FROM sequencer ORDER BY tick DESC LIMIT 1
), looked_at AS MATERIALIZED (
    SELECT pos, event_id, created_at
      FROM event_log
     WHERE tenant_id = $1 AND (tenant_id, pos) > ($1, $2::bigint)
     ORDER BY tenant_id, pos
     LIMIT CASE WHEN $3::text[] = '{}' THEN $4 ELSE $6::bigint END
), found AS MATERIALIZED (
    SELECT l.pos, e.id, e.type, e.created_at, e.data
      FROM looked_at l
     CROSS JOIN LATERAL (SELECT e.id, e.type, e.created_at, e.data::text AS data
                           FROM events e
                          WHERE e.id = l.event_id AND e.created_at = l.created_at
                            AND e.tenant_id = $1 OFFSET 0) e
     WHERE $3::text[] = '{}' OR e.type = ANY($3::text[])
     ORDER BY l.pos
     LIMIT $4
)
SELECT log.last_pos, log.dropped_up_to,
       (SELECT count(*) FROM looked_at) AS looked_at, (SELECT max(pos) FROM looked_at) AS last_looked_at,
       (SELECT count(*) FROM found) AS found,
       f.pos, f.id, f.type, f.created_at, f.data
  FROM log
  LEFT JOIN (SELECT found.*, sum(octet_length(data)) OVER (ORDER BY pos) - octet_length(data) AS bytes_before
               FROM found) AS f ON f.bytes_before < $5
 ORDER BY f.pos;

-- name: next_of_tenant
-- $1 tenant, $2 after which position. The tenant's next position, from the log's own row alone.
SELECT pos FROM event_log
 WHERE tenant_id = $1 AND (tenant_id, pos) > ($1, $2::bigint)
 ORDER BY tenant_id, pos
 LIMIT 1;

-- name: read_tenants
-- $1 after which position, $2 tenants, $3 positions to examine, $4 bytes of data at most, but at least one
-- event. Walks the whole log and reads the events of these tenants. There is always a row, as above. With
-- IS TRUE the list of tenants is hashed instead of compared one by one.
WITH log AS MATERIALIZED (
    SELECT last_pos,
        coalesce((SELECT last_pos FROM retired_months ORDER BY last_pos DESC LIMIT 1), 0) AS dropped_up_to
      FROM sequencer ORDER BY tick DESC LIMIT 1
), looked_at AS MATERIALIZED (
    SELECT pos, event_id, tenant_id, created_at FROM event_log WHERE pos > $1 ORDER BY pos LIMIT $3
), found AS MATERIALIZED (
    SELECT l.pos, e.id, e.tenant_id, e.type, e.created_at, e.data
      FROM looked_at l
     CROSS JOIN LATERAL (SELECT e.id, e.tenant_id, e.type, e.created_at, e.data::text AS data
                           FROM events e
                          WHERE e.id = l.event_id AND e.created_at = l.created_at
                            AND e.tenant_id = l.tenant_id OFFSET 0) e
     WHERE (l.tenant_id IN (SELECT unnest($2::uuid[]))) IS TRUE
)
SELECT log.last_pos, log.dropped_up_to, (SELECT max(pos) FROM looked_at) AS last_looked_at,
       (SELECT count(*) FROM found) AS found,
       f.pos, f.id, f.tenant_id, f.type, f.created_at, f.data
  FROM log
  LEFT JOIN (SELECT found.*, sum(octet_length(data)) OVER (ORDER BY pos) - octet_length(data) AS bytes_before
               FROM found) AS f ON f.bytes_before < $4
 ORDER BY f.pos;
