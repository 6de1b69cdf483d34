-- A tenant's events by position, for whoever follows them from outside; and which months are not there any more.

-- To walk one tenant's positions without the others'. Making it holds up the sequencer, and no producer.
CREATE INDEX event_log_by_tenant ON event_log (tenant_id, pos);

-- A month that is being retired is sealed first: from the moment the trigger is there every transaction that wrote to the
-- partition has ended, and none can write again, so that what is found out about it stays true. Making the trigger
-- waits for the partition's writers and holds up its writers alone. Of deliveries only what makes one pending is refused: a
-- worker's statement is about many endpoints' and many months' at once, and must not fail for one of them. Who is refused
-- before the month is noted may wait (see schema/connections/error_kinds.py); afterwards it does not open any more.
CREATE FUNCTION refuse_retiring() RETURNS trigger LANGUAGE plpgsql SET search_path = :schema, pg_temp AS $$
DECLARE
    noted boolean;
BEGIN
    IF TG_OP = 'UPDATE' THEN
        IF OLD.status = 'pending' OR NEW.status <> 'pending' THEN
            RETURN NEW;
        END IF;
    END IF;
    noted := EXISTS (SELECT FROM retired_months m
                      WHERE m.finished_at IS NULL AND to_char(m.month, 'YYYY_MM') = right(TG_TABLE_NAME, 7));
    RAISE EXCEPTION '% is being retired: nothing is recorded in that month or sent again any more', TG_TABLE_NAME
        USING ERRCODE = 'object_not_in_prerequisite_state',
              CONSTRAINT = CASE WHEN noted THEN 'retired' ELSE 'retiring' END,
              HINT = 'duro retention run finishes what it began; a worker opens within a minute what it left.';
END $$;

CREATE FUNCTION seal_partition(leaf regclass) RETURNS void
LANGUAGE plpgsql SET search_path = :schema, pg_temp AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = leaf AND tgname = 'retiring') THEN
        EXECUTE format('CREATE TRIGGER retiring BEFORE INSERT OR UPDATE ON %s '
                       'FOR EACH ROW EXECUTE FUNCTION refuse_retiring()', leaf);
    END IF;
    EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER retiring', leaf);
END $$;

-- Disabled and not dropped, which would wait for readers and hold them up.
CREATE FUNCTION unseal_partition(leaf regclass) RETURNS void
LANGUAGE plpgsql SET search_path = :schema, pg_temp AS $$
BEGIN
    EXECUTE format('ALTER TABLE %s DISABLE TRIGGER retiring', leaf);
END $$;

-- One run at a time, in all modes: it holds this one in each, in a transaction of another session, for DETACH CONCURRENTLY
-- cannot be in one. Of use to the owner alone, which an advisory lock would not be. EXCLUSIVE: it needs no transaction id, so
-- that no snapshot waits for it.
CREATE TABLE retention_lock ();

-- Partitions that are sealed although their month is not on its way out: a run is at it, or ended in between.
CREATE FUNCTION left_sealed() RETURNS SETOF regclass LANGUAGE sql STABLE SET search_path = :schema, pg_temp AS $$
    SELECT c.oid::regclass
      FROM pg_trigger t
      JOIN pg_class c ON c.oid = t.tgrelid
     WHERE t.tgname = 'retiring' AND t.tgfoid = 'refuse_retiring()'::regprocedure AND t.tgenabled <> 'D'
       AND NOT EXISTS (SELECT FROM retired_months m
                        WHERE m.finished_at IS NULL AND right(c.relname, 7) = to_char(m.month, 'YYYY_MM'))
     ORDER BY c.relname
$$;

-- For workers: opens what a run that was killed left sealed; returns how many. While a run is at it, or writers are in the way,
-- none. Under the book's lock: a run that has lost its own finds its month either sealed until it is noted, or open.
CREATE FUNCTION open_what_was_left_sealed() RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = :schema, pg_temp SET lock_timeout = '100ms' AS $$
DECLARE
    leaf   regclass;
    opened integer := 0;
BEGIN
    IF NOT EXISTS (SELECT FROM left_sealed()) THEN
        RETURN 0;
    END IF;
    LOCK TABLE retention_lock IN EXCLUSIVE MODE NOWAIT;
    LOCK TABLE retired_months IN SHARE MODE NOWAIT;
    FOR leaf IN SELECT * FROM left_sealed() LOOP
        PERFORM unseal_partition(leaf);
        opened := opened + 1;
    END LOOP;
    RETURN opened;
EXCEPTION WHEN lock_not_available OR deadlock_detected THEN
    RETURN 0;
END $$;

-- Frees what a partition holds and leaves it in its place. The owner alone may, within one transaction.
CREATE FUNCTION empty_partition(leaf regclass) RETURNS void
LANGUAGE plpgsql SET search_path = :schema, pg_temp AS $$
DECLARE
    append_only boolean := EXISTS (SELECT FROM pg_trigger WHERE tgrelid = leaf AND tgname = 'append_only');
BEGIN
    IF append_only THEN
        EXECUTE format('ALTER TABLE %s DISABLE TRIGGER append_only', leaf);
    END IF;
    EXECUTE format('TRUNCATE %s', leaf);
    IF append_only THEN
        EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER append_only', leaf);
    END IF;
END $$;

-- The consumers that retention waits for, and how far each has come. The one for rebuilding a projection is always there,
-- and counts while a rebuild is under way.
CREATE FUNCTION consumers_that_hold(OUT consumer text, OUT pos bigint) RETURNS SETOF record
LANGUAGE sql STABLE SET search_path = :schema, pg_temp AS $$
    SELECT c.name, coalesce((SELECT k.pos FROM cursors k WHERE k.consumer = c.name ORDER BY k.tick DESC LIMIT 1), 0)
      FROM consumers c
     WHERE NOT EXISTS (SELECT FROM projections p WHERE c.name = p.name || '_rebuild' AND p.building IS NULL)
$$;

-- What is built anew has what the log has. Figures of months whose events are gone could not be counted again, nor lines of
-- such months written; so that would put less in the place of more. SHARE: a month is noted before or after this, never
-- meanwhile, and whoever notes it afterwards finds the rebuild.
CREATE FUNCTION refuse_lossy_rebuild() RETURNS trigger LANGUAGE plpgsql SET search_path = :schema, pg_temp AS $$
DECLARE
    gone text;
BEGIN
    LOCK TABLE retired_months IN SHARE MODE;
    SELECT to_char(month, 'YYYY-MM') INTO gone FROM retired_months WHERE finished_at IS NULL LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION '% is being retired: rebuild % when duro retention run has finished', gone, NEW.name
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    SELECT coalesce(right(leaf.relname, 7), 'past months') INTO gone
      FROM unnest(NEW.tables) AS parent
      JOIN pg_class g ON g.oid = to_regclass(format('%I', parent || '_g' || NEW.serving))
      LEFT JOIN pg_inherits i ON i.inhparent = g.oid
      LEFT JOIN pg_class leaf ON leaf.oid = i.inhrelid
     WHERE CASE WHEN g.relkind = 'p'
                THEN pg_relation_size(leaf.oid) > 0
                     AND NOT EXISTS (SELECT FROM pg_inherits e
                                      WHERE e.inhparent = 'events'::regclass
                                        AND e.inhrelid = to_regclass('events_' || right(leaf.relname, 7)))
                ELSE pg_relation_size(g.oid) > 0 AND EXISTS (SELECT FROM retired_months WHERE events > 0) END
     ORDER BY 1 LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION '% of % would be lost: the events it was made of have been dropped, so it cannot be rebuilt',
                        replace(gone, '_', '-'), NEW.name
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER refuse_lossy_rebuild BEFORE UPDATE OF building ON projections
    FOR EACH ROW WHEN (OLD.building IS NULL AND NEW.building IS NOT NULL) EXECUTE FUNCTION refuse_lossy_rebuild();
