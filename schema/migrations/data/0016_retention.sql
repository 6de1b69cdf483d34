-- Retention: what retires a month's partitions. schema/retention/retention_rules.py has the rules,
-- retention_run.py the protocol.

-- A month that is being retired is sealed first. Creating the trigger waits for the partition's writers and
-- blocks only them, so once it exists every transaction that wrote to the partition has ended and none can
-- write again: what is then found out about the partition stays true. Of deliveries only updates that make
-- one pending are refused, because a worker's statement covers many endpoints and months and must not fail
-- for one of them. The constraint name tells the client whether to retry: `retiring` before the month is
-- listed, `retired` afterwards, when it does not open again (see schema/connections/error_kinds.py).
CREATE FUNCTION refuse_retiring_month() RETURNS trigger
LANGUAGE plpgsql SET search_path = :schema, pg_temp AS $$
DECLARE
    listed boolean;
BEGIN
    IF TG_OP = 'UPDATE' THEN
        IF OLD.status = 'pending' OR NEW.status <> 'pending' THEN
            RETURN NEW;
        END IF;
    END IF;
    listed := EXISTS (SELECT FROM retired_months m
                       WHERE m.finished_at IS NULL AND to_char(m.month, 'YYYY_MM') = right(TG_TABLE_NAME, 7));
    RAISE EXCEPTION '% is being retired: its month takes no new events and no replays', TG_TABLE_NAME
        USING ERRCODE = 'object_not_in_prerequisite_state',
              CONSTRAINT = CASE WHEN listed THEN 'retired' ELSE 'retiring' END,
              HINT = CASE WHEN listed THEN 'The events of this month are being dropped.'
                          ELSE 'Retry in a minute: a worker reopens what an interrupted run left sealed.' END;
END $$;

CREATE FUNCTION seal_partition(leaf regclass) RETURNS void
LANGUAGE plpgsql SET search_path = :schema, pg_temp AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = leaf AND tgname = 'retiring') THEN
        EXECUTE format('CREATE TRIGGER retiring BEFORE INSERT OR UPDATE ON %s '
                       'FOR EACH ROW EXECUTE FUNCTION refuse_retiring_month()', leaf);
    END IF;
    EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER retiring', leaf);
END $$;

-- Disabled instead of dropped: DROP TRIGGER would wait for readers and block them.
CREATE FUNCTION unseal_partition(leaf regclass) RETURNS void
LANGUAGE plpgsql SET search_path = :schema, pg_temp AS $$
BEGIN
    EXECUTE format('ALTER TABLE %s DISABLE TRIGGER retiring', leaf);
END $$;

-- One run at a time for all modes. A run holds this lock of each mode in a second session's transaction,
-- because DETACH CONCURRENTLY cannot run in one. Only the owner can take it, unlike an advisory lock. In
-- EXCLUSIVE mode it needs no transaction id, so no snapshot waits for it.
CREATE TABLE retention_lock ();

-- Sealed partitions of months that are not being retired: a run is in progress, or was killed.
CREATE FUNCTION sealed_leftovers() RETURNS SETOF regclass
LANGUAGE sql STABLE SET search_path = :schema, pg_temp AS $$
    SELECT c.oid::regclass
      FROM pg_trigger t
      JOIN pg_class c ON c.oid = t.tgrelid
     WHERE t.tgname = 'retiring' AND t.tgfoid = 'refuse_retiring_month()'::regprocedure AND t.tgenabled <> 'D'
       AND NOT EXISTS (SELECT FROM retired_months m
                        WHERE m.finished_at IS NULL AND right(c.relname, 7) = to_char(m.month, 'YYYY_MM'))
     ORDER BY c.relname
$$;

-- For workers: unseals the partitions that a killed run left sealed; returns how many. It does nothing
-- while a run is in progress or writers hold locks. It locks retired_months too, so a run that has lost its
-- own lock finds the month either still sealed when it lists it, or open.
CREATE FUNCTION unseal_leftovers() RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = :schema, pg_temp SET lock_timeout = '100ms' AS $$
DECLARE
    leaf   regclass;
    opened integer := 0;
BEGIN
    IF NOT EXISTS (SELECT FROM sealed_leftovers()) THEN
        RETURN 0;
    END IF;
    LOCK TABLE retention_lock IN EXCLUSIVE MODE NOWAIT;
    LOCK TABLE retired_months IN SHARE MODE NOWAIT;
    FOR leaf IN SELECT * FROM sealed_leftovers() LOOP
        PERFORM unseal_partition(leaf);
        opened := opened + 1;
    END LOOP;
    RETURN opened;
EXCEPTION WHEN lock_not_available OR deadlock_detected THEN
    RETURN 0;
END $$;

-- Truncates a partition and leaves it attached. Only the owner may; the append-only trigger is off within
-- its transaction.
CREATE FUNCTION truncate_partition(leaf regclass) RETURNS void
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

-- The consumers that retention waits for, and their cursors. A projection's rebuild consumer always exists,
-- but counts only during a rebuild.
CREATE FUNCTION retention_consumers(OUT consumer text, OUT pos bigint) RETURNS SETOF record
LANGUAGE sql STABLE SET search_path = :schema, pg_temp AS $$
    SELECT c.name,
           coalesce((SELECT k.pos FROM cursors k WHERE k.consumer = c.name ORDER BY k.tick DESC LIMIT 1), 0)
      FROM consumers c
     WHERE NOT EXISTS (SELECT FROM projections p WHERE c.name = p.name || '_rebuild' AND p.building IS NULL)
$$;

-- Refuses a rebuild that would lose data: it can only write what the log still has, and would replace the
-- rollups and feed entries of months whose events have been dropped. SHARE: a month is listed before this
-- or after it, never meanwhile; a run that lists it afterwards sees the rebuild.
CREATE FUNCTION refuse_lossy_rebuild() RETURNS trigger
LANGUAGE plpgsql SET search_path = :schema, pg_temp AS $$
DECLARE
    gone text;
BEGIN
    LOCK TABLE retired_months IN SHARE MODE;
    SELECT to_char(month, 'YYYY-MM') INTO gone FROM retired_months WHERE finished_at IS NULL LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION '% is being retired: rebuild % after duro retention run has finished', gone, NEW.name
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
        RAISE EXCEPTION '% of % would be lost: its events have been dropped, so it cannot be rebuilt',
                        replace(gone, '_', '-'), NEW.name
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER refuse_lossy_rebuild BEFORE UPDATE OF building ON projections
    FOR EACH ROW WHEN (OLD.building IS NULL AND NEW.building IS NOT NULL)
    EXECUTE FUNCTION refuse_lossy_rebuild();
