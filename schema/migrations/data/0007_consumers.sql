-- What reads the log: consumers, their cursors, dead-lettered events, and the projections that consumers
-- write.

-- One row per consumer. The worker that takes the consumer's next batch locks it; it is never updated.
CREATE TABLE consumers (
    name text PRIMARY KEY
);
INSERT INTO consumers (name) VALUES ('fanout');

-- The last position that each consumer has applied. Appended like `sequencer`; the newest tick counts.
CREATE TABLE cursors (
    consumer text NOT NULL REFERENCES consumers,
    tick     bigint GENERATED ALWAYS AS IDENTITY,
    pos      bigint NOT NULL,
    moved_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (consumer, tick)
);

-- Dead-lettered events: a consumer could not apply them even alone.
CREATE TABLE dead_events (
    consumer   text NOT NULL,
    pos        bigint NOT NULL,
    tenant_id  uuid NOT NULL,
    event_id   uuid NOT NULL,
    created_at timestamptz NOT NULL,   -- the event's
    error      text NOT NULL,
    dead_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (consumer, pos)
);

-- The projections; 0015_projections.sql draws how they are rebuilt.
--   tables     the projection's tables, each partitioned by generation
--   serving    the generation that is read
--   building   the generation that a rebuild writes; null: no rebuild
--   newest     the highest number used so far; no number is used twice, because an abandoned generation may
--              still exist
CREATE TABLE projections (
    name     text PRIMARY KEY REFERENCES consumers,
    tables   text[] NOT NULL,
    serving  integer NOT NULL DEFAULT 1,
    building integer,
    newest   integer NOT NULL DEFAULT 1,
    CHECK (building > serving AND building <= newest)
);

-- Locks a consumer and returns its cursor; no row while another transaction holds it. Two statements,
-- because the second one's snapshot must be younger than the lock. One function, because every batch waits
-- for the round trips.
CREATE FUNCTION take_cursor(consumer_name text, OUT tick bigint, OUT pos bigint) RETURNS SETOF record
LANGUAGE plpgsql SET search_path = :schema, pg_temp AS $$
BEGIN
    PERFORM FROM consumers c WHERE c.name = consumer_name FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    SELECT c.tick, c.pos INTO take_cursor.tick, take_cursor.pos
      FROM cursors c WHERE c.consumer = consumer_name ORDER BY c.tick DESC LIMIT 1;
    take_cursor.pos := coalesce(take_cursor.pos, 0);
    RETURN NEXT;
END $$;
