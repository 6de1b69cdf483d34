-- Monthly partitions and append-only enforcement.

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only: % is refused', TG_TABLE_NAME, TG_OP
        USING ERRCODE = 'insufficient_privilege';
END $$;

-- By statement, so that it holds on an empty table too; ALWAYS, so that session_replication_role does not
-- turn it off. Such a trigger does not reach partitions, so each partition gets its own.
CREATE FUNCTION make_append_only(target regclass) RETURNS void
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    EXECUTE format('CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON %s '
                   'FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()', target);
    EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER append_only', target);
END $$;

SELECT make_append_only('events'), make_append_only('event_log'), make_append_only('webhook_attempts');

CREATE TABLE partitions_lock ();  -- two workers make them in turn

-- Makes the missing monthly partitions of every partitioned table here, from yesterday's month (clocks
-- differ) to `months_ahead` (24 at most) from now; returns how many it made. A partition is made apart and attached, because
-- CREATE TABLE … PARTITION OF would lock the parent against producers. There is no DEFAULT partition on
-- purpose: it would have to be scanned, under a lock, by every later attach and detach.
CREATE FUNCTION ensure_partitions(months_ahead integer DEFAULT 12) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT SET timezone = 'UTC' AS $$
DECLARE
    parent    regclass;
    month     timestamptz;
    partition text;
    made      integer := 0;
BEGIN
    LOCK TABLE partitions_lock IN EXCLUSIVE MODE;
    FOR parent, month IN
        SELECT p.partrelid::regclass, m
          FROM pg_partitioned_table p
          JOIN pg_class c ON c.oid = p.partrelid AND c.relnamespace = current_schema()::regnamespace,
               generate_series(date_trunc('month', now() - interval '1 day'),
                               date_trunc('month', now()) + make_interval(months => least(months_ahead, 24)),
                               interval '1 month') AS m
         ORDER BY m, c.relname
    LOOP
        partition := format('%s_%s', parent, to_char(month, 'YYYY_MM'));
        CONTINUE WHEN to_regclass(partition) IS NOT NULL;
        EXECUTE format('CREATE TABLE %I (LIKE %s INCLUDING DEFAULTS INCLUDING CONSTRAINTS)', partition, parent);
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
LANGUAGE sql STABLE SET search_path FROM CURRENT SET timezone = 'UTC' AS $$
    SELECT coalesce(min(ahead), 0)::integer
      FROM (SELECT p.partrelid,
                   (SELECT count(*)
                      FROM generate_series(date_trunc('month', now()) + interval '1 month',
                                           date_trunc('month', now()) + interval '10 years',
                                           interval '1 month') AS m
                     WHERE to_regclass(format('%s_%s', p.partrelid::regclass, to_char(m, 'YYYY_MM'))) IS NOT NULL
                   ) AS ahead
              FROM pg_partitioned_table p
              JOIN pg_class c ON c.oid = p.partrelid AND c.relnamespace = current_schema()::regnamespace) AS counted
$$;

SELECT ensure_partitions();
