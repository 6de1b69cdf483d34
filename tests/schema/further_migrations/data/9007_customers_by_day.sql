-- runs: index
-- Of a table that is not partitioned.
CREATE INDEX customers_by_day ON customers (created_at);
