-- What an operator may set on an endpoint beside its URL.
--   paused       its deliveries wait in the table, none is skipped; a disabled endpoint's are
--   rate_limit   deliveries per second, of all workers together; null: as many as it takes
ALTER TABLE webhook_endpoints
    ADD COLUMN paused     boolean NOT NULL DEFAULT false,
    ADD COLUMN rate_limit integer CHECK (rate_limit BETWEEN 1 AND 10000);
