-- sequence_events() gives every committed event one position, whatever the order in which transactions
-- commit.
--
-- The set of finished transactions only grows. `done` (stored) and `now` (this statement's snapshot) are
-- two such sets, so what to append is exactly the events of  finished(now) − finished(done):
--
--      xid:   …… xip(done) ……………│ xmax(done) ………………………………… │ xmax(now) …
--             ▲ running then,      ▲ began since; those still        ▲ nothing here is
--             finished now         running are invisible anyway        visible yet
--
-- Each part is a range of xids, looked up by the index on (xid, seq). A transaction that stays open costs
-- nothing and delays no other. The design closes four ways of losing events:
--   · positions are given at sequencing, not at insert: a late commit never gets a position before a cursor;
--   · rows and snapshot come from ONE statement: nothing can commit between reading the one and the other;
--   · the lock is taken in its own statement: the next statement's snapshot sees the last holder's tick;
--   · no clock takes part: no gap has to be waited out, and rolled-back rows are not visible.
-- A limit cuts at a whole transaction, and the stored snapshot is cut there too (see `cut` below). The lock
-- is on an empty table. Taking it writes nothing, so a poll that finds nothing costs no xid and no WAL; and
-- it needs rights in this schema, which an advisory lock would not.

CREATE TABLE sequencer_lock ();

-- Every transaction that `done` sees as finished has its events in event_log. A row is appended per batch
-- and the one before is deleted; the newest tick counts. Appending keeps polls fast under an old
-- transaction: an updated row would grow a chain of dead versions under one key (see
-- schema/event_log/log.py).
CREATE TABLE sequencer (
    tick              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    done              pg_snapshot NOT NULL,
    last_pos          bigint NOT NULL,
    restore_floor     bigint NOT NULL,  -- rows with seq up to this may carry xids of another cluster
    system_identifier bigint NOT NULL,  -- of the cluster whose xids `done` holds
    sequenced_at      timestamptz NOT NULL DEFAULT clock_timestamp()
);
INSERT INTO sequencer (done, last_pos, restore_floor, system_identifier)
SELECT '3:3:', 0, 0, system_identifier FROM pg_control_system();

-- The snapshot that sees what `done` saw and, of what `now_snap` sees, everything up to transaction `cut`
-- (null: all). `own`, the calling transaction, never counts as finished: it may append after this call.
CREATE FUNCTION snapshot_after(done pg_snapshot, now_snap pg_snapshot, cut xid8, own xid8) RETURNS pg_snapshot
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = :schema, pg_temp AS $$
    WITH bound AS (
        SELECT CASE WHEN cut IS NULL THEN pg_snapshot_xmax(now_snap)
                    ELSE greatest(((cut::text)::numeric + 1)::text::xid8, pg_snapshot_xmax(done)) END AS xmax
    ), running AS (
        SELECT xid FROM pg_snapshot_xip(now_snap) AS xid WHERE cut IS NULL OR xid <= cut
        UNION
        SELECT xid FROM pg_snapshot_xip(done) AS xid WHERE xid > cut
        UNION
        SELECT own FROM bound WHERE own < bound.xmax
    )
    SELECT (coalesce((SELECT min(xid) FROM running), xmax) || ':' || xmax || ':'
            || coalesce((SELECT string_agg(xid::text, ',' ORDER BY xid) FROM running), ''))::pg_snapshot
      FROM bound
$$;

CREATE FUNCTION sequence_events(batch_limit integer DEFAULT 1000) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = :schema, pg_temp AS $$
DECLARE
    was      sequencer%ROWTYPE;
    own      xid8 := pg_current_xact_id_if_assigned();
    started  timestamptz := clock_timestamp();
    cluster  bigint := (SELECT system_identifier FROM pg_control_system());
    now_snap pg_snapshot;
    appended integer;
    cut      xid8;  -- the last transaction appended when the limit cut the batch; null when it did not
BEGIN
    IF batch_limit IS NULL OR batch_limit < 1 THEN
        RAISE EXCEPTION 'batch_limit must be at least 1' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'sequence_events() needs a READ COMMITTED transaction'
            USING ERRCODE = 'invalid_transaction_state';
    END IF;
    BEGIN
        LOCK TABLE sequencer_lock IN EXCLUSIVE MODE NOWAIT;
    EXCEPTION WHEN lock_not_available THEN
        RETURN NULL;  -- another session is sequencing
    END;

    SELECT * INTO STRICT was FROM sequencer ORDER BY tick DESC LIMIT 1;

    -- The xids in `done` are another cluster's: a logical restore.
    IF was.system_identifier <> cluster
       OR pg_snapshot_xmax(was.done) > pg_snapshot_xmax(pg_current_snapshot()) THEN
        RETURN sequence_restored_events();
    END IF;

    WITH newly_finished (first_xid, end_xid) AS (
        SELECT ran, ((ran::text)::numeric + 1)::text::xid8
          FROM pg_snapshot_xip(was.done) AS ran
         WHERE pg_visible_in_snapshot(ran, pg_current_snapshot())
        UNION ALL
        SELECT pg_snapshot_xmax(was.done), pg_snapshot_xmax(pg_current_snapshot())
    ), batch AS MATERIALIZED (
        SELECT e.*
          FROM newly_finished AS f,
               LATERAL (SELECT e.xid, e.seq, e.id, e.tenant_id, e.created_at
                          FROM events e
                         WHERE e.xid >= f.first_xid AND e.xid < f.end_xid
                           AND e.xid IS DISTINCT FROM own
                           AND (e.seq > was.restore_floor
                                OR NOT EXISTS (SELECT FROM event_log l
                                                WHERE l.event_id = e.id AND l.created_at = e.created_at))
                         ORDER BY e.xid
                         FETCH FIRST batch_limit ROWS WITH TIES) AS e
         ORDER BY e.xid
         FETCH FIRST batch_limit ROWS WITH TIES
    ), appending AS (
        INSERT INTO event_log (pos, event_id, tenant_id, created_at)
        SELECT was.last_pos + row_number() OVER (ORDER BY b.xid, b.seq), b.id, b.tenant_id, b.created_at
          FROM batch b
    )
    SELECT pg_current_snapshot(), count(*), CASE WHEN count(*) >= batch_limit THEN max(b.xid) END
      INTO now_snap, appended, cut
      FROM batch b;

    -- An empty poll that was slow walked many rows of an open transaction. Store the snapshot, so that the
    -- next poll knows this transaction as running and skips it.
    IF appended > 0 OR clock_timestamp() - started > interval '5 milliseconds' THEN
        DELETE FROM sequencer WHERE tick = was.tick;
        INSERT INTO sequencer (done, last_pos, restore_floor, system_identifier)
        VALUES (snapshot_after(was.done, now_snap, cut, own), was.last_pos + appended,
                was.restore_floor, cluster);
    END IF;
    RETURN appended;
END $$;

-- After a logical restore no stored xid means anything. Events without a position are found by an anti-join
-- and get one in the order of `seq`. From then on rows up to `restore_floor` are looked up before they are
-- appended, because this cluster will assign their old xids again.
CREATE FUNCTION sequence_restored_events() RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = :schema, pg_temp
SET enable_seqscan = on SET enable_hashjoin = on AS $$  -- it reads everything once
DECLARE
    was       sequencer%ROWTYPE;
    own       xid8 := pg_current_xact_id_if_assigned();
    now_snap  pg_snapshot;
    floor_seq bigint;
    appended  integer;
BEGIN
    SELECT * INTO STRICT was FROM sequencer ORDER BY tick DESC LIMIT 1;
    WITH appending AS (
        INSERT INTO event_log (pos, event_id, tenant_id, created_at)
        SELECT was.last_pos + row_number() OVER (ORDER BY e.seq), e.id, e.tenant_id, e.created_at
          FROM events e
         WHERE e.xid IS DISTINCT FROM own
           AND NOT EXISTS (SELECT FROM event_log l WHERE l.event_id = e.id AND l.created_at = e.created_at)
        RETURNING pos
    )
    SELECT pg_current_snapshot(), (SELECT coalesce(max(seq), 0) FROM events), (SELECT count(*) FROM appending)
      INTO now_snap, floor_seq, appended;
    DELETE FROM sequencer WHERE tick = was.tick;
    INSERT INTO sequencer (done, last_pos, restore_floor, system_identifier)
    SELECT snapshot_after(was.done, now_snap, NULL, own), was.last_pos + appended,
           floor_seq, system_identifier
      FROM pg_control_system();
    RETURN appended;
END $$;
