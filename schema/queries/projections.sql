-- Generations of projections. See migrations/data/0015_projections.sql for the protocol.

-- name: generations
-- $1 projection. Read inside the transaction that holds the cursor of whoever writes into one of them.
SELECT serving, building FROM projections WHERE name = $1;

-- name: begin_rebuild
-- $1 projection. The generation to build, and whether it was begun before.
SELECT generation, resumed FROM begin_rebuild($1);

-- name: finish_rebuild
-- $1 projection. Whether what was built serves now.
SELECT finish_rebuild($1);

-- name: abandon_rebuild
-- $1 projection. Whether there was anything to give up.
SELECT abandon_rebuild($1);

-- name: drop_generations
-- $1 projection. How many tables that were.
SELECT drop_generations($1);

-- name: as_of
-- $1 consumer. Up to when its work is complete.
SELECT as_of($1);

-- name: consumer_progress
-- $1 consumer. Where the log that is left begins, how far the consumer has come, where the log ends, and what it has dead-lettered.
SELECT coalesce((SELECT pos - 1 FROM event_log ORDER BY pos LIMIT 1), s.last_pos) AS before_first,
       coalesce((SELECT pos FROM cursors WHERE consumer = $1 ORDER BY tick DESC LIMIT 1), 0) AS pos,
       s.last_pos,
       (SELECT count(*) FROM dead_events WHERE consumer = $1) AS dead
  FROM (SELECT last_pos FROM sequencer ORDER BY tick DESC LIMIT 1) s;
