-- name: ensure
-- Makes the missing months; returns how many partitions it made.
SELECT ensure_partitions();

-- name: ahead
-- Whole months ahead that every partitioned table is ready for.
SELECT partitions_ahead();
