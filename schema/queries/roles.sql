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

-- name: limit_analyst
-- What an operator has set stays. The owner becomes a member to see and end what the role runs; it may not act as it.
DO $$
DECLARE
    limited pg_roles;
    setting text[];
BEGIN
    SELECT * INTO STRICT limited FROM pg_roles WHERE rolname = ':role';
    IF NOT pg_has_role(':role', 'USAGE') THEN
        GRANT :role TO CURRENT_USER WITH INHERIT TRUE, SET FALSE;
    END IF;
    IF limited.rolconnlimit = -1 THEN
        ALTER ROLE :role CONNECTION LIMIT 5;
    END IF;
    FOREACH setting SLICE 1 IN ARRAY ARRAY[['search_path', ':schema'], ['statement_timeout', '30s'],
        ['idle_in_transaction_session_timeout', '60s'], ['default_transaction_read_only', 'on']] LOOP
        IF NOT EXISTS (SELECT FROM unnest(limited.rolconfig) AS c WHERE starts_with(c, setting[1] || '=')) THEN
            EXECUTE format('ALTER ROLE :role SET %I = %L', setting[1], setting[2]);
        END IF;
    END LOOP;
END $$;

-- name: remove_password
-- Nobody can log in under scram then.
ALTER ROLE :role PASSWORD NULL;
