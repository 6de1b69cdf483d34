-- Applied once to sandbox and once to live, with search_path set to that schema alone; :schema stands for its name.
-- Nothing here may name its own schema otherwise: catalogs of the two must come out equal.

-- The one thing that differs between the two: which mode's rows of core this schema may see.
DO $$
BEGIN
    EXECUTE format(
        'CREATE FUNCTION this_mode() RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN %L::text',
        CASE current_schema() WHEN 'sandbox' THEN 'test' WHEN 'live' THEN 'live' END);
END $$;

-- A ULID: 48 bits of milliseconds, 80 random bits (a version 4 uuid's bytes without version and variant).
CREATE FUNCTION new_ulid() RETURNS uuid LANGUAGE sql VOLATILE PARALLEL SAFE RETURN (
    lpad(to_hex(floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint), 12, '0')
    || substr(replace(gen_random_uuid()::text, '-', ''), 1, 12)
    || substr(replace(gen_random_uuid()::text, '-', ''), 19, 8))::uuid;

-- 'ten_01HK…' -> uuid; plain uuid text is taken as well. Crockford base 32, five bits a character.
CREATE FUNCTION parse_id(prefix text, id text) RETURNS uuid
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
DECLARE
    ulid text := upper(substr(id, length(prefix) + 2));
    bits bit varying := ''::bit varying;
    digit integer;
BEGIN
    IF id ~* '^[0-9a-f]{8}-?([0-9a-f]{4}-?){3}[0-9a-f]{12}$' THEN
        RETURN id::uuid;
    END IF;
    IF left(id, length(prefix) + 1) <> prefix || '_' OR ulid !~ '^[0-7][0-9A-HJKMNP-TV-Z]{25}$' THEN
        RAISE EXCEPTION '% is not an id of the form %_ followed by 26 letters and digits', quote_literal(id), prefix
            USING ERRCODE = 'invalid_text_representation';
    END IF;
    FOR i IN 1..26 LOOP
        digit := strpos('0123456789ABCDEFGHJKMNPQRSTVWXYZ', substr(ulid, i, 1)) - 1;
        bits := bits || digit::bit(5);
    END LOOP;
    -- 130 bits, the first two are zero; hex by halves of 64.
    RETURN (lpad(to_hex(substring(bits FROM 3 FOR 64)::bit(64)::bigint), 16, '0')
         || lpad(to_hex(substring(bits FROM 67 FOR 64)::bit(64)::bigint), 16, '0'))::uuid;
END $$;

CREATE FUNCTION format_id(prefix text, id uuid) RETURNS text
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
DECLARE
    bits bit varying := B'00' || ('x' || replace(id::text, '-', ''))::bit(128);
    ulid text := '';
BEGIN
    FOR i IN 0..25 LOOP
        ulid := ulid || substr('0123456789ABCDEFGHJKMNPQRSTVWXYZ',
                               substring(bits FROM i * 5 + 1 FOR 5)::bit(5)::integer + 1, 1);
    END LOOP;
    RETURN prefix || '_' || ulid;
END $$;

-- What this schema may know of core. security_barrier: no function of the caller's sees another mode's row.
CREATE VIEW tenants WITH (security_barrier) AS SELECT id, name FROM core.tenants;

CREATE VIEW event_types WITH (security_barrier) AS SELECT name, description FROM core.event_types;

CREATE VIEW webhook_endpoints WITH (security_barrier) AS
SELECT e.id, e.tenant_id, e.url, e.event_types, e.sealed_headers, e.enabled, e.created_at,
       ARRAY(SELECT s.sealed
               FROM core.webhook_endpoint_secrets s
              WHERE s.endpoint_id = e.id AND (s.expires_at IS NULL OR s.expires_at > now())
              ORDER BY s.created_at DESC, s.id DESC) AS sealed_secrets
  FROM core.webhook_endpoints e
 WHERE e.mode = this_mode();

-- The data roles' only ways to change an endpoint, so that the change and the event about it are one
-- transaction. They return whether anything changed.
-- `at_url`, unless null: only while the endpoint still is there. An old server's answer says nothing of a new one.
CREATE FUNCTION disable_endpoint(endpoint_id uuid, reason text, at_url text) RETURNS boolean
LANGUAGE sql SECURITY DEFINER SET search_path = :schema, pg_temp
BEGIN ATOMIC
    WITH changed AS (
        UPDATE core.webhook_endpoints e
           SET enabled = false, disabled_reason = reason, updated_at = now()
         WHERE e.id = endpoint_id AND e.mode = this_mode() AND e.enabled AND (at_url IS NULL OR e.url = at_url)
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
