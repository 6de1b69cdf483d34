-- The health of each endpoint: its circuit breaker and its warnings. Written when the health changes, not
-- per delivery. See delivery/health/breaker.py for the breaker's states.

--   open_until   null: the breaker is closed. In the future: open, nothing is sent. Past: half-open, single
--                probes
--   openings     how often it has opened without a recovery in between; each time it stays open longer
--   warned       the last share of the time to being disabled, in percent, that an event has reported; 0:
--                none
CREATE TABLE endpoint_health (
    endpoint_id          uuid PRIMARY KEY,
    tenant_id            uuid NOT NULL,
    consecutive_failures integer NOT NULL DEFAULT 0,
    failing_since        timestamptz,
    last_success_at      timestamptz,
    last_failure_at      timestamptz,
    last_error           text,
    open_until           timestamptz,
    openings             integer NOT NULL DEFAULT 0,
    warned               smallint NOT NULL DEFAULT 0,
    updated_at           timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX endpoint_health_failing ON endpoint_health (failing_since, endpoint_id)
    WHERE failing_since IS NOT NULL;
-- /metrics counts the breakers that are not closed.
CREATE INDEX endpoint_health_open ON endpoint_health (open_until) WHERE open_until IS NOT NULL;
