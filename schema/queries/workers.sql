-- Presence: a worker is alive while its session holds the advisory lock (workers' oid, id). See delivery/presence.py.

-- name: register
-- $1 name.
INSERT INTO workers (name) VALUES ($1) RETURNING id;

-- name: lock
-- $1 id. False while another session holds it.
SELECT pg_try_advisory_lock('workers'::regclass::oid::integer, $1);

-- name: unlock
-- $1 id.
SELECT pg_advisory_unlock('workers'::regclass::oid::integer, $1);

-- name: hold
-- $1 id. Session locks count how often they are taken, so one that is held is not taken again.
SELECT EXISTS (SELECT FROM pg_locks l
                WHERE l.locktype = 'advisory' AND l.objsubid = 2 AND l.granted AND l.pid = pg_backend_pid()
                  AND l.classid = 'workers'::regclass::oid AND l.objid = $1::integer::oid)
       OR pg_try_advisory_lock('workers'::regclass::oid::integer, $1::integer);

-- name: is_registered
-- $1 id. False when others have declared it dead.
SELECT EXISTS (SELECT FROM workers WHERE id = $1);

-- name: absent
-- $1 own id. Registered workers whose lock nobody holds.
SELECT w.id
  FROM workers w
 WHERE w.id <> $1
   AND NOT EXISTS (SELECT FROM pg_locks l
                    WHERE l.locktype = 'advisory' AND l.objsubid = 2 AND l.granted
                      AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
                      AND l.classid = 'workers'::regclass::oid AND l.objid = w.id::oid);

-- name: forget
-- $1 id.
DELETE FROM workers WHERE id = $1;
