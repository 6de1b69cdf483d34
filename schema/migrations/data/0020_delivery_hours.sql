-- Delivery hours: the attempts at each endpoint by hour, summed by fold_attempts(). Attempts are dropped
-- some day; the hours stay. 0021_delivery_health_views.sql publishes them.
--
-- Attempts are not events and have no positions. They are folded in the way that sequence_events() appends
-- events (see 0006_sequencer.sql): what the folding statement's snapshot sees as finished, less what the
-- stored snapshot `done` saw. The sums and the new `done` commit together. So each attempt is counted once,
-- wherever a process dies, and a late commit is counted later. Recording an attempt costs only the column's
-- default and one index entry.
--
-- After a logical restore no stored xid means anything: the rows carry the old cluster's, which this one
-- will assign again. PostgreSQL's xmin shows it: a restored row was not written by the transaction that it
-- names. So the newest tick reveals a restore. Then all hours are recounted from the attempts that exist.
-- An hour with fewer attempts than were counted, because the others have been dropped, stays as it was.
-- From then on only rows written in this cluster are folded.

--   hour      in which the attempts began
--   latency   histogram of the attempts with a response (ok, http_status); see latency_bucket()
CREATE TABLE delivery_hours (
    tenant_id   uuid NOT NULL,
    endpoint_id uuid NOT NULL,
    hour        timestamptz NOT NULL,
    attempts    bigint NOT NULL,
    ok          bigint NOT NULL,
    http_status bigint NOT NULL,
    timeout     bigint NOT NULL,
    dns         bigint NOT NULL,
    connect     bigint NOT NULL,
    tls         bigint NOT NULL,
    protocol    bigint NOT NULL,
    blocked     bigint NOT NULL,
    latency     integer[] NOT NULL CHECK (cardinality(latency) = 66),
    PRIMARY KEY (tenant_id, endpoint_id, hour)
);

-- Appended per batch, like `sequencer`. `restored`: some attempts carry xids of another cluster.
-- pg_current_snapshot(): no attempt is older than its table.
CREATE TABLE attempt_folds (
    tick      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    done      pg_snapshot NOT NULL,
    restored  boolean NOT NULL,
    xid       xid8 NOT NULL DEFAULT pg_current_xact_id(),
    folded_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
INSERT INTO attempt_folds (done, restored) VALUES (pg_current_snapshot(), false);
CREATE TABLE attempt_folds_lock ();  -- see sequencer_lock

-- Four buckets per doubling. 0: less than a millisecond; 1 to 64: from 1 ms to 65.5 s; 65: more.
CREATE FUNCTION latency_bucket(ms real) RETURNS integer LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN
    CASE WHEN ms < 1 THEN 0
         WHEN ms < 65536 THEN least(64, 1 + floor(4 * ln(ms::float8) / ln(2::float8))::integer)
         ELSE 65 END;

-- Adds two histograms element by element.
CREATE FUNCTION add_histogram(total bigint[], more integer[]) RETURNS bigint[]
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
    IF total IS NULL THEN
        RETURN more;
    END IF;
    FOR i IN 1..cardinality(more) LOOP
        IF more[i] <> 0 THEN
            total[i] := total[i] + more[i];
        END IF;
    END LOOP;
    RETURN total;
END $$;
CREATE AGGREGATE histogram_sum(integer[]) (SFUNC = add_histogram, STYPE = bigint[], PARALLEL = SAFE);

-- The latency in milliseconds that this share of the attempts did not exceed; null for an empty histogram.
-- It assumes an even spread within a bucket, so the error is at most a fifth.
CREATE FUNCTION latency_quantile(latency bigint[], share float8) RETURNS numeric
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    total  numeric := 0;
    wanted numeric;
    up_to  numeric := 0;
    least  float8;
    most   float8;
BEGIN
    FOR i IN 1 .. cardinality(latency) LOOP
        total := total + latency[i];
    END LOOP;
    wanted := round(share::numeric, 12) * total;  -- less would underflow below
    FOR i IN 1 .. cardinality(latency) LOOP
        up_to := up_to + latency[i];
        CONTINUE WHEN latency[i] = 0 OR up_to < wanted;
        least := CASE WHEN i = 1 THEN 0 ELSE 2 ^ ((i - 2) / 4.0::float8) END;
        most := CASE WHEN i < 66 THEN 2 ^ ((i - 1) / 4.0::float8) ELSE 65536 END;
        RETURN round((least + (most - least) * greatest(wanted - (up_to - latency[i]), 0)
                              / latency[i])::numeric, 1);
    END LOOP;
    RETURN NULL;
END $$;

-- Adds counts[i] to the histogram's bucket buckets[i].
CREATE FUNCTION add_to_histogram(histogram integer[], buckets integer[], counts bigint[]) RETURNS integer[]
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
    FOR i IN 1..coalesce(cardinality(buckets), 0) LOOP
        histogram[buckets[i] + 1] := histogram[buckets[i] + 1] + counts[i];
    END LOOP;
    RETURN histogram;
END $$;

-- Folds the next attempts and returns how many: `batch_limit`, or more to fold whole transactions. With
-- `recounting` it recounts every hour from all attempts that exist, whatever the limit.
CREATE FUNCTION fold_attempts(batch_limit integer, recounting boolean) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = :schema, pg_temp AS $$
DECLARE
    was      attempt_folds%ROWTYPE;
    own      xid8 := pg_current_xact_id_if_assigned();
    kept     integer := CASE WHEN recounting THEN 0 ELSE 1 END;  -- factor of an hour's present sums
    now_snap pg_snapshot;
    folded   integer;
    cut      xid8;  -- the last transaction folded when the limit cut the batch; null when it did not
BEGIN
    SELECT * INTO STRICT was FROM attempt_folds ORDER BY tick DESC LIMIT 1;
    WITH newly_finished (first_xid, end_xid) AS (
        SELECT ran, ((ran::text)::numeric + 1)::text::xid8
          FROM pg_snapshot_xip(was.done) AS ran
         WHERE NOT recounting AND pg_visible_in_snapshot(ran, pg_current_snapshot())
        UNION ALL
        SELECT pg_snapshot_xmax(was.done), pg_snapshot_xmax(pg_current_snapshot()) WHERE NOT recounting
    ), finished AS (
        SELECT a.*
          FROM newly_finished AS f,
               LATERAL (SELECT a.xid, a.tenant_id, a.endpoint_id, a.started_at, a.outcome, a.total_ms
                          FROM webhook_attempts a
                         WHERE a.xid >= f.first_xid AND a.xid < f.end_xid
                           AND a.xid IS DISTINCT FROM own
                           AND (NOT was.restored OR a.xid::xid = a.xmin)
                         ORDER BY a.xid
                         FETCH FIRST batch_limit ROWS WITH TIES) AS a
         ORDER BY a.xid
         FETCH FIRST batch_limit ROWS WITH TIES
    ), batch AS MATERIALIZED (
        SELECT * FROM finished
        UNION ALL
        SELECT a.xid, a.tenant_id, a.endpoint_id, a.started_at, a.outcome, a.total_ms
          FROM webhook_attempts a
         WHERE recounting AND a.xid IS DISTINCT FROM own
    ), each AS (
        SELECT tenant_id, endpoint_id, date_trunc('hour', started_at, 'UTC') AS hour, outcome, count(*) AS n,
               CASE WHEN outcome IN ('ok', 'http_status') THEN latency_bucket(total_ms) END AS bucket
          FROM batch GROUP BY 1, 2, 3, 4, 6
    ), sums AS (
        SELECT tenant_id, endpoint_id, hour, sum(n)::bigint AS attempts,
               coalesce(sum(n) FILTER (WHERE outcome = 'ok'), 0)::bigint AS ok,
               coalesce(sum(n) FILTER (WHERE outcome = 'http_status'), 0)::bigint AS http_status,
               coalesce(sum(n) FILTER (WHERE outcome = 'timeout'), 0)::bigint AS timeout,
               coalesce(sum(n) FILTER (WHERE outcome = 'dns'), 0)::bigint AS dns,
               coalesce(sum(n) FILTER (WHERE outcome = 'connect'), 0)::bigint AS connect,
               coalesce(sum(n) FILTER (WHERE outcome = 'tls'), 0)::bigint AS tls,
               coalesce(sum(n) FILTER (WHERE outcome = 'protocol'), 0)::bigint AS protocol,
               coalesce(sum(n) FILTER (WHERE outcome = 'blocked'), 0)::bigint AS blocked,
               add_to_histogram(array_fill(0, ARRAY[66]), array_agg(bucket) FILTER (WHERE bucket IS NOT NULL),
                                array_agg(n) FILTER (WHERE bucket IS NOT NULL)) AS latency
          FROM each GROUP BY tenant_id, endpoint_id, hour
    ), folding AS (
        INSERT INTO delivery_hours AS h
        SELECT * FROM sums
        ON CONFLICT (tenant_id, endpoint_id, hour) DO UPDATE
           SET attempts = h.attempts * kept + excluded.attempts, ok = h.ok * kept + excluded.ok,
               http_status = h.http_status * kept + excluded.http_status,
               timeout = h.timeout * kept + excluded.timeout,
               dns = h.dns * kept + excluded.dns, connect = h.connect * kept + excluded.connect,
               tls = h.tls * kept + excluded.tls, protocol = h.protocol * kept + excluded.protocol,
               blocked = h.blocked * kept + excluded.blocked,
               latency = ARRAY(SELECT a * kept + b
                                 FROM unnest(h.latency, excluded.latency) WITH ORDINALITY AS u (a, b, i)
                                ORDER BY i)
         WHERE NOT recounting OR excluded.attempts >= h.attempts
    )
    SELECT pg_current_snapshot(), count(*),
           CASE WHEN NOT recounting AND count(*) >= batch_limit THEN max(b.xid) END
      INTO now_snap, folded, cut
      FROM batch b;

    IF folded > 0 OR recounting THEN
        DELETE FROM attempt_folds WHERE tick = was.tick;
        INSERT INTO attempt_folds (done, restored)
        VALUES (snapshot_after(was.done, now_snap, cut, own), was.restored OR recounting);
    END IF;
    RETURN folded;
END $$;

-- The same under the lock; null while another session is folding. It recounts after a restore.
CREATE FUNCTION fold_attempts(batch_limit integer DEFAULT 10000) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = :schema, pg_temp AS $$
BEGIN
    IF batch_limit IS NULL OR batch_limit < 1 THEN
        RAISE EXCEPTION 'batch_limit must be at least 1' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'fold_attempts() needs a READ COMMITTED transaction'
            USING ERRCODE = 'invalid_transaction_state';
    END IF;
    BEGIN
        LOCK TABLE attempt_folds_lock IN EXCLUSIVE MODE NOWAIT;
    EXCEPTION WHEN lock_not_available THEN
        RETURN NULL;  -- another session is folding
    END;
    -- Restored: the newest tick was not written by the transaction that it names, or it knows transactions
    -- of the future.
    RETURN fold_attempts(
        batch_limit,
        (SELECT f.xmin <> f.xid::xid OR pg_snapshot_xmax(f.done) > pg_snapshot_xmax(pg_current_snapshot())
           FROM attempt_folds f ORDER BY tick DESC LIMIT 1));
END $$;

-- delivery_hours has every recorded attempt that ended before the returned time: the earliest end of the
-- attempts that are missing, or now. Like as_of() it looks at all of them, up to a million (0.9 s; usually
-- there are some thousands). With more of them, and after a restore until all are recounted, it returns the
-- log's first month less one day: no attempt is older than its event, by any worker's clock that is right
-- within a day.
CREATE FUNCTION attempts_as_of() RETURNS timestamptz
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = :schema, pg_temp
SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    most     CONSTANT integer := 1000000;
    was      attempt_folds%ROWTYPE;
    restored boolean;
    unfolded timestamptz;
    counted  integer;
BEGIN
    SELECT * INTO was FROM attempt_folds ORDER BY tick DESC LIMIT 1;
    SELECT f.xmin <> f.xid::xid OR pg_snapshot_xmax(f.done) > pg_snapshot_xmax(pg_current_snapshot())
      INTO restored
      FROM attempt_folds f WHERE f.tick = was.tick;
    IF restored THEN
        RETURN first_month() - interval '1 day';
    END IF;
    WITH newly_finished (first_xid, end_xid) AS (
        SELECT ran, ((ran::text)::numeric + 1)::text::xid8
          FROM pg_snapshot_xip(was.done) AS ran
         WHERE pg_visible_in_snapshot(ran, pg_current_snapshot())
        UNION ALL
        SELECT pg_snapshot_xmax(was.done), pg_snapshot_xmax(pg_current_snapshot())
    ), missing AS (
        SELECT a.ended_at
          FROM newly_finished AS f,
               LATERAL (SELECT a.started_at + make_interval(secs => least(a.total_ms, 3600000) / 1000)
                                   AS ended_at
                          FROM webhook_attempts a
                         WHERE a.xid >= f.first_xid AND a.xid < f.end_xid
                           AND (NOT was.restored OR a.xid::xid = a.xmin)) AS a
         LIMIT most
    )
    SELECT min(ended_at), count(*) INTO unfolded, counted FROM missing;
    IF counted = most THEN
        RETURN first_month() - interval '1 day';
    END IF;
    RETURN least(coalesce(unfolded, now()), now());  -- attempts have workers' clocks, which may be ahead
END $$;
