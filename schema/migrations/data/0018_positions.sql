-- A tenant's events by position, for whoever follows them from outside; and which months are not there any more.

-- To walk one tenant's positions without the others'. Making it holds up the sequencer, and no producer.
CREATE INDEX event_log_by_tenant ON event_log (tenant_id, pos);

-- Months whose events have been dropped, or will be for certain: appended before the first of their tables goes, so that
-- nobody finds less without finding out. See schema/retention.py for the protocol.
--   last_pos   the highest position of the month's events; 0: it had none
--   events     how many there were; another number at the end means that something slipped in, and nothing is dropped
CREATE TABLE retired_months (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    month       date NOT NULL CHECK (extract(day FROM month) = 1),
    last_pos    bigint NOT NULL,
    events      bigint NOT NULL,
    begun_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at timestamptz
);
CREATE INDEX retired_months_by_position ON retired_months (last_pos);
CREATE UNIQUE INDEX retired_months_under_way ON retired_months (month) WHERE finished_at IS NULL;

DO $$
BEGIN
    EXECUTE format('GRANT SELECT ON retired_months TO %I', 'duro_' || current_schema());
END $$;
