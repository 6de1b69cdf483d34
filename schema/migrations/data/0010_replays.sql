-- Replays of many deliveries. Each is a job of many steps: a step's changes and the job's progress commit
-- together, under a lock on the job's row. So a process that dies in between loses nothing and repeats
-- nothing.

--   kind          replay: settled deliveries become pending      backfill: an endpoint gets the deliveries
--                 it lacks
--   endpoint_id   null: all endpoints of the tenant
--   statuses      of a replay: which deliveries. Never pending ones: they keep their schedule
--   since, until  events recorded in [since, until); or
--   after_pos, until_pos    events at positions in (after_pos, until_pos]
--   at_*          the last row examined, in the order of (created_at, id) or of positions; the next step
--                 continues after it
--   examined      deliveries or events examined
--   replayed      deliveries made pending
--   skipped       deliveries left unchanged because their endpoint was disabled
CREATE TABLE webhook_replays (
    id          uuid PRIMARY KEY,
    tenant_id   uuid NOT NULL,
    kind        text NOT NULL CHECK (kind IN ('replay', 'backfill')),
    endpoint_id uuid,
    statuses    text[] NOT NULL CHECK (statuses <@ '{failed,skipped,delivered}'),
    since       timestamptz,
    until       timestamptz,
    after_pos   bigint,
    until_pos   bigint,
    at_time     timestamptz,
    at_id       uuid,
    at_pos      bigint,
    examined    bigint NOT NULL DEFAULT 0,
    replayed    bigint NOT NULL DEFAULT 0,
    skipped     bigint NOT NULL DEFAULT 0,
    created_at  timestamptz NOT NULL DEFAULT now(),
    moved_at    timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz,
    CHECK (since < until AND isfinite(since) AND isfinite(until) AND isfinite(at_time)),
    CHECK (num_nulls(since, until, at_time, at_id) = 0 AND num_nonnulls(after_pos, until_pos, at_pos) = 0
        OR num_nonnulls(since, until, at_time, at_id) = 0 AND num_nulls(after_pos, until_pos, at_pos) = 0),
    CHECK (kind = 'replay' AND statuses <> '{}'
        OR kind = 'backfill' AND statuses = '{}' AND endpoint_id IS NOT NULL)
);
CREATE INDEX webhook_replays_by_tenant ON webhook_replays (tenant_id, created_at, id);
