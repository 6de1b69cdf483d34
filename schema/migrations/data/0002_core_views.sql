-- What this schema's roles see of core, and the two changes that they may make there. With security_barrier
-- no function of the caller's sees another mode's row.

CREATE VIEW tenants WITH (security_barrier) AS SELECT id, name FROM core.tenants;

CREATE VIEW event_types WITH (security_barrier) AS SELECT name, description FROM core.event_types;

CREATE VIEW webhook_endpoints WITH (security_barrier) AS
SELECT e.id, e.tenant_id, e.url, e.event_types, e.sealed_headers, e.enabled, e.created_at,
       ARRAY(SELECT s.sealed
               FROM core.webhook_endpoint_secrets s
              WHERE s.endpoint_id = e.id AND (s.expires_at IS NULL OR s.expires_at > now())
              ORDER BY s.created_at DESC, s.id DESC) AS sealed_secrets,
       e.paused, e.rate_limit
  FROM core.webhook_endpoints e
 WHERE e.mode = this_mode();

-- Data roles change an endpoint only through these two functions, so that the change and the event about it
-- are one transaction. Both return whether anything changed. `at_url`, unless null, names the URL that the
-- endpoint must still have: a result from an old server says nothing about a new one.
CREATE FUNCTION disable_endpoint(endpoint_id uuid, reason text, at_url text) RETURNS boolean
LANGUAGE sql SECURITY DEFINER SET search_path = :schema, pg_temp
BEGIN ATOMIC
    WITH changed AS (
        UPDATE core.webhook_endpoints e
           SET enabled = false, disabled_reason = reason, updated_at = now()
         WHERE e.id = endpoint_id AND e.mode = this_mode() AND e.enabled
           AND (at_url IS NULL OR e.url = at_url)
        RETURNING e.id)
    SELECT EXISTS (SELECT FROM changed);
END;

CREATE FUNCTION enable_endpoint(endpoint_id uuid) RETURNS boolean
LANGUAGE sql SECURITY DEFINER SET search_path = :schema, pg_temp
BEGIN ATOMIC
    WITH changed AS (
        UPDATE core.webhook_endpoints e
           SET enabled = true, disabled_reason = NULL, updated_at = now()
         WHERE e.id = endpoint_id AND e.mode = this_mode() AND NOT e.enabled
        RETURNING e.id)
    SELECT EXISTS (SELECT FROM changed);
END;
