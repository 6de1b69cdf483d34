-- One delivery per (event, endpoint), and its attempts. Both are partitioned by the event's month and carry
-- the event's created_at: with it (event, endpoint) is unique in a partitioned table.

--   status              pending ──► delivered │ failed │ skipped (the endpoint is disabled)
--                       A replay makes a settled delivery pending
--   lane                0: first attempts      1: retries, replays and backfills. Lanes are claimed
--                       separately, so retries and a large replay do not delay new events
--   attempts            made in total
--   schedule_attempts   made of the current retry schedule
--   replays             requested while pending and not yet made
--   due_at              while pending: from when the next attempt may be claimed
--   retry_at            while pending: when the schedule's next attempt is due; a replay requested before
--                       then brings due_at forward and leaves retry_at as it is
--   lease               identifies the claim on the attempt under way: settling names it, and a delivery
--                       that was taken over has another. A random number chosen by the worker, so it can
--                       release leases that it is not sure to hold
--
-- The defaults are a new delivery's, so COPY need not send them (see schema/deliveries/deliveries.py).
CREATE TABLE webhook_deliveries (
    id                uuid NOT NULL,
    tenant_id         uuid NOT NULL,
    endpoint_id       uuid NOT NULL,
    event_id          uuid NOT NULL,
    event_type        text NOT NULL,
    created_at        timestamptz NOT NULL,
    status            text NOT NULL DEFAULT 'pending'
                      CHECK (status IN ('pending', 'delivered', 'failed', 'skipped')),
    lane              smallint NOT NULL DEFAULT 0 CHECK (lane IN (0, 1)),
    attempts          integer NOT NULL DEFAULT 0,
    schedule_attempts integer NOT NULL DEFAULT 0,
    replays           integer NOT NULL DEFAULT 0,
    due_at            timestamptz DEFAULT now(),
    retry_at          timestamptz DEFAULT now(),
    lease             bigint,
    leased_by         integer,
    leased_until      timestamptz,
    settled_at        timestamptz,
    PRIMARY KEY (id, created_at),
    UNIQUE (event_id, endpoint_id, created_at),
    CHECK ((status = 'pending') = (due_at IS NOT NULL)),
    CHECK ((lease IS NULL) = (leased_by IS NULL) AND (lease IS NULL) = (leased_until IS NULL)),
    CHECK (lease IS NULL OR status = 'pending')
) PARTITION BY RANGE (created_at);
CREATE INDEX webhook_deliveries_by_tenant ON webhook_deliveries (tenant_id, created_at, id);
CREATE INDEX webhook_deliveries_leased ON webhook_deliveries (leased_by, lease) WHERE lease IS NOT NULL;
-- Claims walk one endpoint's waiting deliveries. A delivery that is leased when it is inserted never enters
-- this index.
CREATE INDEX webhook_deliveries_waiting ON webhook_deliveries (lane, endpoint_id, due_at)
    WHERE status = 'pending' AND lease IS NULL;
-- People look for the deliveries that did not arrive, which are few.
CREATE INDEX webhook_deliveries_undelivered ON webhook_deliveries (tenant_id, created_at, id)
    WHERE status IN ('failed', 'skipped');

--   settled   false: the lease had been taken over and the result came too late
--   xid       the transaction that recorded the attempt; fold_attempts() needs it
CREATE TABLE webhook_attempts (
    id            uuid NOT NULL,
    tenant_id     uuid NOT NULL,
    delivery_id   uuid NOT NULL,
    endpoint_id   uuid NOT NULL,
    created_at    timestamptz NOT NULL,
    replay        boolean NOT NULL,
    started_at    timestamptz NOT NULL,
    outcome       text NOT NULL CHECK (outcome IN
                  ('ok', 'http_status', 'timeout', 'dns', 'connect', 'tls', 'protocol', 'blocked')),
    status_code   smallint,
    error         text,
    response_body bytea CHECK (octet_length(response_body) <= 4096),
    address       text,
    dns_ms        real,
    connect_ms    real,
    tls_ms        real,
    first_byte_ms real,
    total_ms      real NOT NULL,
    settled       boolean NOT NULL,
    xid           xid8 NOT NULL DEFAULT pg_current_xact_id(),
    PRIMARY KEY (tenant_id, delivery_id, id, created_at)
) PARTITION BY RANGE (created_at);
CREATE INDEX webhook_attempts_by_xid ON webhook_attempts (xid);
SELECT make_append_only('webhook_attempts');

-- The operator's switches of this mode, in one row.
--   retries_paused_at   since when lane 1 is paused; null: it is not
CREATE TABLE delivery_switches (
    only_row          boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    retries_paused_at timestamptz
);
INSERT INTO delivery_switches DEFAULT VALUES;

-- When the rate limit of an endpoint allows its next delivery. The worker that claims locks the row, so the
-- limit holds for all workers together.
CREATE TABLE endpoint_rate_limits (
    endpoint_id uuid PRIMARY KEY,
    next_at     timestamptz NOT NULL
);
