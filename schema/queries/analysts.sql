-- name: stop_runaway_queries
-- How many sessions of analysts were ended.
SELECT stop_runaway_queries();
