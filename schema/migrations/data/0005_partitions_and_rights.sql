-- Monthly partitions and append-only enforcement.

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only: % is refused', TG_TABLE_NAME, TG_OP
        USING ERRCODE = 'insufficient_privilege';
END $$;

-- By statement, so that it holds on an empty table too; ALWAYS, so that session_replication_role does not
-- turn it off. Such a trigger does not reach partitions, so each partition gets its own.
CREATE FUNCTION make_append_only(target regclass) RETURNS void
LANGUAGE plpgsql SET search_path = :schema, pg_temp AS $$
BEGIN
    EXECUTE format('CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON %s '
                   'FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()', target);
    EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER append_only', target);
END $$;

SELECT make_append_only('events'), make_append_only('event_log'), make_append_only('webhook_attempts');

CREATE TABLE partitions_lock ();  -- two workers make them in turn

-- For a table that has just been made: what the operator's default privileges give away of it is taken back. Access goes through its parent.
CREATE FUNCTION revoke_default_privileges(made regclass) RETURNS void
LANGUAGE plpgsql SET search_path = :schema, pg_temp AS $$
DECLARE
    role oid;
BEGIN
    FOR role IN SELECT DISTINCT a.grantee FROM pg_class c CROSS JOIN LATERAL aclexplode(c.relacl) AS a
                 WHERE c.oid = made AND a.grantee <> c.relowner LOOP
        EXECUTE format('REVOKE ALL ON %s FROM %s', made, CASE role WHEN 0 THEN 'PUBLIC' ELSE role::regrole::text END);
    END LOOP;
END $$;

-- The tables that are partitioned by month. By name: the product may have tables of its own in this schema.
CREATE FUNCTION monthly_tables() RETURNS SETOF regclass
LANGUAGE sql STABLE SET search_path = :schema, pg_temp AS $$
    SELECT unnest(ARRAY['events', 'event_log', 'webhook_deliveries', 'webhook_attempts']::regclass[])
$$;

-- Of a monthly partition. Sums are for a month of 100 million events.
--   webhook_deliveries  Every settled delivery leaves a dead row in the heap and in each index. By default a vacuum waits for
--                       20 % of the rows, 20 million dead ones here; at 2 % for 2 million. Less would gain little: while under 2 % of
--                       the pages have dead rows, PostgreSQL passes the indexes by.
--   all others          Rows are inserted once and never change. By default a vacuum waits for 20 % of new rows; at 5 % the
--                       visibility map, which index-only scans need, is never more than 5 million rows behind. Rows are frozen at
--                       that first visit, so that no second one has to write the pages again.
CREATE FUNCTION storage_parameters(monthly_table text) RETURNS text
LANGUAGE sql IMMUTABLE RETURN CASE monthly_table
    WHEN 'webhook_deliveries' THEN 'autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 10000'
    ELSE 'autovacuum_vacuum_insert_scale_factor = 0.05, autovacuum_vacuum_insert_threshold = 10000, '
         'autovacuum_freeze_min_age = 0' END;

-- Makes the missing monthly partitions of every partitioned table here, from yesterday's month (clocks
-- differ) to `months_ahead` (24 at most) from now; returns how many it made. A partition is made apart and attached, because
-- CREATE TABLE … PARTITION OF would lock the parent against producers. There is no DEFAULT partition on
-- purpose: it would have to be scanned, under a lock, by every later attach and detach.
CREATE FUNCTION ensure_partitions(months_ahead integer DEFAULT 12) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = :schema, pg_temp SET timezone = 'UTC' AS $$
DECLARE
    parent      regclass;
    parent_name text;
    month       timestamptz;
    partition   text;
    made        integer := 0;
BEGIN
    LOCK TABLE partitions_lock IN EXCLUSIVE MODE;
    FOR parent, parent_name, month IN
        SELECT p.parent, c.relname, m
          FROM monthly_tables() AS p (parent)
          JOIN pg_class c ON c.oid = p.parent,
               generate_series(date_trunc('month', now() - interval '1 day'),
                               date_trunc('month', now()) + make_interval(months => least(months_ahead, 24)),
                               interval '1 month') AS m
         ORDER BY m, c.relname
    LOOP
        partition := format('%s_%s', parent_name, to_char(month, 'YYYY_MM'));
        CONTINUE WHEN to_regclass(partition) IS NOT NULL;
        EXECUTE format('CREATE TABLE %I (LIKE %s INCLUDING DEFAULTS INCLUDING CONSTRAINTS) WITH (%s)',
                       partition, parent, storage_parameters(parent_name));
        PERFORM revoke_default_privileges(partition::regclass);
        IF EXISTS (SELECT FROM pg_trigger WHERE tgrelid = parent AND tgname = 'append_only') THEN
            PERFORM make_append_only(partition::regclass);
        END IF;
        EXECUTE format('ALTER TABLE %s ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
                       parent, partition, month, month + interval '1 month');
        made := made + 1;
    END LOOP;
    RETURN made;
END $$;

-- Whole months still ahead for which every partitioned table has its partition.
CREATE FUNCTION partitions_ahead() RETURNS integer
LANGUAGE sql STABLE SET search_path = :schema, pg_temp SET timezone = 'UTC' AS $$
    SELECT coalesce(min(ahead), 0)::integer
      FROM (SELECT (SELECT count(*)
                      FROM generate_series(date_trunc('month', now()) + interval '1 month',
                                           date_trunc('month', now()) + interval '10 years',
                                           interval '1 month') AS m
                     WHERE EXISTS (SELECT FROM pg_inherits i JOIN pg_class leaf ON leaf.oid = i.inhrelid
                                    WHERE i.inhparent = c.oid
                                      AND leaf.relname = format('%s_%s', c.relname, to_char(m, 'YYYY_MM')))
                   ) AS ahead
              FROM monthly_tables() AS p (parent)
              JOIN pg_class c ON c.oid = p.parent) AS counted
$$;

SELECT ensure_partitions();
