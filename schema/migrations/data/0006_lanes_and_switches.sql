-- First attempts and all others wait in lanes of their own, so that a storm of retries or a wide replay is no
-- obstacle to fresh events:   0  the first attempt      1  a retry, a replay, a backfill
ALTER TABLE webhook_deliveries ADD COLUMN lane smallint NOT NULL DEFAULT 0 CHECK (lane IN (0, 1));
UPDATE webhook_deliveries SET lane = 1 WHERE status = 'pending' AND (tries > 0 OR replays > 0);

-- What a fresh delivery is, unless told otherwise: COPY need not be given it (see deliveries.py).
ALTER TABLE webhook_deliveries
    ALTER COLUMN status SET DEFAULT 'pending',
    ALTER COLUMN due_at SET DEFAULT now(),
    ALTER COLUMN retry_at SET DEFAULT now();

DROP INDEX webhook_deliveries_waiting;
CREATE INDEX webhook_deliveries_waiting ON webhook_deliveries (lane, endpoint_id, due_at)
    WHERE status = 'pending' AND lease IS NULL;

-- The operator's switches of this mode: one row.
--   retries_paused_at   lane 1 stands still since then; null: it goes
CREATE TABLE delivery_switches (
    only_row          boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    retries_paused_at timestamptz
);
INSERT INTO delivery_switches DEFAULT VALUES;

-- For endpoints with a rate limit: when the next delivery is due by that rate. One row, locked by whoever claims, so
-- that the limit holds for all workers together.
CREATE TABLE endpoint_pacing (
    endpoint_id uuid PRIMARY KEY,
    next_at     timestamptz NOT NULL
);

CREATE OR REPLACE VIEW webhook_endpoints WITH (security_barrier) AS
SELECT e.id, e.tenant_id, e.url, e.event_types, e.sealed_headers, e.enabled, e.created_at,
       ARRAY(SELECT s.sealed
               FROM core.webhook_endpoint_secrets s
              WHERE s.endpoint_id = e.id AND (s.expires_at IS NULL OR s.expires_at > now())
              ORDER BY s.created_at DESC, s.id DESC) AS sealed_secrets,
       e.paused, e.rate_limit
  FROM core.webhook_endpoints e
 WHERE e.mode = this_mode();
