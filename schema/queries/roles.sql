-- DDL takes no parameters: :role, :roles and :verifier are this package's own text, never a caller's.

-- name: create_role
-- A login role without a password cannot log in under scram.
DO $$
BEGIN
    CREATE ROLE :role LOGIN;
EXCEPTION WHEN duplicate_object OR unique_violation THEN
    NULL;  -- another database of this cluster has made it, or another process just now
END $$;

-- name: set_password
-- What the server stores; the password itself never leaves the process.
ALTER ROLE :role PASSWORD ':verifier';

-- name: grant_connect
-- Nobody connects, or makes temporary tables, who is not named here.
DO $$
BEGIN
    EXECUTE format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database());
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO :roles', current_database());
END $$;
