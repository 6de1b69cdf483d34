-- DDL takes no parameters. :role, :roles and :verifier are this package's own text, never a caller's.

-- name: create_role
-- :login is LOGIN or NOLOGIN. Without a password no one can log in with SCRAM.
DO $$
BEGIN
    CREATE ROLE :role :login;
EXCEPTION WHEN duplicate_object OR unique_violation THEN
    NULL;  -- another database of this cluster has made it, or another process just now
END $$;

-- name: set_password
-- The SCRAM verifier that the server stores. The password itself never leaves the process.
ALTER ROLE :role PASSWORD ':verifier';

-- name: saved_key_check
-- $1 role. Roles belong to the cluster, so the check value of the key that their passwords come from is a
-- comment on one of them.
SELECT shobj_description(oid, 'pg_authid') FROM pg_roles WHERE rolname = $1;

-- name: save_key_check
-- :key_check tells keys apart and reveals nothing else about them.
COMMENT ON ROLE :role IS ':key_check';

-- name: rights_over_roles
-- $1 roles. Whether this login may create roles, and which of these exist without its ADMIN OPTION on them.
SELECT current_user::text AS login, rolcreaterole OR rolsuper AS creates_roles,
       ARRAY(SELECT o.rolname::text FROM pg_roles o
              WHERE o.rolname = ANY($1::text[]) AND NOT pg_has_role(o.oid, 'MEMBER WITH ADMIN OPTION')
              ORDER BY o.rolname) AS unmanaged
  FROM pg_roles WHERE rolname = current_user;

-- name: owner_without_admin
-- $1 roles. The owner of our objects (see intended_owner in rights.sql), and the roles that it may not
-- manage.
SELECT o.owner::text, ARRAY(SELECT r.rolname::text FROM pg_roles r
                             WHERE r.rolname = ANY($1::text[])
                               AND NOT pg_has_role(o.owner, r.oid, 'MEMBER WITH ADMIN OPTION')
                             ORDER BY r.rolname) AS roles
  FROM (SELECT CASE WHEN pg_has_role(datdba, 'USAGE') THEN pg_get_userbyid(datdba)
                    ELSE current_user END AS owner
          FROM pg_database WHERE datname = current_database()) AS o;

-- name: attributes
-- $1 roles. Those that exist. `powers` is the statement that removes attributes that they must not have.
SELECT rolname::text, rolcanlogin, coalesce(rolvaliduntil < now(), false) AS expired,
       array_remove(ARRAY[CASE WHEN rolsuper THEN 'NOSUPERUSER' END,
                          CASE WHEN rolcreaterole THEN 'NOCREATEROLE' END,
                          CASE WHEN rolcreatedb THEN 'NOCREATEDB' END,
                          CASE WHEN rolbypassrls THEN 'NOBYPASSRLS' END,
                          CASE WHEN rolreplication THEN 'NOREPLICATION' END], NULL) AS powers
  FROM pg_roles WHERE rolname = ANY($1::text[]) ORDER BY rolname;

-- name: roles_without_connect
-- $1 roles. Those that cannot connect to this database, or only through PUBLIC although this login could
-- grant it.
SELECT r.rolname::text
  FROM pg_roles r, pg_database d
 WHERE r.rolname = ANY($1::text[]) AND d.datname = current_database()
   AND NOT CASE WHEN pg_has_role(d.datdba, 'USAGE')
                THEN EXISTS (SELECT FROM aclexplode(d.datacl) a
                             WHERE a.grantee = r.oid AND a.privilege_type = 'CONNECT')
                ELSE has_database_privilege(r.oid, d.oid, 'CONNECT') END
 ORDER BY r.rolname;

-- name: database
-- Its name.
SELECT current_database()::text;

-- name: grant_connect
-- The rights of other roles on this database stay as they are.
DO $$
BEGIN
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO :roles', current_database());
END $$;

-- name: limit_analyst
-- What an operator has set stays. The owner of duro's objects (see intended_owner in rights.sql) becomes a
-- member, to see and end the role's sessions; it may not act as the role.
DO $$
DECLARE
    owner   name := (SELECT CASE WHEN pg_has_role(datdba, 'USAGE') THEN pg_get_userbyid(datdba)
                                 ELSE current_user END
                       FROM pg_database WHERE datname = current_database());
    limited pg_roles;
    setting text[];
BEGIN
    SELECT * INTO STRICT limited FROM pg_roles WHERE rolname = ':role';
    IF NOT pg_has_role(owner, ':role', 'USAGE') THEN
        EXECUTE format('GRANT :role TO %I WITH INHERIT TRUE, SET FALSE', owner);
    END IF;
    IF limited.rolconnlimit = -1 THEN
        ALTER ROLE :role CONNECTION LIMIT 5;
    END IF;
    FOREACH setting SLICE 1 IN ARRAY ARRAY[['search_path', ':schema'], ['statement_timeout', '30s'],
        ['idle_in_transaction_session_timeout', '60s'], ['default_transaction_read_only', 'on']] LOOP
        IF NOT EXISTS (SELECT FROM unnest(limited.rolconfig) AS c
                       WHERE starts_with(c, setting[1] || '=')) THEN
            EXECUTE format('ALTER ROLE :role SET %I = %L', setting[1], setting[2]);
        END IF;
    END LOOP;
END $$;

-- name: remove_password
-- Then no one can log in with SCRAM.
ALTER ROLE :role PASSWORD NULL;
