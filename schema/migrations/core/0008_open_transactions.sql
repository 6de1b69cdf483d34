-- The oldest open transaction of this database. While it lasts, rows that others update or delete cannot be
-- cleaned up.
--
-- A session shows its transaction's start only to roles with rights over its own role. This function runs
-- as its owner, who sees its own sessions and those of roles it is a member of; with pg_read_all_stats, all
-- sessions.
--   seconds, pid   of the oldest transaction seen; null: none. A prepared transaction has no session: pid 0
--   hidden         sessions that hold a transaction or a snapshot open and do not show since when, without
--                  those of the service's own roles, whose transactions are short
CREATE FUNCTION oldest_transaction(OUT seconds double precision, OUT pid integer, OUT hidden integer)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = :schema, pg_temp AS $$
    WITH opened AS MATERIALIZED (
        SELECT xact_start AS since, pid
          FROM pg_stat_activity
         WHERE datname = current_database() AND pid <> pg_backend_pid()
           AND (backend_type = 'client backend' AND xact_start IS NOT NULL
                OR backend_type IS NULL AND (backend_xid IS NOT NULL OR backend_xmin IS NOT NULL)
                   AND usename NOT IN ('duro_core', 'duro_sandbox', 'duro_live'))
        UNION ALL
        SELECT prepared, 0 FROM pg_prepared_xacts WHERE database = current_database()
    )
    SELECT extract(epoch FROM clock_timestamp() - oldest.since)::float8, oldest.pid,
           (SELECT count(*)::integer FROM opened WHERE since IS NULL)
      FROM (VALUES (1)) AS always
      LEFT JOIN (SELECT since, pid FROM opened WHERE since IS NOT NULL ORDER BY since LIMIT 1) AS oldest
        ON true
$$;
