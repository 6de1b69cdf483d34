-- runs: index
-- Of a table whose partitions are partitioned.
CREATE INDEX activity_by_day ON activity (tenant_id, created_at);
