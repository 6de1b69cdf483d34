-- Limits on what analysts' sessions may take of the server. Their roles have limits (queries/roles.sql),
-- but a session may change its own. So workers end sessions of analysts that
--   · run a statement for longer than the role's limit,
--   · keep a transaction open, because deleted rows cannot be cleaned up meanwhile,
--   · hold an advisory lock, which needs no right and could be one that others wait for.

-- Returns how many sessions it ended. The grace of two seconds lets the server's own time-out cancel the
-- statement first. A limit that the role does not have, or that is written in another form (0x7530), counts
-- as 30 s: an analyst may set it, and must not stop this function.
CREATE FUNCTION stop_runaway_queries() RETURNS integer
LANGUAGE sql SECURITY DEFINER SET search_path = :schema, pg_temp AS $$
    WITH analyst AS MATERIALIZED (
        SELECT r.rolname, (SELECT CASE WHEN set_to ~ '^[0-9]+$' THEN set_to::bigint * interval '1 ms'
                                       WHEN set_to ~ '^[0-9]+([.][0-9]+)? ?(us|ms|s|min|h|d)$'
                                           THEN set_to::interval
                                       ELSE interval '30 s' END
                             FROM (SELECT max(split_part(c, '=', 2)) FROM unnest(r.rolconfig) AS c
                                    WHERE c LIKE 'statement_timeout=%') AS setting (set_to)) AS longest
          FROM pg_roles r
         WHERE r.rolname IN ('duro_sandbox_analyst', 'duro_live_analyst') AND pg_has_role(r.oid, 'USAGE')
    ), runaway AS MATERIALIZED (
        SELECT a.pid
          FROM analyst
          JOIN pg_stat_activity a ON a.usename = analyst.rolname AND a.datname = current_database()
         WHERE (a.state = 'active' AND analyst.longest > interval '0'
                AND clock_timestamp() - a.query_start > analyst.longest + interval '2 s')
            OR (a.state LIKE 'idle in transaction%' AND clock_timestamp() - a.state_change > interval '70 s')
            OR clock_timestamp() - a.xact_start > interval '10 min'
            OR EXISTS (SELECT FROM pg_locks l WHERE l.pid = a.pid AND l.locktype = 'advisory')
    )
    SELECT count(*) FILTER (WHERE pg_terminate_backend(pid))::integer FROM runaway
$$;
