-- The state of core for /metrics.

-- name: inactive_endpoints
-- $1 endpoints to count at most. By mode.
SELECT mode, count(*) FILTER (WHERE NOT enabled) AS disabled,
       count(*) FILTER (WHERE enabled AND paused) AS paused
  FROM (SELECT mode, enabled, paused FROM webhook_endpoints WHERE NOT enabled OR paused ORDER BY mode, enabled
        LIMIT $1)
       AS counted
 GROUP BY mode;

-- name: oldest_transaction
-- See migrations/core/0008_open_transactions.sql for what it can see.
SELECT seconds, pid, hidden FROM oldest_transaction();

-- name: workers
-- How many are registered.
SELECT count(*) FROM workers;
