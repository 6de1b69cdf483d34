-- name: stop_runaway_queries
-- How many of the analysts' sessions were ended.
SELECT stop_runaway_queries();
