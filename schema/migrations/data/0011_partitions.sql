-- Monthly partitions: which tables have them, making them ahead, and which months have been retired.

CREATE TABLE partitions_lock ();  -- two workers make partitions one after the other

-- The tables that are partitioned by month, and the monthly generations of projections. By name, because
-- the product may have tables of its own in this schema.
CREATE FUNCTION monthly_tables() RETURNS SETOF regclass
LANGUAGE sql STABLE SET search_path = :schema, pg_temp AS $$
    SELECT unnest(ARRAY['events', 'event_log', 'webhook_deliveries', 'webhook_attempts']::regclass[])
    UNION ALL
    SELECT g.partrelid::regclass
      FROM projections p
     CROSS JOIN LATERAL unnest(p.tables) AS t (name)
      JOIN pg_inherits i ON i.inhparent = t.name::regclass
      JOIN pg_partitioned_table g ON g.partrelid = i.inhrelid AND g.partstrat = 'r'
$$;

-- The first month that the log has. Tables that are partitioned by month inside a generation have all of
-- its months.
CREATE FUNCTION first_month() RETURNS timestamptz
LANGUAGE sql STABLE SET search_path = :schema, pg_temp SET timezone = 'UTC' AS $$
    SELECT coalesce(min(to_timestamp(right(c.relname, 7), 'YYYY_MM')), date_trunc('month', now()))
      FROM pg_inherits JOIN pg_class c ON c.oid = inhrelid WHERE inhparent = 'events'::regclass
$$;

-- Months whose events have been dropped or certainly will be. A row is appended before the first of the
-- month's tables is dropped, so a reader that finds less can always find out why. See
-- schema/retention/retention_rules.py for the protocol.
--   last_pos   the highest position of the month's events; 0: it had none
--   events     how many there were; another number at the end means that more were added, and nothing is
--              dropped
--   tables     its partitions; a table with such a name that is not listed here belongs to the product
--   oids       theirs, in the same order: a table that was created later under such a name is another one
--   xid        the transaction that wrote this; different from xmin: the row was restored, and no oid means
--              anything
CREATE TABLE retired_months (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    month       date NOT NULL CHECK (extract(day FROM month) = 1),
    last_pos    bigint NOT NULL,
    events      bigint NOT NULL,
    tables      text[] NOT NULL,
    oids        oid[] NOT NULL DEFAULT '{}',
    xid         xid8 NOT NULL DEFAULT pg_current_xact_id(),
    begun_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at timestamptz
);
CREATE INDEX retired_months_by_position ON retired_months (last_pos);
CREATE UNIQUE INDEX retired_months_unfinished ON retired_months (month) WHERE finished_at IS NULL;

-- Takes back what the operator's default privileges grant on a new partition. Access goes through its parent.
CREATE FUNCTION revoke_default_privileges(made regclass) RETURNS void
LANGUAGE plpgsql SET search_path = :schema, pg_temp AS $$
DECLARE
    role oid;
BEGIN
    FOR role IN SELECT DISTINCT a.grantee FROM pg_class c CROSS JOIN LATERAL aclexplode(c.relacl) AS a
                 WHERE c.oid = made AND a.grantee <> c.relowner LOOP
        EXECUTE format('REVOKE ALL ON %s FROM %s',
                       made, CASE role WHEN 0 THEN 'PUBLIC' ELSE role::regrole::text END);
    END LOOP;
END $$;

-- The storage parameters of a monthly partition. The figures are for a month of 100 million events.
--   webhook_deliveries  Every settled delivery leaves a dead row in the heap and in each index. By default
--                       a vacuum waits for 20 % of the rows, 20 million dead ones here; at 2 % it waits for
--                       2 million. Less would gain little: while under 2 % of the pages have dead rows,
--                       PostgreSQL skips the indexes.
--   all others          Rows are inserted once and never change. By default a vacuum waits for 20 % of new
--                       rows; at 5 % the visibility map, which index-only scans need, is never more than 5
--                       million rows behind. Rows are frozen at that first visit, so that no second one has
--                       to write the pages again.
CREATE FUNCTION storage_parameters(monthly_table text) RETURNS text
LANGUAGE sql IMMUTABLE RETURN CASE monthly_table
    WHEN 'webhook_deliveries' THEN
        'autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 10000'
    ELSE
        'autovacuum_vacuum_insert_scale_factor = 0.05, autovacuum_vacuum_insert_threshold = 10000, '
        'autovacuum_freeze_min_age = 0' END;

-- Makes the missing partitions of every monthly table, from `first`'s month to `last`'s; returns how many
-- it made. A month that is being retired gets no new partition. A partition is created apart and then
-- attached, because CREATE TABLE … PARTITION OF would lock the parent against producers. There is no
-- DEFAULT partition on purpose: every later attach and detach would have to scan it under a lock.
CREATE FUNCTION make_partitions(first timestamptz, last timestamptz) RETURNS integer
LANGUAGE plpgsql SET search_path = :schema, pg_temp SET timezone = 'UTC' AS $$
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
               generate_series(date_trunc('month', first), date_trunc('month', last), interval '1 month') AS m
         ORDER BY m, c.relname
    LOOP
        partition := format('%s_%s', parent_name, to_char(month, 'YYYY_MM'));
        CONTINUE WHEN to_regclass(partition) IS NOT NULL;
        -- In this order: a partition that retention has dropped was listed before it was dropped.
        CONTINUE WHEN EXISTS (SELECT FROM retired_months r WHERE r.finished_at IS NULL
                                                      AND to_char(r.month, 'YYYY_MM') = right(partition, 7));
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

-- From yesterday's month, because clocks differ, to `months_ahead` (24 at most) from now.
CREATE FUNCTION ensure_partitions(months_ahead integer DEFAULT 12) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = :schema, pg_temp SET timezone = 'UTC' AS $$
BEGIN
    RETURN make_partitions(now() - interval '1 day',
                           date_trunc('month', now()) + make_interval(months => least(months_ahead, 24)));
END $$;

-- From `first`'s month, ten years ago at most, until now: for events with a time in the past.
CREATE FUNCTION ensure_past_partitions(first timestamptz) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = :schema, pg_temp AS $$
BEGIN
    IF first < now() - interval '10 years' THEN
        RAISE EXCEPTION 'events can be at most ten years old'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Begin at a later time.';
    END IF;
    RETURN make_partitions(first, now());
END $$;

-- How many whole months ahead have their partition in every monthly table.
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
