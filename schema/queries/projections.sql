-- Generations of projections. See migrations/data/0015_projections.sql for the protocol.

-- name: generations
-- $1 projection. Read inside the transaction that holds the cursor of the consumer that writes.
SELECT serving, building FROM projections WHERE name = $1;

-- name: begin_rebuild
-- $1 projection. The generation to build, and whether an interrupted rebuild continues.
SELECT generation, resumed FROM begin_rebuild($1);

-- name: finish_rebuild
-- $1 projection. Whether the built generation serves now.
SELECT finish_rebuild($1);

-- name: abandon_rebuild
-- $1 projection. Whether there was a rebuild.
SELECT abandon_rebuild($1);

-- name: drop_generations
-- $1 projection. How many tables were dropped.
SELECT drop_generations($1);

-- name: as_of
-- $1 consumer. The time up to which its work is complete.
SELECT as_of($1);

-- name: consumer_progress
-- $1 consumer. Where the remaining log begins, the consumer's position, the last position of the log, and
-- the number of dead-lettered events.
SELECT coalesce((SELECT pos - 1 FROM event_log ORDER BY pos LIMIT 1), s.last_pos) AS before_first,
       coalesce((SELECT pos FROM cursors WHERE consumer = $1 ORDER BY tick DESC LIMIT 1), 0) AS pos,
       s.last_pos,
       (SELECT count(*) FROM dead_events WHERE consumer = $1) AS dead
  FROM (SELECT last_pos FROM sequencer ORDER BY tick DESC LIMIT 1) s;
