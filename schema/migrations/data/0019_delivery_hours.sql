-- How each endpoint fares, by the hour: what fold_attempts() makes of webhook_attempts. Attempts are dropped some day; this stays.
--
-- Attempts are not events and have no positions. They are folded as sequence_events() appends events (0003): what the snapshot
-- of the one statement that folds sees as finished, less what the stored snapshot `done` saw. The sums and the new `done` are
-- one transaction, so whatever dies wherever, each attempt is in once, and a commit that comes late is in later. The xid is
-- the row's own default; there is no other work in recording an attempt than its entry in the index.
--
-- After a logical restore no stored xid means anything: the rows carry the old cluster's, which will be handed out again.
-- PostgreSQL's own note of who wrote a row (xmin) tells: one that was restored was not written by the transaction that it names.
-- So the newest tick tells of a restore. Then all hours are counted anew from the attempts that are there; an hour of which there
-- are fewer than were counted (the others have been dropped) stays as it was. From then on only rows written here are folded.

ALTER TABLE webhook_attempts ADD COLUMN xid xid8;  -- null: from before this migration, which folds it
ALTER TABLE webhook_attempts ALTER COLUMN xid SET DEFAULT pg_current_xact_id();
CREATE INDEX webhook_attempts_by_xid ON webhook_attempts (xid);

--   latency   of the attempts that were answered (ok, http_status), how many took how long: see latency_bucket()
CREATE TABLE delivery_hours (
    tenant_id   uuid NOT NULL,
    endpoint_id uuid NOT NULL,
    hour        timestamptz NOT NULL,   -- in which they began
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

-- Appended per batch, as sequencer is and for its reason. `restored`: some attempts carry xids of another cluster.
CREATE TABLE attempt_folds (
    tick      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    done      pg_snapshot NOT NULL,
    restored  boolean NOT NULL,
    xid       xid8 NOT NULL DEFAULT pg_current_xact_id(),
    folded_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE TABLE attempt_folds_lock ();  -- see sequencer_lock

-- Four buckets for each doubling: 0 is what took less than a millisecond, 1 to 64 go on from 1 ms to 65.5 s, 65 is the rest.
CREATE FUNCTION latency_bucket(ms real) RETURNS integer LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN
    CASE WHEN ms < 1 THEN 0 WHEN ms < 65536 THEN least(64, 1 + floor(4 * ln(ms::float8) / ln(2::float8))::integer) ELSE 65 END;

-- Histograms are added element by element.
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

-- So many milliseconds, or less, for that share of what is counted: evenly spread within a bucket, so right within a
-- fifth; null for nothing.
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
    wanted := round(share::numeric, 12) * total;  -- what is less would be an underflow below
    FOR i IN 1 .. cardinality(latency) LOOP
        up_to := up_to + latency[i];
        CONTINUE WHEN latency[i] = 0 OR up_to < wanted;
        least := CASE WHEN i = 1 THEN 0 ELSE 2 ^ ((i - 2) / 4.0::float8) END;
        most := CASE WHEN i < 66 THEN 2 ^ ((i - 1) / 4.0::float8) ELSE 65536 END;
        RETURN round((least + (most - least) * greatest(wanted - (up_to - latency[i]), 0) / latency[i])::numeric, 1);
    END LOOP;
    RETURN NULL;
END $$;

-- A histogram and so many more in these buckets.
CREATE FUNCTION add_to_histogram(histogram integer[], buckets integer[], counts bigint[]) RETURNS integer[]
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
    FOR i IN 1..coalesce(cardinality(buckets), 0) LOOP
        histogram[buckets[i] + 1] := histogram[buckets[i] + 1] + counts[i];
    END LOOP;
    RETURN histogram;
END $$;

-- Folds the next attempts, `batch_limit` or, for the sake of whole transactions, some more; returns how many, null while another
-- session is at it. `recounting`: every hour anew from all attempts that are there, whatever the limit.
CREATE FUNCTION fold_attempts(batch_limit integer, recounting boolean) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = :schema, pg_temp AS $$
DECLARE
    was      attempt_folds%ROWTYPE;
    own      xid8 := pg_current_xact_id_if_assigned();
    kept     integer := CASE WHEN recounting THEN 0 ELSE 1 END;  -- times what an hour had before
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
         WHERE recounting AND (a.xid IS DISTINCT FROM own OR a.xid IS NULL)
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
               http_status = h.http_status * kept + excluded.http_status, timeout = h.timeout * kept + excluded.timeout,
               dns = h.dns * kept + excluded.dns, connect = h.connect * kept + excluded.connect,
               tls = h.tls * kept + excluded.tls, protocol = h.protocol * kept + excluded.protocol,
               blocked = h.blocked * kept + excluded.blocked,
               latency = ARRAY(SELECT a * kept + b FROM unnest(h.latency, excluded.latency) WITH ORDINALITY AS u (a, b, i)
                                ORDER BY i)
         WHERE NOT recounting OR excluded.attempts >= h.attempts
    )
    SELECT pg_current_snapshot(), count(*), CASE WHEN NOT recounting AND count(*) >= batch_limit THEN max(b.xid) END
      INTO now_snap, folded, cut
      FROM batch b;

    IF folded > 0 OR recounting THEN
        DELETE FROM attempt_folds WHERE tick = was.tick;
        INSERT INTO attempt_folds (done, restored)
        VALUES (snapshot_after(was.done, now_snap, cut, own), was.restored OR recounting);
    END IF;
    RETURN folded;
END $$;

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
    -- The newest tick was not written by the transaction that it names, or speaks of transactions that are yet to come.
    RETURN fold_attempts(batch_limit, (SELECT f.xmin <> f.xid::xid
                                              OR pg_snapshot_xmax(f.done) > pg_snapshot_xmax(pg_current_snapshot())
                                         FROM attempt_folds f ORDER BY tick DESC LIMIT 1));
END $$;

-- No attempt that was recorded and ended before this time is missing from delivery_hours: the earliest end of all attempts
-- that are missing, or now. As in as_of() (0015) all of them are looked at, up to a million (0.9 s; usually some thousands). If
-- there are more, and after a restore until all have been counted anew, it is a day before the log's first month: no attempt is
-- older than its event, by any worker's clock that is right within a day.
CREATE FUNCTION attempts_as_of() RETURNS timestamptz
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = :schema, pg_temp SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    most     CONSTANT integer := 1000000;
    was      attempt_folds%ROWTYPE;
    restored boolean;
    unfolded timestamptz;
    counted  integer;
BEGIN
    SELECT * INTO was FROM attempt_folds ORDER BY tick DESC LIMIT 1;
    SELECT f.xmin <> f.xid::xid OR pg_snapshot_xmax(f.done) > pg_snapshot_xmax(pg_current_snapshot()) INTO restored
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
               LATERAL (SELECT a.started_at + make_interval(secs => least(a.total_ms, 3600000) / 1000) AS ended_at
                          FROM webhook_attempts a
                         WHERE a.xid >= f.first_xid AND a.xid < f.end_xid
                           AND (NOT was.restored OR a.xid::xid = a.xmin)) AS a
         LIMIT most
    )
    SELECT min(ended_at), count(*) INTO unfolded, counted FROM missing;
    IF counted = most THEN
        RETURN first_month() - interval '1 day';
    END IF;
    RETURN least(coalesce(unfolded, now()), now());  -- workers' clocks say when an attempt was
END $$;

-- What is there already. ALTER TABLE has let those who were recording finish, and whoever comes later fills xid.
INSERT INTO attempt_folds (done, restored) VALUES (pg_current_snapshot(), false);
SELECT fold_attempts(1, true);
UPDATE attempt_folds SET restored = false;

CREATE VIEW hourly_delivery_health AS
SELECT t.tenant_id, t.tenant_name, format_id('we', h.endpoint_id) AS endpoint_id, h.hour,
       h.attempts, h.ok AS succeeded, round(h.ok::numeric / h.attempts, 4) AS success_rate,
       h.http_status, h.timeout, h.dns, h.connect, h.tls, h.protocol, h.blocked,
       latency_quantile(h.latency::bigint[], 0.5) AS p50_ms, latency_quantile(h.latency::bigint[], 0.95) AS p95_ms,
       latency_quantile(h.latency::bigint[], 0.99) AS p99_ms, h.latency,
       (SELECT attempts_as_of()) AS as_of
  FROM tenants_shown t
  JOIN delivery_hours h ON h.tenant_id = t.id;

CREATE VIEW delivery_health AS
SELECT t.tenant_id, t.tenant_name, format_id('we', d.endpoint_id) AS endpoint_id, d.day,
       d.attempts, d.ok AS succeeded, round(d.ok::numeric / d.attempts, 4) AS success_rate,
       d.http_status, d.timeout, d.dns, d.connect, d.tls, d.protocol, d.blocked,
       latency_quantile(d.latency, 0.5) AS p50_ms, latency_quantile(d.latency, 0.95) AS p95_ms,
       latency_quantile(d.latency, 0.99) AS p99_ms,
       (SELECT attempts_as_of()) AS as_of
  FROM tenants_shown t
 CROSS JOIN LATERAL (
        SELECT h.endpoint_id, (h.hour AT TIME ZONE t.time_zone)::date AS day,
               sum(h.attempts)::bigint AS attempts, sum(h.ok)::bigint AS ok, sum(h.http_status)::bigint AS http_status,
               sum(h.timeout)::bigint AS timeout, sum(h.dns)::bigint AS dns, sum(h.connect)::bigint AS connect,
               sum(h.tls)::bigint AS tls, sum(h.protocol)::bigint AS protocol, sum(h.blocked)::bigint AS blocked,
               histogram_sum(h.latency) AS latency
          FROM delivery_hours h
         WHERE h.tenant_id = t.id
         GROUP BY 1, 2) d;

COMMENT ON VIEW hourly_delivery_health IS
    'Attempts to deliver to each endpoint and how they ended, by the hour (UTC) in which they began. Retries and replays are '
    'attempts too.';
COMMENT ON VIEW delivery_health IS
    'Attempts to deliver to each endpoint and how they ended, by the day in the tenant''s time zone on which they began. Retries '
    'and replays are attempts too.';
DO $$
DECLARE
    meaning record;
    found   record;
BEGIN
    FOR meaning IN SELECT * FROM (VALUES
        ('tenant_id', 'ten_..., the merchant'),
        ('tenant_name', 'the merchant''s name'),
        ('endpoint_id', 'we_...'),
        ('day', 'a day in the tenant''s time zone (its store''s, or Africa/Lagos), made of hours of UTC'),
        ('hour', 'the beginning of an hour, UTC'),
        ('attempts', 'how many were made'),
        ('succeeded', 'answered with 2xx'),
        ('success_rate', 'succeeded / attempts, from 0 to 1'),
        ('http_status', 'answered with anything else'),
        ('timeout', 'not answered in time'),
        ('dns', 'the host''s name had no address'),
        ('connect', 'no connection came about'),
        ('tls', 'no TLS session came about'),
        ('protocol', 'what came back was no HTTP answer'),
        ('blocked', 'the address is one that is not to be called'),
        ('p50_ms', 'half of those that were answered took no longer, in milliseconds, right within a fifth'),
        ('p95_ms', '95 % of those that were answered took no longer, in milliseconds, right within a fifth'),
        ('p99_ms', '99 % of those that were answered took no longer, in milliseconds, right within a fifth'),
        ('latency', 'how many of those that were answered took how long: for several rows together '
                    'latency_quantile(histogram_sum(latency), 0.9)'),
        ('as_of', 'no attempt that was recorded and ended before this time is missing')
    ) AS m (name, says) LOOP
        FOR found IN SELECT attrelid::regclass AS view FROM pg_attribute
                      WHERE attname = meaning.name
                        AND attrelid = ANY (ARRAY['hourly_delivery_health', 'delivery_health']::regclass[]) LOOP
            EXECUTE format('COMMENT ON COLUMN %s.%I IS %L', found.view, meaning.name, meaning.says);
        END LOOP;
    END LOOP;
END $$;
