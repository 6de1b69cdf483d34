-- Endpoints in core, for operators and the dashboard.

-- name: create
-- $1 id, $2 tenant, $3 mode, $4 url, $5 description, $6 event types, $7 sealed headers or null, $8 rate
-- limit or null.
INSERT INTO webhook_endpoints (id, tenant_id, mode, url, description, event_types, sealed_headers, rate_limit)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8);

-- name: update
-- $1 endpoint, $2 url, $3 description, $4 event types, $5 sealed headers (empty bytes remove them), $6 rate
-- limit (0 removes it). A null leaves a column as it is. Returns the endpoint's id.
UPDATE webhook_endpoints
   SET url            = coalesce($2, url),
       description    = coalesce($3, description),
       event_types    = coalesce($4, event_types),
       sealed_headers = CASE WHEN $5::bytea IS NULL THEN sealed_headers ELSE nullif($5, ''::bytea) END,
       rate_limit     = CASE WHEN $6::integer IS NULL THEN rate_limit ELSE nullif($6, 0) END,
       updated_at     = now()
 WHERE id = $1
RETURNING id;

-- name: set_paused
-- $1 endpoint, $2 whether to pause it. Returns its id if that changed it.
UPDATE webhook_endpoints SET paused = $2, updated_at = now() WHERE id = $1 AND paused <> $2 RETURNING id;

-- name: count
-- $1 tenant, $2 mode.
SELECT count(*) FROM webhook_endpoints WHERE tenant_id = $1 AND mode = $2;

-- name: add_secret
-- $1 id, $2 endpoint, $3 sealed secret.
INSERT INTO webhook_endpoint_secrets (id, endpoint_id, sealed) VALUES ($1, $2, $3);

-- name: lock
-- $1 endpoint. Two rotations of its secrets run one after the other.
SELECT id FROM webhook_endpoints WHERE id = $1 FOR UPDATE;

-- name: retire_secrets
-- $1 endpoint, $2 grace. Limits the present secrets to this time; a shorter remaining time stays. Returns
-- when the last of them expires, and how many there are.
WITH retired AS (
    UPDATE webhook_endpoint_secrets
       SET expires_at = least(coalesce(expires_at, 'infinity'), now() + $2::interval)
     WHERE endpoint_id = $1
    RETURNING expires_at
)
SELECT max(expires_at) AS until, count(*) AS secrets FROM retired;

-- name: drop_expired_secrets
-- $1 endpoint.
DELETE FROM webhook_endpoint_secrets WHERE endpoint_id = $1 AND expires_at <= now();

-- name: show
-- $1 endpoint. With the number of secrets that sign now.
SELECT e.id, e.tenant_id, e.mode, e.url, e.description, e.event_types, e.enabled, e.disabled_reason,
       e.disabled_at, e.paused, e.rate_limit, e.created_at, e.updated_at, e.sealed_headers,
       (SELECT count(*) FROM webhook_endpoint_secrets s
         WHERE s.endpoint_id = e.id AND (s.expires_at IS NULL OR s.expires_at > now())) AS secrets
  FROM webhook_endpoints e
 WHERE e.id = $1;

-- name: list
-- $1 tenant, $2 mode, $3 and $4 the last row's created_at and id or null, $5 limit. Newest first.
SELECT e.id, e.tenant_id, e.mode, e.url, e.description, e.event_types, e.enabled, e.disabled_reason,
       e.disabled_at, e.paused, e.rate_limit, e.created_at, e.updated_at, e.sealed_headers,
       (SELECT count(*) FROM webhook_endpoint_secrets s
         WHERE s.endpoint_id = e.id AND (s.expires_at IS NULL OR s.expires_at > now())) AS secrets
  FROM webhook_endpoints e
 WHERE e.tenant_id = $1 AND e.mode = $2
   AND (e.created_at, e.id) < (coalesce($3::timestamptz, 'infinity'), $4::uuid)
 ORDER BY e.created_at DESC, e.id DESC
 LIMIT $5;
