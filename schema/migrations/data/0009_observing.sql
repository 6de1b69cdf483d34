-- For the count of breakers that are not closed.
CREATE INDEX endpoint_health_open ON endpoint_health (open_until) WHERE open_until IS NOT NULL;
