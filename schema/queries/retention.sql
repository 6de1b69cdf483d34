-- Statements of retention, run as the owner on the mode in its search_path. See
-- schema/retention/retention_rules.py for the rules and schema/retention/retention_run.py for the protocol.
-- A month is [$1, $2).

-- name: disable_time_limits
-- For the session that only holds the lock: no time limit ends it, but a lost connection does.
SELECT set_config('idle_in_transaction_session_timeout', '0', false),
       set_config('statement_timeout', '0', false),
       set_config('lock_timeout', '2s', false), set_config('tcp_keepalives_idle', '5', false),
       set_config('tcp_keepalives_interval', '2', false), set_config('tcp_keepalives_count', '3', false);

-- name: lock
-- From now on only this session's transaction may retire months. Waits while a worker has the lock.
LOCK TABLE sandbox.retention_lock, live.retention_lock IN EXCLUSIVE MODE;

-- name: now
-- The database's clock, by which events are recorded.
SELECT now();

-- name: partitions
-- Every attached monthly partition, oldest first. A partition counts as filled if it takes space, even for
-- empty rows.
SELECT p.relname AS parent, c.relname AS partition,
       to_date(right(c.relname, 7), 'YYYY_MM') AS month,
       pg_total_relation_size(c.oid) AS bytes, pg_relation_size(c.oid) > 0 AS filled
  FROM monthly_tables() AS t (parent)
  JOIN pg_class p ON p.oid = t.parent
  JOIN pg_inherits i ON i.inhparent = p.oid
  JOIN pg_class c ON c.oid = i.inhrelid
 WHERE left(c.relname, -8) = p.relname AND right(c.relname, 8) ~ '^_\d{4}_(0[1-9]|1[0-2])$'
 ORDER BY month, parent;

-- name: month_facts
-- $1 and $2. Of a month's events: how many there are, how many have no position, the first and the last
-- position. Of its deliveries: how many are pending, and how many were settled so recently that a late
-- result may still come. Of its attempts: how many are not folded yet; all of them while a restore has not
-- been noticed.
SELECT (SELECT count(*) FROM events e WHERE e.created_at >= $1 AND e.created_at < $2) AS events,
       (SELECT count(*) FROM events e
         WHERE e.created_at >= $1 AND e.created_at < $2
           AND NOT EXISTS (SELECT FROM event_log l
                            WHERE l.created_at >= $1 AND l.created_at < $2
                              AND l.event_id = e.id)) AS unsequenced,
       log.first_pos, log.last_pos, d.pending, d.just_settled,
       (SELECT count(*) FROM (SELECT f.*,
                                     f.xmin <> f.xid::xid
                                     OR pg_snapshot_xmax(f.done) > pg_snapshot_xmax(pg_current_snapshot())
                                         AS stale
                                FROM attempt_folds f ORDER BY tick DESC LIMIT 1) f, webhook_attempts a
         WHERE a.created_at >= $1 AND a.created_at < $2
           AND (f.stale OR a.xid >= pg_snapshot_xmin(f.done) AND NOT pg_visible_in_snapshot(a.xid, f.done)
                           AND (NOT f.restored OR a.xid::xid = a.xmin))) AS uncounted
  FROM (SELECT coalesce(min(pos), 0) AS first_pos, coalesce(max(pos), 0) AS last_pos
          FROM event_log WHERE created_at >= $1 AND created_at < $2) AS log,
       (SELECT count(*) FILTER (WHERE status = 'pending') AS pending,
               count(*) FILTER (WHERE settled_at > now() - interval '1 hour') AS just_settled
          FROM webhook_deliveries WHERE created_at >= $1 AND created_at < $2) AS d;

-- name: lagging_consumers
-- $1 and $2. Consumers that have not applied all of a month's events, and how many they lack.
SELECT h.consumer, m.events
  FROM retention_consumers() h
 CROSS JOIN LATERAL (SELECT count(*) AS events FROM event_log l
                      WHERE l.created_at >= $1 AND l.created_at < $2 AND l.pos > h.pos) AS m
 WHERE m.events > 0
 ORDER BY h.consumer;

-- name: dead_events
-- $1 and $2. Consumers that have dead-lettered events of a month, and how many.
SELECT consumer, count(*) AS events
  FROM dead_events WHERE created_at >= $1 AND created_at < $2 GROUP BY consumer ORDER BY consumer;

-- name: replays
-- $1 and $2, $3 the month's first position and $4 its last. Unfinished replays that still have to process a
-- part of it.
SELECT id
  FROM webhook_replays
 WHERE finished_at IS NULL
   AND (at_time < $2 AND until > $1 OR at_pos < $4::bigint AND until_pos >= $3::bigint)
 ORDER BY id;

-- name: limit_statement_time
-- For this transaction, because others wait for it.
SET LOCAL statement_timeout = '5s';

-- name: prefer_indexes
-- For this transaction, because others wait for it.
SET LOCAL enable_seqscan = off;

-- name: has_pending_delivery
-- $1 and $2. Whether a delivery is pending. By two indexes, because it runs under a lock.
SELECT EXISTS (SELECT FROM webhook_deliveries
                WHERE created_at >= $1 AND created_at < $2 AND status = 'pending' AND lease IS NULL)
    OR EXISTS (SELECT FROM webhook_deliveries
               WHERE created_at >= $1 AND created_at < $2 AND lease IS NOT NULL);

-- name: has_unfolded_attempt
-- $1 and $2. Whether an attempt is not folded yet. By index, for the same reason.
SELECT EXISTS (SELECT FROM webhook_attempts a
                WHERE a.created_at >= $1 AND a.created_at < $2
                  AND a.xid >= (SELECT pg_snapshot_xmin(done) FROM attempt_folds ORDER BY tick DESC LIMIT 1)
                  AND NOT pg_visible_in_snapshot(
                      a.xid, (SELECT done FROM attempt_folds ORDER BY tick DESC LIMIT 1))
                  AND (NOT (SELECT restored FROM attempt_folds ORDER BY tick DESC LIMIT 1)
                       OR a.xid::xid = a.xmin));

-- name: seal
-- $1 partition.
SELECT seal_partition($1::text::regclass);

-- name: unseal
-- $1 partition.
SELECT unseal_partition($1::text::regclass);

-- name: sealed_leftovers
-- Sealed partitions of months that are not being retired: a run was interrupted.
SELECT c.relname FROM sealed_leftovers() AS leaf JOIN pg_class c ON c.oid = leaf;

-- name: unseal_leftovers
-- As a worker. How many partitions were unsealed.
SELECT unseal_leftovers();

-- name: still_sealed
-- $1 partitions. Whether all of them are sealed.
SELECT NOT EXISTS (SELECT FROM unnest($1::text[]) AS name
                    WHERE NOT EXISTS (SELECT FROM pg_trigger t
                                       WHERE t.tgrelid = to_regclass(quote_ident(name))
                                         AND t.tgname = 'retiring'
                                         AND t.tgenabled <> 'D'));

-- name: truncate
-- $1 partition.
SELECT truncate_partition($1::text::regclass);

-- name: lock_retired_months
-- For this transaction: no rebuild begins meanwhile (see refuse_lossy_rebuild).
LOCK TABLE retired_months IN SHARE ROW EXCLUSIVE MODE;

-- name: begin_retiring
-- $1 month, $2 its last position, $3 how many events it has, $4 its partitions. Once this is committed the
-- month will be dropped.
INSERT INTO retired_months (month, last_pos, events, tables, oids)
VALUES ($1, $2, $3, $4, ARRAY(SELECT to_regclass(quote_ident(name))::oid
                                FROM unnest($4::text[]) WITH ORDINALITY AS partition (name, nth)
                               ORDER BY nth));

-- name: unfinished_months
-- Months that are being retired, and those of their partitions that still exist.
SELECT m.month, m.events,
       ARRAY(SELECT partition.name
               FROM unnest(m.tables, m.oids) AS partition (name, oid)
               JOIN pg_class c ON c.relnamespace = current_schema()::regnamespace
                   AND c.relname = partition.name
              WHERE c.oid = partition.oid OR m.xmin <> m.xid::xid) AS tables
  FROM retired_months m
 WHERE m.finished_at IS NULL
 ORDER BY m.month;

-- name: finish_retiring
-- $1 month.
UPDATE retired_months SET finished_at = clock_timestamp() WHERE month = $1 AND finished_at IS NULL;

-- name: partition_state
-- $1 partition. Null if there is no such table; otherwise attached, pending (detaching was interrupted) or
-- detached, and its size in bytes.
SELECT CASE WHEN i.inhrelid IS NULL THEN 'detached'
            WHEN i.inhdetachpending THEN 'pending'
            ELSE 'attached' END AS state,
       pg_total_relation_size(c.oid) AS bytes
  FROM pg_class c
  LEFT JOIN pg_inherits i ON i.inhrelid = c.oid
 WHERE c.relnamespace = current_schema()::regnamespace AND c.relname = $1 AND c.relkind = 'r';

-- name: oldest_transaction
-- What a detach may be waiting for: how many seconds that transaction has been open, and its process (0 for
-- a prepared one). Without the one that holds the run's own lock.
SELECT extract(epoch FROM clock_timestamp() - since)::float8 AS seconds, pid
  FROM (SELECT xact_start AS since, pid
          FROM pg_stat_activity a
         WHERE datname = current_database() AND backend_type = 'client backend' AND xact_start IS NOT NULL
           AND pid <> pg_backend_pid()
           AND NOT EXISTS (SELECT FROM pg_locks l
                           WHERE l.pid = a.pid AND l.relation = 'retention_lock'::regclass AND l.granted)
         UNION ALL
        SELECT prepared, 0 FROM pg_prepared_xacts WHERE database = current_database()) AS opened
 ORDER BY since
 LIMIT 1;
