-- Replays of many deliveries, each a job that goes on where it stopped: what a step changes and how far the job has
-- come commit together, under a lock on the job's row, so that a process that dies in between loses and repeats nothing.

--   kind          replay: deliveries that ended begin anew      backfill: an endpoint gets the deliveries it lacks
--   statuses      of a replay: which deliveries. Never pending ones: they have a schedule, and keep it
--   since, until  events recorded in [since, until); or
--   after_pos, until_pos    events at positions in (after_pos, until_pos]
--   at_*          what was looked at last, in the order of (created_at, id) or of positions; steps go on after it
CREATE TABLE webhook_replays (
    id          uuid PRIMARY KEY,
    tenant_id   uuid NOT NULL,
    kind        text NOT NULL CHECK (kind IN ('replay', 'backfill')),
    endpoint_id uuid,                          -- null: all of the tenant's
    statuses    text[] NOT NULL CHECK (statuses <@ '{failed,skipped,delivered}'),
    since       timestamptz,
    until       timestamptz,
    after_pos   bigint,
    until_pos   bigint,
    at_time     timestamptz,
    at_id       uuid,
    at_pos      bigint,
    seen        bigint NOT NULL DEFAULT 0,     -- deliveries or events looked at
    replayed    bigint NOT NULL DEFAULT 0,     -- deliveries made pending
    left_out    bigint NOT NULL DEFAULT 0,     -- deliveries left as they were: their endpoint was disabled
    created_at  timestamptz NOT NULL DEFAULT now(),
    moved_at    timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz,
    CHECK (since < until AND isfinite(since) AND isfinite(until) AND isfinite(at_time)),
    CHECK (num_nulls(since, until, at_time, at_id) = 0 AND num_nonnulls(after_pos, until_pos, at_pos) = 0
        OR num_nonnulls(since, until, at_time, at_id) = 0 AND num_nulls(after_pos, until_pos, at_pos) = 0),
    CHECK (kind = 'replay' AND statuses <> '{}' OR kind = 'backfill' AND statuses = '{}' AND endpoint_id IS NOT NULL)
);
CREATE INDEX webhook_replays_by_tenant ON webhook_replays (tenant_id, created_at, id);

-- What did not arrive is little beside what did, and is what people look for.
CREATE INDEX webhook_deliveries_undelivered ON webhook_deliveries (tenant_id, created_at, id)
    WHERE status IN ('failed', 'skipped');
