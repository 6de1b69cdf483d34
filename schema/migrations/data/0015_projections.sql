-- Projections: the tables that consumers write for people to read. Each can be rebuilt from the log beside
-- the one that serves, and then replace it.
--
--      log ──► consumer NAME ──────────► generation `serving`  ──► readers and views
--        └───► consumer NAME_rebuild ──► generation `building`
--                                              │ caught up
--                                              ▼ finish_rebuild(): one transaction that holds both cursors
--                                        it is `serving`; NAME continues from NAME_rebuild's position
--                                              │
--                                              ▼ drop_generations(): the former one
--
-- Each table of a projection is partitioned by generation. So a rebuild touches nothing that is read, the
-- replacement is an update of one number, and dropping deletes no rows. A consumer reads its generation
-- inside the transaction that holds its cursor, so none writes to the former generation after the
-- replacement. An interrupted rebuild continues from its cursor. Between the replacement and the drop, and
-- after an abandoned rebuild, one generation is left over: any worker's housekeeping drops it.

-- Created apart and then attached, because CREATE TABLE … PARTITION OF would lock the parent against its
-- readers.
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

-- For migrations: adds a projection with its first generation. Its `tables` exist and are partitioned BY
-- LIST (generation). A table with a created_at is partitioned by month inside each generation.
CREATE FUNCTION add_projection(projection text, VARIADIC tables text[]) RETURNS void
LANGUAGE plpgsql SET search_path = :schema, pg_temp AS $$
BEGIN
    INSERT INTO consumers (name) VALUES (projection), (projection || '_rebuild');
    INSERT INTO projections (name, tables) VALUES (projection, add_projection.tables);
    PERFORM make_generation(projection, 1);
END $$;

-- Returns the generation to build: a new one, or that of an interrupted rebuild. It drops nothing, so it
-- waits for no reader.
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

-- Makes the built generation serve. Returns false while the serving one is ahead, or when there is no
-- rebuild. It waits for both cursors, so for one batch at most; the snapshots of its later statements are
-- younger than the locks.
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
    UPDATE projections SET serving = building, building = NULL
     WHERE name = projection AND building IS NOT NULL;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    DELETE FROM cursors WHERE consumer IN (projection, builder);
    INSERT INTO cursors (consumer, pos) VALUES (projection, built);
    DELETE FROM dead_events WHERE consumer = projection;
    UPDATE dead_events SET consumer = projection WHERE consumer = builder;
    RETURN true;
END $$;

-- Abandons a rebuild; returns whether there was one. drop_generations() drops its generation.
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

-- Drops the generations that neither serve nor are being built; returns how many tables it dropped. It
-- waits for readers of the parent for 200 ms, because new readers queue behind it; then it fails with a
-- lock timeout, and housekeeping retries it later.
CREATE FUNCTION drop_generations(projection text) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = :schema, pg_temp SET lock_timeout = '200ms' AS $$
DECLARE
    part    text;
    dropped integer := 0;
BEGIN
    -- One at a time; the list is younger than the lock.
    PERFORM FROM projections WHERE name = projection FOR UPDATE;
    FOR part IN
        SELECT c.relname
          FROM projections p
         CROSS JOIN unnest(p.tables) AS parent
          JOIN pg_inherits i ON i.inhparent = parent::regclass
          JOIN pg_class c ON c.oid = i.inhrelid
         WHERE p.name = projection
           AND c.relname <> ALL (ARRAY[format('%s_g%s', parent, p.serving),
                                       format('%s_g%s', parent, p.building)])
         ORDER BY 1
    LOOP
        EXECUTE format('DROP TABLE IF EXISTS %I', part);
        dropped := dropped + 1;
    END LOOP;
    RETURN dropped;
END $$;

-- The consumer has applied or dead-lettered every committed event before the returned time: the earliest
-- created_at of the events that it lacks, or now. Neither positions nor xids follow created_at, because a
-- transaction may take its xid first and record last, and imports have old times. So it looks at all events
-- that are missing, up to a million with a position and a million without (0.4 s each on two busy cores;
-- 0.4 ms when ten are missing). With more of them it returns a time that is too early, never one that is
-- too late:
--   more with a position       the beginning of the first month that has one
--   more without a position    the log's first month
--   after a logical restore    the log's first month, until the events are sequenced: no xid shows what is
--                              missing
-- `newly_finished` and the condition on restore_floor are those of sequence_events(). plpgsql keeps the
-- plans: planning the months' partitions took 60 ms of each call.
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
                                                WHERE l.event_id = e.id AND l.created_at = e.created_at))
               ) AS e
         LIMIT most
    )
    SELECT min(created_at), count(*) INTO unsequenced, counted FROM missing;
    IF counted = most THEN
        RETURN first_month();
    END IF;

    SELECT l.pos INTO first_pos
      FROM event_log l
     WHERE l.pos > coalesce((SELECT pos FROM cursors WHERE consumer = consumer_name
                              ORDER BY tick DESC LIMIT 1), 0)
     ORDER BY l.pos LIMIT 1;
    SELECT min(l.created_at) INTO sequenced
      FROM event_log l WHERE l.pos >= first_pos AND l.pos < first_pos + most;
    IF log.last_pos >= first_pos + most THEN
        FOR month IN
            SELECT generate_series(first_month(), sequenced, interval '1 month')
        LOOP
            IF EXISTS (SELECT FROM event_log l
                        WHERE l.pos >= first_pos
                          AND l.created_at >= month AND l.created_at < month + interval '1 month') THEN
                sequenced := month;
                EXIT;
            END IF;
        END LOOP;
    END IF;
    RETURN coalesce(least(sequenced, unsequenced), now());
END $$;
