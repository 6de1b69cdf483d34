-- The state of one mode for /metrics, beside the worker's own counters. Every statement reads a bounded
-- number of rows.

-- name: waiting
-- $1 lane, $2 how long a delivery may be due before it is overdue, $3 rows to count at most. Deliveries
-- waiting in the table, from one end of the index. At the limit the counts are lower bounds.
SELECT count(*) AS waiting,
       count(*) FILTER (WHERE due_at <= now()) AS due,
       count(*) FILTER (WHERE due_at <= now() - $2::interval) AS overdue
  FROM (SELECT due_at
          FROM webhook_deliveries
         WHERE status = 'pending' AND lease IS NULL AND lane = $1
         ORDER BY endpoint_id, due_at
         LIMIT $3) AS counted;

-- name: endpoints_due
-- $1 lane, $2 endpoints to visit at most. Reads only the oldest waiting delivery of each endpoint, by one
-- step along the index, so a backlog of millions does not hide other endpoints. `held` is the reason why
-- due deliveries are rightly not sent. One row per reason. Here and below OFFSET 0 keeps the join with the
-- endpoints a look-up per row; otherwise the planner reads all of them.
WITH RECURSIVE step (endpoint_id, due_at, number) AS (
    (SELECT endpoint_id, due_at, 1 FROM webhook_deliveries
      WHERE status = 'pending' AND lease IS NULL AND lane = $1
      ORDER BY endpoint_id, due_at LIMIT 1)
    UNION ALL
    SELECT next.endpoint_id, next.due_at, step.number + 1
      FROM step,
           LATERAL (SELECT d.endpoint_id, d.due_at FROM webhook_deliveries d
                     WHERE d.status = 'pending' AND d.lease IS NULL AND d.lane = $1
                       AND d.endpoint_id > step.endpoint_id
                     ORDER BY d.endpoint_id, d.due_at LIMIT 1) AS next
     WHERE step.number < $2
)
SELECT CASE WHEN $1 = 1 AND (SELECT retries_paused_at IS NOT NULL FROM delivery_switches WHERE only_row)
                 THEN 'retries_paused'
            WHEN w.paused THEN 'paused'
            WHEN h.open_until IS NOT NULL THEN 'breaker'
            WHEN w.rate_limit IS NOT NULL THEN 'rate_limit'
            ELSE 'no' END AS held,
       count(*) AS endpoints,
       extract(epoch FROM now() - min(s.due_at))::float8 AS oldest_due_seconds
  FROM step s
  LEFT JOIN LATERAL (SELECT e.paused, e.rate_limit FROM webhook_endpoints e
                      WHERE e.id = s.endpoint_id OFFSET 0) w ON true
  LEFT JOIN LATERAL (SELECT open_until FROM endpoint_health WHERE endpoint_id = s.endpoint_id OFFSET 0) h
      ON true
 WHERE s.due_at <= now()
 GROUP BY 1;

-- name: unhealthy_endpoints
-- $1 endpoints to count at most. Enabled endpoints that are failing, and those whose breaker is open or
-- half-open (a probe may be sent). One success ends the failing; a breaker may need more. No breaker opens
-- for more than five minutes, so a longer time means that the clock was set back after it opened: it counts
-- as half-open.
SELECT count(*) FILTER (WHERE failing) AS failing,
       count(*) FILTER (WHERE open_until > now() AND open_until <= now() + interval '330 s') AS open,
       count(*) FILTER (WHERE open_until <= now() OR open_until > now() + interval '330 s') AS half_open
  FROM ((SELECT endpoint_id, true AS failing, NULL::timestamptz AS open_until
           FROM endpoint_health WHERE failing_since IS NOT NULL ORDER BY failing_since LIMIT $1)
        UNION ALL
        (SELECT endpoint_id, false, open_until
           FROM endpoint_health WHERE open_until IS NOT NULL ORDER BY open_until LIMIT $1)) AS h
 CROSS JOIN LATERAL (SELECT FROM webhook_endpoints e
                     WHERE e.id = h.endpoint_id AND e.enabled OFFSET 0) in_service;

-- name: retries_paused
SELECT retries_paused_at IS NOT NULL FROM delivery_switches WHERE only_row;
