-- Presence: a worker is alive while the session named in its row exists and holds its mark. See
-- delivery/engine/presence.py.

-- name: mark
-- Marks this session as a worker's, by an advisory lock. Its number is random, so that no other session
-- holds the same one.
SELECT pg_try_advisory_lock_shared(1685418607, (random() * 2147483647)::integer);

-- name: register
-- $1 name. The session that runs this becomes the worker's.
INSERT INTO workers (name, pid, session_start)
SELECT $1, pid, backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()
RETURNING id;

-- name: hold
-- $1 id. Names the session that runs this, unless it is named already; no row if the worker was declared
-- dead. Waits while another session is declaring it dead.
UPDATE workers w
   SET pid = a.pid, session_start = a.backend_start
  FROM pg_stat_activity a
 WHERE w.id = $1 AND a.pid = pg_backend_pid()
   AND (w.pid, w.session_start) IS DISTINCT FROM (a.pid, a.backend_start);

-- name: is_registered
-- $1 id.
SELECT EXISTS (SELECT FROM workers WHERE id = $1);

-- name: registered
SELECT id FROM workers;

-- name: absent
-- $1 own id. Registered workers whose session does not exist or has no mark. Another session may have the
-- same pid by now, but not the same start.
SELECT w.id
  FROM workers w
 WHERE w.id <> $1
   AND NOT EXISTS (SELECT FROM pg_stat_activity a JOIN pg_locks l ON l.pid = a.pid
                    WHERE a.pid = w.pid AND a.backend_start = w.session_start
                      AND l.locktype = 'advisory' AND l.classid = 1685418607 AND l.objsubid = 2);

-- name: lock_absent
-- $1 id. Returns its name and locks its row, if the worker is still absent and no other session has locked
-- it.
SELECT w.name
  FROM workers w
 WHERE w.id = $1
   AND NOT EXISTS (SELECT FROM pg_stat_activity a JOIN pg_locks l ON l.pid = a.pid
                    WHERE a.pid = w.pid AND a.backend_start = w.session_start
                      AND l.locktype = 'advisory' AND l.classid = 1685418607 AND l.objsubid = 2)
   FOR UPDATE SKIP LOCKED;

-- name: end_sessions
-- $1 a worker's name, $2 for how long. Ends its sessions, of the role that runs this, that have been in a
-- transaction for so long while they wait for the client to continue or to read its results. No server
-- timeout covers a session that waits between preparing and executing a statement, and one that is sending
-- results is covered late. Two workers may have one name (restarted in a container); the running one does
-- not wait like this.
SELECT count(*) FILTER (WHERE pg_terminate_backend(pid)) AS ended
  FROM pg_stat_activity
 WHERE datname = current_database() AND usename = current_user AND application_name = left($1, 63)
   AND xact_start IS NOT NULL AND wait_event IN ('ClientRead', 'ClientWrite')
   AND state_change < now() - $2::interval;

-- name: forget
-- $1 id.
DELETE FROM workers WHERE id = $1;

-- name: session_named
-- $1 application name. Whether the role that asks has such a session in this database.
SELECT EXISTS (SELECT FROM pg_stat_activity
                WHERE datname = current_database() AND usename = current_user AND application_name = $1);
