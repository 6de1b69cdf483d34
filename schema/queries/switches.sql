-- The operator's switches of one mode.

-- name: pause_retries
-- Whether this paused them. Lane 1 is then paused in all workers until it is resumed.
UPDATE delivery_switches SET retries_paused_at = now() WHERE retries_paused_at IS NULL RETURNING true;

-- name: resume_retries
-- Whether this resumed them.
UPDATE delivery_switches SET retries_paused_at = NULL WHERE retries_paused_at IS NOT NULL RETURNING true;

-- name: retries_paused
SELECT retries_paused_at IS NOT NULL FROM delivery_switches;

-- name: retries
-- $1 deliveries to count at most. Since when retries are paused, or null, and how many deliveries of lane 1
-- wait, whether or not they are due.
SELECT s.retries_paused_at AS paused_at,
       (SELECT count(*) FROM (SELECT FROM webhook_deliveries
                               WHERE lane = 1 AND status = 'pending' AND lease IS NULL
                               LIMIT $1) AS w) AS waiting
  FROM delivery_switches s;
