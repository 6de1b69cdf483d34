-- The views that a mode publishes. Names and meanings come from the catalog, so they are never out of date.

-- name: views
-- $1 the role that they are published to.
SELECT c.relname AS name, coalesce(obj_description(c.oid, 'pg_class'), '') AS meaning
  FROM pg_class c
 WHERE c.relkind = 'v' AND c.relnamespace = current_schema()::regnamespace
   AND has_table_privilege($1::text, c.oid, 'SELECT')
 ORDER BY c.relname;

-- name: columns
-- $1 view.
SELECT a.attname AS name, format_type(a.atttypid, a.atttypmod) AS type,
       coalesce(col_description(a.attrelid, a.attnum), '') AS meaning
  FROM pg_attribute a
 WHERE a.attrelid = $1::text::regclass AND a.attnum > 0 AND NOT a.attisdropped
 ORDER BY a.attnum;
