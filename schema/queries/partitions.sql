-- name: ensure
-- Makes the missing months; returns how many partitions it made.
SELECT ensure_partitions();

-- name: ahead
-- Whole months ahead that every partitioned table is ready for.
SELECT partitions_ahead();

-- name: ensure_past
-- $1 the first moment. Makes the missing months from then on; returns how many partitions it made.
SELECT ensure_past_partitions($1);
