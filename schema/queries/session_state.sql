-- The state of sessions, from the server.

-- name: statement_timeout
-- Of this session, in seconds.
SELECT setting::float8 / 1000 FROM pg_settings WHERE name = 'statement_timeout';

-- name: waits_for
-- $1 the session's process.
SELECT wait_event_type FROM pg_stat_activity WHERE pid = $1;
