-- Setting up a session before it is used. See schema/connections/connecting.py.

-- name: pin
-- $1 names of settings, $2 their values, $3 the process id that the server gave at login, $4 names of
-- settings that not every server has, which are skipped where unknown. Pins the settings and returns true.
-- Returns false and sets nothing if another process answers: there is a pooler in between. (unnest of
-- several arrays cannot be schema-qualified, and is always the system's.)
SELECT coalesce(bool_and(pg_catalog.set_config(s.name, s.value, false) IS NOT NULL), true)
       AND pg_catalog.pg_backend_pid() = $3
  FROM unnest($1::text[], $2::text[]) AS s (name, value)
 WHERE pg_catalog.pg_backend_pid() = $3
   AND (s.name <> ALL ($4::text[]) OR pg_catalog.current_setting(s.name, true) IS NOT NULL);

-- name: backend
SELECT pg_catalog.pg_backend_pid();

-- name: is_writable
SELECT NOT pg_catalog.pg_is_in_recovery() AND pg_catalog.current_setting('transaction_read_only') = 'off';
