-- What a scrape of /metrics asks of core, each by a look at few rows.

-- Endpoints out of service are few beside the others, and counted often.
CREATE INDEX webhook_endpoints_out_of_service ON webhook_endpoints (mode, enabled) WHERE NOT enabled OR paused;

-- The transaction open for longest in this database: while it lasts, no row that others update can be cleaned up.
-- A session shows since when its transaction is open only to those with rights over its role. Here the function's owner
-- looks, who sees its own sessions, those of roles it is a member of, and with pg_read_all_stats everybody's.
--   seconds, pid   of the oldest one seen; null: there is none. A prepared transaction has no session: pid 0
--   hidden         sessions that have a transaction or a snapshot open and do not show since when; but for the service's
--                  own, whose transactions are short
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
      LEFT JOIN (SELECT since, pid FROM opened WHERE since IS NOT NULL ORDER BY since LIMIT 1) AS oldest ON true
$$;
