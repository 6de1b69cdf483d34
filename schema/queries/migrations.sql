-- The record of applied migrations (core.schema_migrations). Run as the owner.

-- name: prepare
-- The schemas and the record itself.
CREATE SCHEMA IF NOT EXISTS core;
CREATE SCHEMA IF NOT EXISTS sandbox;
CREATE SCHEMA IF NOT EXISTS live;
CREATE TABLE IF NOT EXISTS core.schema_migrations (
    schema     text NOT NULL,
    name       text NOT NULL,
    sha256     text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (schema, name)
);
CREATE TABLE IF NOT EXISTS core.installation (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    key_check text NOT NULL
);

-- name: is_installed
-- Whether duro has been installed here: a product's own schema core has no such tables. The catalog needs
-- no right.
SELECT count(*) = 2
  FROM pg_class c
  JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = 'core' AND c.relname IN ('schema_migrations', 'installation');

-- name: claim_key
-- $1 check value of the secret key in use. Returns the check value of the first key: another key would lock
-- every role out and leave sealed secrets unreadable.
WITH first AS (
    INSERT INTO core.installation (key_check) VALUES ($1) ON CONFLICT DO NOTHING RETURNING key_check
)
SELECT key_check FROM first UNION ALL SELECT key_check FROM core.installation;

-- name: applied
SELECT schema, name, sha256 FROM core.schema_migrations;

-- name: record
-- $1 schema, $2 file name, $3 sha256 of its text.
INSERT INTO core.schema_migrations (schema, name, sha256) VALUES ($1, $2, $3);

-- name: lock
-- $1 key. Held by the session; false while another process migrates.
SELECT pg_try_advisory_lock($1);

-- name: free_lock
-- $1 roles. Ends their sessions that hold an advisory lock: any role may take one, and these roles need
-- none.
SELECT pg_terminate_backend(l.pid)
  FROM pg_locks l
  JOIN pg_stat_activity a ON a.pid = l.pid AND a.usename = ANY($1::text[])
      AND pg_has_role(a.usesysid, 'USAGE')
 WHERE l.locktype = 'advisory' AND l.granted;

-- name: unlock
-- $1 key.
SELECT pg_advisory_unlock($1);
