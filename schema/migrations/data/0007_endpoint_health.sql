-- The breaker and the warnings, beside what is known of an endpoint's fortune. See delivery/health/breaker.py for
-- the states and what leads from one to the other.
--   open_until   null: the breaker is closed. In the future: open, nothing is sent. Past: half-open, single probes
--   openings     how often it has opened without a recovery in between; each time it stays open longer
--   warned       the last share of the way to being disabled, in percent, that an event has told of; 0: none
ALTER TABLE endpoint_health
    ADD COLUMN open_until timestamptz,
    ADD COLUMN openings   integer NOT NULL DEFAULT 0,
    ADD COLUMN warned     smallint NOT NULL DEFAULT 0;
CREATE INDEX endpoint_health_failing ON endpoint_health (failing_since, endpoint_id) WHERE failing_since IS NOT NULL;
