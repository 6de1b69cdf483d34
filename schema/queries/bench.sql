-- The benchmark's statements, run as the owner of a scratch database, in schema live.

-- name: hold_sequencer
-- Until the transaction ends, no event gets a position.
LOCK TABLE live.sequencer_lock IN EXCLUSIVE MODE;

-- name: record
-- $1 tenants, $2 type, $3 data, $4 how many. Recorded as a producer would, for the tenants in turn.
SELECT count(live.record_event(($1::uuid[])[1 + n % cardinality($1::uuid[])], $2::text, $3::jsonb))
  FROM generate_series(1, $4::integer) AS n;

-- name: workers
-- How many are registered.
SELECT count(*) FROM core.workers;

-- name: outcome
-- $1 tenants, $2 since. How many deliveries there are of events since then, how many were delivered, when
-- the last one was settled, and how many attempts they took.
SELECT count(*) AS deliveries, count(*) FILTER (WHERE status = 'delivered') AS delivered,
       max(settled_at) AS settled_at, coalesce(sum(attempts), 0) AS attempts
  FROM live.webhook_deliveries
 WHERE tenant_id = ANY($1::uuid[]) AND created_at >= $2;

-- name: unsettled
-- $1 tenants, $2 since. Whether a delivery of an event since then is not settled.
SELECT EXISTS (SELECT FROM live.webhook_deliveries
                WHERE status = 'pending' AND tenant_id = ANY($1::uuid[]) AND created_at >= $2);

-- name: month
-- The start of this month and now: the range of a generated history.
SELECT date_trunc('month', now(), 'UTC') AS since, now() AS until;

-- name: recipients
-- $1 tenants. Their endpoints.
SELECT tenant_id, id AS endpoint_id FROM core.webhook_endpoints
 WHERE tenant_id = ANY($1::uuid[]) AND mode = 'live';

-- name: history_step
-- One step of a generated history. $1 tenants and $2 their endpoints, side by side; $3 type, $4 data, $5
-- the first position, $6 how many, $7 and $8 since and until when, $9 of how many in total, $10 delivered
-- or pending. Pending ones are due.
WITH made AS MATERIALIZED (
    SELECT n AS pos, ($1::uuid[])[1 + n % cardinality($1::uuid[])] AS tenant_id,
           ($2::uuid[])[1 + n % cardinality($1::uuid[])] AS endpoint_id,
           time.at AS created_at,
           (time.hex || left(replace(gen_random_uuid()::text, '-', ''), 20))::uuid AS event_id,
           (time.hex || right(replace(gen_random_uuid()::text, '-', ''), 20))::uuid AS delivery_id,
           (time.hex || right(replace(gen_random_uuid()::text, '-', ''), 20))::uuid AS attempt_id
      FROM generate_series($5::bigint, $5::bigint + $6::bigint - 1) AS n
     CROSS JOIN LATERAL (SELECT $7::timestamptz
                                + ($8::timestamptz - $7::timestamptz) * (n::float8 / $9::bigint) AS at)
           AS spread
     CROSS JOIN LATERAL (SELECT spread.at,
                                lpad(to_hex(floor(extract(epoch FROM spread.at) * 1000)::bigint), 12, '0')
                                    AS hex
                         ) AS time
), recorded AS (
    INSERT INTO live.events (id, tenant_id, type, data, created_at)
    SELECT event_id, tenant_id, $3::text, $4::jsonb, created_at FROM made
), sequenced AS (
    INSERT INTO live.event_log (pos, event_id, tenant_id, created_at)
    SELECT pos, event_id, tenant_id, created_at FROM made
), fanned_out AS (
    INSERT INTO live.webhook_deliveries (id, tenant_id, endpoint_id, event_id, event_type, created_at, status,
                                         attempts, schedule_attempts, due_at, retry_at, settled_at)
    SELECT delivery_id, tenant_id, endpoint_id, event_id, $3, created_at, $10::text,
           ($10 = 'delivered')::integer, ($10 = 'delivered')::integer,
           CASE WHEN $10 = 'pending' THEN now() END, CASE WHEN $10 = 'pending' THEN now() END,
           CASE WHEN $10 = 'delivered' THEN created_at END
      FROM made
)
INSERT INTO live.webhook_attempts (id, tenant_id, delivery_id, endpoint_id, created_at, replay, started_at,
                                   outcome,
                                   status_code, response_body, address, dns_ms, first_byte_ms, total_ms,
                                   settled)
SELECT attempt_id, tenant_id, delivery_id, endpoint_id, created_at, false, created_at, 'ok',
       200, 'ok', '127.0.0.1', 0.1, 2.5, 2.6, true
  FROM made
 WHERE $10 = 'delivered';

-- name: advance_sequencer
-- $1 the history's last position: the sequencer continues after it.
WITH gone AS (DELETE FROM live.sequencer RETURNING tick, restore_floor, system_identifier)
INSERT INTO live.sequencer (done, last_pos, restore_floor, system_identifier)
SELECT pg_current_snapshot(), $1, restore_floor, system_identifier FROM gone ORDER BY tick DESC LIMIT 1;

-- name: advance_consumers
-- $1 the history's last position: every consumer continues after it, except those of rebuilds.
INSERT INTO live.cursors (consumer, pos) SELECT name, $1 FROM live.consumers WHERE name NOT LIKE '%\_rebuild';

-- name: worker_of
-- $1 process id. The worker that it registered as.
SELECT id FROM core.workers WHERE name LIKE '%/' || $1::text;

-- name: held
-- $1 worker. The deliveries that it has leased.
SELECT id FROM live.webhook_deliveries WHERE lease IS NOT NULL AND leased_by = $1;

-- name: recovered
-- $1 deliveries, $2 since when. How many are still pending, when the last of the other_load was settled,
-- and when the first attempt began since then.
SELECT count(*) FILTER (WHERE d.status = 'pending') AS pending, max(d.settled_at) AS settled_at,
       (SELECT min(a.started_at) FROM live.webhook_attempts a
         WHERE a.delivery_id = ANY($1::uuid[]) AND a.started_at >= $2::timestamptz) AS first_at
  FROM live.webhook_deliveries d
 WHERE d.id = ANY($1::uuid[]);

-- name: event_log_step
-- One step of a generated history of events alone, which no consumer has applied. $1 tenants; $2 types and
-- $3 their data, side by side; $4 the first position, $5 how many, $6 and $7 since and until when, $8 of
-- how many in total, $9 of how many subscriptions.
WITH made AS MATERIALIZED (
    SELECT n AS pos, ($1::uuid[])[1 + n % cardinality($1::uuid[])] AS tenant_id,
           ($2::text[])[1 + kind.number] AS type,
           jsonb_set(($3::jsonb[])[1 + kind.number], '{subscriptionId}',
                     to_jsonb(live.format_id('sub', md5((n % $9::integer)::text)::uuid))) AS data,
           spread.at AS created_at,
           (lpad(to_hex(floor(extract(epoch FROM spread.at) * 1000)::bigint), 12, '0')
            || left(replace(gen_random_uuid()::text, '-', ''), 20))::uuid AS event_id
      FROM generate_series($4::bigint, $4::bigint + $5::bigint - 1) AS n
     CROSS JOIN LATERAL (SELECT (hashint8(n) & 2147483647) % cardinality($2::text[]) AS number) AS kind
     CROSS JOIN LATERAL (SELECT $6::timestamptz
                                + ($7::timestamptz - $6::timestamptz) * (n::float8 / $8::bigint) AS at)
           AS spread
), recorded AS (
    INSERT INTO live.events (id, tenant_id, type, data, created_at)
    SELECT event_id, tenant_id, type, data, created_at FROM made
)
INSERT INTO live.event_log (pos, event_id, tenant_id, created_at)
SELECT pos, event_id, tenant_id, created_at FROM made;

-- name: hold_consumers
-- Until the transaction ends, no consumer gets its cursor.
SELECT name FROM live.consumers FOR UPDATE;

-- name: consumed
-- $1 consumers. The position of each, and when it got there.
SELECT c.name, coalesce(k.pos, 0) AS pos, k.moved_at
  FROM unnest($1::text[]) AS c (name)
  LEFT JOIN LATERAL (SELECT pos, moved_at FROM live.cursors
                      WHERE consumer = c.name ORDER BY tick DESC LIMIT 1) k ON true;
