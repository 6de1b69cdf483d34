-- DDL takes no parameters: :role, :roles and :verifier are this package's own text, never a caller's.

-- name: create_role
-- :login is LOGIN or NOLOGIN; without a password nobody can log in under scram.
DO $$
BEGIN
    CREATE ROLE :role :login;
EXCEPTION WHEN duplicate_object OR unique_violation THEN
    NULL;  -- another database of this cluster has made it, or another process just now
END $$;

-- name: set_password
-- What the server stores; the password itself never leaves the process.
ALTER ROLE :role PASSWORD ':verifier';

-- name: key_of_role
-- $1 role. Roles are the cluster's: the key that their passwords come from is noted beside one of them.
SELECT shobj_description(oid, 'pg_authid') FROM pg_roles WHERE rolname = $1;

-- name: note_key
-- :key_check tells keys apart and nothing else about them.
COMMENT ON ROLE :role IS ':key_check';

-- name: grant_connect
-- What others may do in this database is not ours to change.
DO $$
BEGIN
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO :roles', current_database());
END $$;
