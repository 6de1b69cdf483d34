-- Checks of the database before duro uses or changes it. Any login may run them.

-- name: server
-- `create`: the command that makes a database with the right encoding. LOCALE C works with every encoding
-- and on every system.
SELECT pg_is_in_recovery() AS standby, pg_encoding_to_char(encoding)::text AS encoding,
       datistemplate AS template,
       current_setting('session_replication_role') AS replication_role, format('%I', current_user) AS login,
       format('%I', datname) AS database,
       format('CREATE DATABASE %I OWNER %I ENCODING ''UTF8'' LOCALE ''C'' TEMPLATE template0',
              datname || '_utf8', pg_get_userbyid(datdba)) AS create
  FROM pg_database
 WHERE datname = current_database();

-- name: migrations_table
-- Whether core.schema_migrations is the record of duro's migrations and not another table of that name, and
-- whether this login may read it. From the catalog: in a restored database the login may lack rights on the
-- schema.
SELECT count(*) = 4 AS found,
       coalesce(bool_and(has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')),
                false) AS readable
  FROM pg_namespace n
  JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = 'schema_migrations'
  JOIN pg_attribute a ON a.attrelid = c.oid AND NOT a.attisdropped
 WHERE n.nspname = 'core' AND a.attname IN ('schema', 'name', 'sha256', 'applied_at');

-- name: objects_in
-- $1 schema. Its objects, as people name them. Default privileges are not objects.
SELECT i.type, coalesce(i.name, '') AS name, i.identity
  FROM pg_namespace n
  JOIN pg_depend d ON d.refclassid = 'pg_namespace'::regclass AND d.refobjid = n.oid
      AND d.classid <> 'pg_default_acl'::regclass
 CROSS JOIN LATERAL pg_identify_object(d.classid, d.objid, d.objsubid) AS i
 WHERE n.nspname = $1
 ORDER BY i.identity;

-- name: names_in
-- $1 schema. Every name that is taken, by the kind of names that it belongs to.
SELECT 'relation' AS kind, c.relname::text AS name, i.type || ' ' || i.identity AS object
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = $1
 CROSS JOIN LATERAL pg_identify_object('pg_class'::regclass, c.oid, 0) AS i
UNION ALL
SELECT 'function', p.proname, i.type || ' ' || i.identity
  FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace AND n.nspname = $1
 CROSS JOIN LATERAL pg_identify_object('pg_proc'::regclass, p.oid, 0) AS i
UNION ALL
SELECT 'type', t.typname, i.type || ' ' || i.identity
  FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace AND n.nspname = $1
 CROSS JOIN LATERAL pg_identify_object('pg_type'::regclass, t.oid, 0) AS i
 WHERE t.typelem = 0 AND t.typrelid = 0
 ORDER BY object;

-- name: may_create_in
-- $1 schema. Whether this login may create objects in it and grant its use, and the schema's owner; no row
-- if there is no such schema.
SELECT has_schema_privilege(oid, 'CREATE') AND has_schema_privilege(oid, 'USAGE WITH GRANT OPTION') AS may,
       format('%I', pg_get_userbyid(nspowner)) AS owner, format('%I', current_user) AS login
  FROM pg_namespace
 WHERE nspname = $1;
