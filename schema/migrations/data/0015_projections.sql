-- Projections: what consumers make of the log for people to read. Any of them can be built anew from the log, beside the one
-- that serves, and put in its place.
--
--      log ──► consumer NAME ──────────► generation `serving`  ──► readers and views
--        └───► consumer NAME_rebuild ──► generation `building`
--                                              │ caught up
--                                              ▼ finish_rebuild(): one transaction that holds both cursors
--                                        it is `serving`, NAME goes on from NAME_rebuild's position
--                                              │
--                                              ▼ drop_generations(): the former one
--
-- Each table of a projection is partitioned by generation, so that building touches nothing that is read, putting in place
-- is a change of one number, and dropping is no deletion of rows. A consumer learns its generation inside the
-- transaction that holds its cursor, so none can write into the former one after the change. A rebuild that is cut short
-- anywhere goes on from its cursor; between the change and the drop, or when one was given up, there is a generation too many:
-- any worker's housekeeping drops it.

CREATE TABLE projections (
    name     text PRIMARY KEY REFERENCES consumers,
    tables   text[] NOT NULL,
    serving  integer NOT NULL DEFAULT 1,
    building integer,
    newest   integer NOT NULL DEFAULT 1,   -- no number is used again: one that was given up may still be there
    CHECK (building > serving AND building <= newest)
);

-- The months that the log has; `activity` and others that are partitioned by month inside a generation have them all.
CREATE FUNCTION first_month() RETURNS timestamptz
LANGUAGE sql STABLE SET search_path = :schema, pg_temp SET timezone = 'UTC' AS $$
    SELECT coalesce(min(to_timestamp(right(c.relname, 7), 'YYYY_MM')), date_trunc('month', now()))
      FROM pg_inherits JOIN pg_class c ON c.oid = inhrelid WHERE inhparent = 'events'::regclass
$$;

-- Months whose events have been dropped, or will be for certain: appended before the first of their tables goes, so that
-- nobody finds less without finding out. See schema/retention/retention.py for the protocol.
--   last_pos   the highest position of the month's events; 0: it had none
--   events     how many there were; another number at the end means that something slipped in, and nothing is dropped
--   tables     its partitions; a table that has such a name and is not among them is somebody else's
--   oids       theirs, in the same order: a table that was made anew under such a name is another one
--   xid        who wrote this; another than xmin: it was restored, and no oid means anything
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
CREATE UNIQUE INDEX retired_months_under_way ON retired_months (month) WHERE finished_at IS NULL;

-- Of a projection's tables, the generations that are partitioned by month.
CREATE OR REPLACE FUNCTION monthly_tables() RETURNS SETOF regclass
LANGUAGE sql STABLE SET search_path = :schema, pg_temp AS $$
    SELECT unnest(ARRAY['events', 'event_log', 'webhook_deliveries', 'webhook_attempts']::regclass[])
    UNION ALL
    SELECT g.partrelid::regclass
      FROM projections p
     CROSS JOIN LATERAL unnest(p.tables) AS t (name)
      JOIN pg_inherits i ON i.inhparent = t.name::regclass
      JOIN pg_partitioned_table g ON g.partrelid = i.inhrelid AND g.partstrat = 'r'
$$;

-- A month on its way out gets no partition anew.
CREATE OR REPLACE FUNCTION make_partitions(first timestamptz, last timestamptz) RETURNS integer
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
        -- In this order: what is missing because it is on its way out was noted before it went.
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

CREATE OR REPLACE FUNCTION partitions_ahead() RETURNS integer
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

-- Made apart and attached, because CREATE TABLE … PARTITION OF would lock the parent against its readers.
CREATE FUNCTION make_generation(projection text, generation integer) RETURNS void
LANGUAGE plpgsql SET search_path = :schema, pg_temp AS $$
DECLARE
    parent text;
    part   text;
BEGIN
    FOR parent IN SELECT unnest(tables) FROM projections WHERE name = projection LOOP
        part := format('%s_g%s', parent, generation);
        EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING DEFAULTS INCLUDING CONSTRAINTS) %s', part, parent,
                       CASE WHEN EXISTS (SELECT FROM pg_attribute
                                          WHERE attrelid = parent::regclass AND attname = 'created_at')
                            THEN 'PARTITION BY RANGE (created_at)' ELSE '' END);
        PERFORM revoke_default_privileges(part::regclass);
        EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES IN (%s)', parent, part, generation);
    END LOOP;
    PERFORM make_partitions(first_month(), date_trunc('month', now()) + interval '12 months');
END $$;

-- For migrations: `tables` are there already, each partitioned BY LIST (generation). One that has a `created_at` is partitioned
-- by month inside each generation.
CREATE FUNCTION add_projection(projection text, VARIADIC tables text[]) RETURNS void
LANGUAGE plpgsql SET search_path = :schema, pg_temp AS $$
BEGIN
    INSERT INTO consumers (name) VALUES (projection), (projection || '_rebuild');
    INSERT INTO projections (name, tables) VALUES (projection, add_projection.tables);
    PERFORM make_generation(projection, 1);
END $$;

-- The generation being built: a new one, or the one that was begun before. It drops nothing, and so waits for no reader.
CREATE FUNCTION begin_rebuild(projection text, OUT generation integer, OUT resumed boolean)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = :schema, pg_temp AS $$
BEGIN
    PERFORM FROM consumers WHERE name = projection || '_rebuild' FOR UPDATE;
    SELECT building INTO generation FROM projections WHERE name = projection;
    resumed := generation IS NOT NULL;
    IF resumed THEN
        RETURN;
    END IF;
    UPDATE projections SET building = newest + 1, newest = newest + 1 WHERE name = projection
    RETURNING building INTO generation;
    PERFORM make_generation(projection, generation);
    DELETE FROM dead_events WHERE consumer = projection || '_rebuild';
    DELETE FROM cursors WHERE consumer = projection || '_rebuild';
    INSERT INTO cursors (consumer, pos)
    SELECT projection || '_rebuild', coalesce(min(pos) - 1, 0) FROM event_log;
END $$;

-- Puts what was built in place of what serves: false while that is ahead of it, or when nothing is being built. It waits for
-- both cursors, so for a batch under way at most; its later statements' snapshots are younger than the locks.
CREATE FUNCTION finish_rebuild(projection text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = :schema, pg_temp AS $$
DECLARE
    builder text := projection || '_rebuild';
    served  bigint;
    built   bigint;
BEGIN
    PERFORM FROM consumers WHERE name = projection FOR UPDATE;
    PERFORM FROM consumers WHERE name = builder FOR UPDATE;
    SELECT pos INTO served FROM cursors WHERE consumer = projection ORDER BY tick DESC LIMIT 1;
    SELECT pos INTO built FROM cursors WHERE consumer = builder ORDER BY tick DESC LIMIT 1;
    IF built < coalesce(served, 0) THEN
        RETURN false;
    END IF;
    UPDATE projections SET serving = building, building = NULL WHERE name = projection AND building IS NOT NULL;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    DELETE FROM cursors WHERE consumer IN (projection, builder);
    INSERT INTO cursors (consumer, pos) VALUES (projection, built);
    DELETE FROM dead_events WHERE consumer = projection;
    UPDATE dead_events SET consumer = projection WHERE consumer = builder;
    RETURN true;
END $$;

-- Gives up what is being built; whether there was anything. drop_generations() drops it.
CREATE FUNCTION abandon_rebuild(projection text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = :schema, pg_temp AS $$
DECLARE
    builder text := projection || '_rebuild';
BEGIN
    PERFORM FROM consumers WHERE name = builder FOR UPDATE;
    UPDATE projections SET building = NULL WHERE name = projection AND building IS NOT NULL;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    DELETE FROM cursors WHERE consumer = builder;
    DELETE FROM dead_events WHERE consumer = builder;
    RETURN true;
END $$;

-- Drops the generations that neither serve nor are being built; returns how many tables that were. Whoever reads the parent is
-- waited for briefly, because everybody else waits behind; then it fails as a lock that cannot be had, and is tried again later.
CREATE FUNCTION drop_generations(projection text) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = :schema, pg_temp SET lock_timeout = '200ms' AS $$
DECLARE
    part    text;
    dropped integer := 0;
BEGIN
    PERFORM FROM projections WHERE name = projection FOR UPDATE;  -- one at a time, and the list is younger than the lock
    FOR part IN
        SELECT c.relname
          FROM projections p
         CROSS JOIN unnest(p.tables) AS parent
          JOIN pg_inherits i ON i.inhparent = parent::regclass
          JOIN pg_class c ON c.oid = i.inhrelid
         WHERE p.name = projection
           AND c.relname <> ALL (ARRAY[format('%s_g%s', parent, p.serving), format('%s_g%s', parent, p.building)])
         ORDER BY 1
    LOOP
        EXECUTE format('DROP TABLE IF EXISTS %I', part);
        dropped := dropped + 1;
    END LOOP;
    RETURN dropped;
END $$;

-- No committed event before this time is missing from what the consumer has made of the log, except dead-lettered ones: the
-- earliest created_at of all events that are missing, or now. Neither positions nor xids follow created_at: a transaction may
-- take its xid first and record last, and imports date back. So all that is missing is looked at, up to a million events with a
-- position and a million without (0.4 s each on two busy cores; 0.4 ms when ten are missing). If there are more with a position,
-- it is the beginning of the first month that has one; if there are more without, of the log's first month: too early, never too
-- late. After a restore no xid says what is missing, so it is the log's first month until the events have been sequenced.
-- `newly_finished` and the condition on restore_floor are those of sequence_events(). In plpgsql, which keeps its plans: planning
-- the months' partitions anew took 60 ms of each call.
CREATE FUNCTION as_of(consumer_name text) RETURNS timestamptz
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = :schema, pg_temp SET timezone = 'UTC'
SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    most        CONSTANT integer := 1000000;
    log         sequencer%ROWTYPE;
    first_pos   bigint;
    sequenced   timestamptz;
    unsequenced timestamptz;
    counted     integer;
    month       timestamptz;
BEGIN
    SELECT * INTO log FROM sequencer ORDER BY tick DESC LIMIT 1;
    IF log.system_identifier <> (SELECT system_identifier FROM pg_control_system())
       OR pg_snapshot_xmax(log.done) > pg_snapshot_xmax(pg_current_snapshot()) THEN
        RETURN first_month();
    END IF;

    WITH newly_finished (first_xid, end_xid) AS (
        SELECT ran, ((ran::text)::numeric + 1)::text::xid8
          FROM pg_snapshot_xip(log.done) AS ran
         WHERE pg_visible_in_snapshot(ran, pg_current_snapshot())
        UNION ALL
        SELECT pg_snapshot_xmax(log.done), pg_snapshot_xmax(pg_current_snapshot())
    ), missing AS (
        SELECT e.created_at
          FROM newly_finished AS f,
               LATERAL (SELECT e.created_at
                          FROM events e
                         WHERE e.xid >= f.first_xid AND e.xid < f.end_xid
                           AND (e.seq > log.restore_floor
                                OR NOT EXISTS (SELECT FROM event_log l
                                                WHERE l.event_id = e.id AND l.created_at = e.created_at))) AS e
         LIMIT most
    )
    SELECT min(created_at), count(*) INTO unsequenced, counted FROM missing;
    IF counted = most THEN
        RETURN first_month();
    END IF;

    SELECT l.pos INTO first_pos
      FROM event_log l
     WHERE l.pos > coalesce((SELECT pos FROM cursors WHERE consumer = consumer_name ORDER BY tick DESC LIMIT 1), 0)
     ORDER BY l.pos LIMIT 1;
    SELECT min(l.created_at) INTO sequenced FROM event_log l WHERE l.pos >= first_pos AND l.pos < first_pos + most;
    IF log.last_pos >= first_pos + most THEN
        FOR month IN
            SELECT generate_series(first_month(), sequenced, interval '1 month')
        LOOP
            IF EXISTS (SELECT FROM event_log l
                        WHERE l.pos >= first_pos AND l.created_at >= month AND l.created_at < month + interval '1 month') THEN
                sequenced := month;
                EXIT;
            END IF;
        END LOOP;
    END IF;
    RETURN coalesce(least(sequenced, unsequenced), now());
END $$;
