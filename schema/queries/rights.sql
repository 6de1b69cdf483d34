-- Owners of duro's objects and rights on them. Every role may read these catalogs.

-- name: intended_owner
-- The role that duro's objects shall belong to: the database's owner if this login may act for it,
-- otherwise the login itself.
SELECT CASE WHEN pg_has_role(datdba, 'USAGE') THEN pg_get_userbyid(datdba)
            ELSE current_user END::text AS owner,
       current_user::text AS login, datname::text AS database, pg_get_userbyid(datdba)::text AS database_owner
  FROM pg_database
 WHERE datname = current_database();

-- name: owner_of_objects
-- The owner of duro's schemas, and whether this login has that role's rights. No row: nothing is migrated.
SELECT pg_get_userbyid(nspowner)::text AS owner, current_user::text AS login,
       pg_has_role(nspowner, 'USAGE') AS may
  FROM pg_namespace
 WHERE nspname = 'core';

-- name: may_create
-- Whether this login may create schemas in this database.
SELECT has_database_privilege(current_database(), 'CREATE');

-- name: objects
-- $1 schema, $2 tables and views, $3 functions, $4 types, $5 roles, $6 whether to include partitions. The
-- schema and those of its objects, with the privileges of these roles, of PUBLIC and of the object's owner,
-- each as {grantee, privilege}. A privilege with grant option ends in *. If the schema is missing after a
-- restore, its objects are not listed.
WITH RECURSIVE schema AS (
    SELECT oid, nspname, nspowner, nspacl FROM pg_namespace WHERE nspname = $1
), relation AS (
    SELECT c.oid, c.relname::text AS declared
      FROM pg_class c JOIN schema s ON c.relnamespace = s.oid
     WHERE c.relname = ANY($2::text[]) AND c.relkind IN ('r', 'p', 'v')
    UNION ALL  -- months that retention has detached and not dropped yet
    SELECT c.oid, NULL
      FROM pg_class c
      JOIN schema s ON c.relnamespace = s.oid
      JOIN pg_class p ON p.relnamespace = s.oid AND p.relkind = 'p' AND p.relname = ANY($2::text[])
                         AND c.relname ~ format('^%s(_g\d+)?_\d{4}_\d{2}$', p.relname)
     WHERE c.relkind = 'r' AND NOT c.relispartition AND $6
    UNION ALL
    SELECT i.inhrelid, NULL
      FROM relation r
      JOIN pg_inherits i ON i.inhparent = r.oid AND $6
      JOIN pg_class c ON c.oid = i.inhrelid AND c.relispartition  -- not a product's table that inherits
), found AS (
    SELECT 'SCHEMA' AS kind, format('%I', nspname) AS name, nspname::text AS declared, nspowner AS owner,
           coalesce(nspacl, acldefault('n', nspowner)) AS acl, NULL::oid AS relation
      FROM schema
    UNION ALL
    SELECT 'TYPE', format('%I.%I', s.nspname, t.typname), t.typname, t.typowner,
           coalesce(t.typacl, acldefault('T', t.typowner)), NULL
      FROM pg_type t JOIN schema s ON t.typnamespace = s.oid
     WHERE t.typname = ANY($4::text[])
    UNION ALL
    SELECT 'TABLE', format('%I.%I', n.nspname, c.relname), r.declared, c.relowner,
           coalesce(c.relacl, acldefault('r', c.relowner)), c.oid
      FROM relation r JOIN pg_class c ON c.oid = r.oid JOIN pg_namespace n ON n.oid = c.relnamespace
    UNION ALL
    SELECT 'FUNCTION', format('%I.%I(%s)', s.nspname, p.proname, pg_get_function_identity_arguments(p.oid)),
           signature.text, p.proowner, coalesce(p.proacl, acldefault('f', p.proowner)), NULL
      FROM pg_proc p
      JOIN schema s ON p.pronamespace = s.oid
     CROSS JOIN LATERAL (SELECT format('%s(%s)', p.proname, oidvectortypes(p.proargtypes)))
         AS signature (text)
     WHERE signature.text = ANY($3::text[])
)
SELECT f.kind, f.name, f.declared, pg_get_userbyid(f.owner)::text AS owner,
       coalesce((SELECT array_agg(ARRAY[e.grantee, e.privilege] ORDER BY e.grantee, e.privilege)
                   FROM (SELECT CASE WHEN a.grantee = 0 THEN 'PUBLIC'
                                     ELSE pg_get_userbyid(a.grantee)::text END AS grantee,
                                a.privilege_type || a.of_column
                                || CASE WHEN a.is_grantable AND a.grantee <> f.owner THEN '*'
                                        ELSE '' END AS privilege
                           FROM (SELECT x.grantee, x.privilege_type, x.is_grantable, '' AS of_column
                                 FROM aclexplode(f.acl) x
                                 UNION ALL
                                 SELECT x.grantee, x.privilege_type, x.is_grantable,
                                        format(' (%I)', c.attname)
                                   FROM pg_attribute c CROSS JOIN LATERAL aclexplode(c.attacl) x
                                  WHERE c.attrelid = f.relation AND c.attacl IS NOT NULL) AS a) AS e
                  WHERE e.grantee = 'PUBLIC' OR e.grantee = ANY($5::text[])
                     OR e.grantee = pg_get_userbyid(f.owner)),
                '{}') AS privileges,
       coalesce((SELECT array_agg(ARRAY[t.tgname::text, t.tgenabled::text] ORDER BY t.tgname)
                   FROM pg_trigger t WHERE t.tgrelid = f.relation AND NOT t.tgisinternal), '{}') AS triggers
  FROM found f
 ORDER BY array_position(ARRAY['SCHEMA', 'TYPE', 'TABLE', 'FUNCTION'], f.kind), f.name;

-- name: may_take_over
-- $1 role, $2 another role. Whether this login may take over what the first role owns and give it to the
-- second.
SELECT pg_has_role($1, 'USAGE') AND pg_has_role($2, 'SET') AS may,
       (SELECT rolsuper FROM pg_roles WHERE rolname = $1) AS superuser;

-- name: has_default_privileges
-- Whether this login has default privileges for its new objects.
SELECT EXISTS (SELECT FROM pg_default_acl WHERE defaclrole = current_user::regrole);

-- name: existing_objects
-- $1 schema. Its relations and its functions.
SELECT ARRAY(SELECT oid FROM pg_class WHERE relnamespace = to_regnamespace($1)) AS relations,
       ARRAY(SELECT oid FROM pg_proc WHERE pronamespace = to_regnamespace($1)) AS functions;

-- name: granted_by_default
-- $1 schema, $2 and $3 the relations and functions that existed before. Statements that revoke what others
-- may do with the new ones.
SELECT made.name, made.is_function,
       format('REVOKE ALL ON %s FROM %s CASCADE', made.object,
              CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END) AS statement
  FROM (SELECT relname::text AS name, false AS is_function,
               CASE WHEN relkind = 'S' THEN 'SEQUENCE ' ELSE 'TABLE ' END || oid::regclass AS object,
               relowner AS owner, relacl AS acl
          FROM pg_class
         WHERE relnamespace = to_regnamespace($1) AND oid <> ALL ($2::oid[])
           AND relkind IN ('r', 'p', 'v', 'S')
         UNION ALL
        SELECT proname, true, 'FUNCTION ' || oid::regprocedure, proowner, proacl
          FROM pg_proc WHERE pronamespace = to_regnamespace($1) AND oid <> ALL ($3::oid[])) AS made
 CROSS JOIN LATERAL aclexplode(made.acl) AS a
 WHERE a.grantee <> made.owner
 GROUP BY 1, 2, 3;

-- name: has_foreign_objects
-- $1 schema, $2 names of relations, $3 of functions, $4 of types. Whether it has a table, view, function or
-- type that is not one of these, nor a partition of one.
SELECT EXISTS (SELECT FROM pg_class c
                WHERE c.relnamespace = to_regnamespace($1) AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
                  AND (SELECT r.relname FROM pg_class r
                       WHERE r.oid = coalesce(pg_partition_root(c.oid), c.oid)) <> ALL ($2::text[]))
    OR EXISTS (SELECT FROM pg_proc WHERE pronamespace = to_regnamespace($1) AND proname <> ALL ($3::text[]))
    OR EXISTS (SELECT FROM pg_type
               WHERE typnamespace = to_regnamespace($1) AND typtype IN ('b', 'd', 'e', 'r')
                                     AND typelem = 0 AND typname <> ALL ($4::text[]));
