-- The log: the position of every committed event. Positions are dense and in a commit-safe order, so
-- consumers and API clients may store the last one they have seen and continue after it.

CREATE TABLE event_log (
    pos        bigint NOT NULL,
    event_id   uuid NOT NULL,
    tenant_id  uuid NOT NULL,
    created_at timestamptz NOT NULL,   -- the event's
    PRIMARY KEY (pos, created_at),
    UNIQUE (event_id, created_at)
) PARTITION BY RANGE (created_at);
-- To read one tenant's positions without the others'.
CREATE INDEX event_log_by_tenant ON event_log (tenant_id, pos);
SELECT make_append_only('event_log');
