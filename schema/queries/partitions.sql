-- name: ensure
-- Makes the missing partitions; returns how many.
SELECT ensure_partitions();

-- name: ahead
-- How many whole months ahead have their partition in every monthly table.
SELECT partitions_ahead();

-- name: ensure_past
-- $1 the first time. Makes the missing partitions from then on; returns how many.
SELECT ensure_past_partitions($1);
