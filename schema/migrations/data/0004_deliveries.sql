-- One delivery per (event, endpoint); attempts are its history. Both live in the event's month, and carry
-- the event's created_at for it: that keeps (event, endpoint) unique inside a partitioned table.

--   status      pending ──► delivered │ failed │ skipped (the endpoint is disabled)      replay: ──► pending
--   due_at      while pending: the next attempt may be claimed from then on
--   retry_at    while pending: when the schedule's own next attempt is due; a replay asked for meanwhile
--               brings due_at forward and leaves this alone
--   lease       fences the attempt under way: settling names it, and a taken-over delivery has another;
--               a random number chosen by the worker, so that it can give back what it may or may not hold
CREATE TABLE webhook_deliveries (
    id            uuid NOT NULL,
    tenant_id     uuid NOT NULL,
    endpoint_id   uuid NOT NULL,
    event_id      uuid NOT NULL,
    event_type    text NOT NULL,
    created_at    timestamptz NOT NULL,   -- the event's
    status        text NOT NULL CHECK (status IN ('pending', 'delivered', 'failed', 'skipped')),
    attempts      integer NOT NULL DEFAULT 0,    -- made in all
    tries         integer NOT NULL DEFAULT 0,    -- made of the present schedule
    replays       integer NOT NULL DEFAULT 0,    -- asked for while pending, not yet made
    due_at        timestamptz,
    retry_at      timestamptz,
    lease         bigint,
    leased_by     integer,
    leased_until  timestamptz,
    settled_at    timestamptz,
    PRIMARY KEY (id, created_at),
    UNIQUE (event_id, endpoint_id, created_at),
    CHECK ((status = 'pending') = (due_at IS NOT NULL)),
    CHECK ((lease IS NULL) = (leased_by IS NULL) AND (lease IS NULL) = (leased_until IS NULL)),
    CHECK (lease IS NULL OR status = 'pending')
) PARTITION BY RANGE (created_at);
CREATE INDEX webhook_deliveries_by_tenant ON webhook_deliveries (tenant_id, created_at, id);
-- Claims walk one endpoint's waiting deliveries; what is leased at birth never enters this index.
CREATE INDEX webhook_deliveries_waiting ON webhook_deliveries (endpoint_id, due_at)
    WHERE status = 'pending' AND lease IS NULL;
CREATE INDEX webhook_deliveries_leased ON webhook_deliveries (leased_by, lease) WHERE lease IS NOT NULL;

CREATE TABLE webhook_attempts (
    id            uuid NOT NULL,
    tenant_id     uuid NOT NULL,
    delivery_id   uuid NOT NULL,
    endpoint_id   uuid NOT NULL,
    created_at    timestamptz NOT NULL,   -- the event's
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
    settled       boolean NOT NULL,       -- false: the lease had been taken over, the result came too late
    PRIMARY KEY (tenant_id, delivery_id, id, created_at)
) PARTITION BY RANGE (created_at);

-- Written when an endpoint's fortune changes, not per delivery.
CREATE TABLE endpoint_health (
    endpoint_id          uuid PRIMARY KEY,
    tenant_id            uuid NOT NULL,
    consecutive_failures integer NOT NULL DEFAULT 0,
    failing_since        timestamptz,
    last_success_at      timestamptz,
    last_failure_at      timestamptz,
    last_error           text,
    updated_at           timestamptz NOT NULL DEFAULT now()
);
