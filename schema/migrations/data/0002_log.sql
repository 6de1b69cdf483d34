-- The log: events are appended by producers, positions by sequence_events(). See 0003_sequencer.sql
-- for the protocol.

-- `xid` is the top-level transaction that wrote the row; with it a snapshot says whether the row had
-- been committed at some moment. `seq` orders the rows of one transaction.
CREATE TABLE events (
    seq        bigint GENERATED ALWAYS AS IDENTITY,
    id         uuid NOT NULL DEFAULT new_ulid(),
    tenant_id  uuid NOT NULL,
    type       text NOT NULL,
    data       jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    xid        xid8 NOT NULL DEFAULT pg_current_xact_id(),
    PRIMARY KEY (id, created_at)
) PARTITION BY RANGE (created_at);
CREATE INDEX events_by_xid ON events (xid, seq);
CREATE INDEX events_by_tenant ON events (tenant_id, created_at, id);

-- Look-ups instead of foreign keys: a foreign key would lock the tenant's and the type's row in every append,
-- and make producers of one tenant share multixacts. Neither kind of row is ever deleted.
CREATE FUNCTION check_event() RETURNS trigger LANGUAGE plpgsql SET search_path = :schema, pg_temp AS $$
DECLARE
    most_bytes CONSTANT integer := 262144;
    body       text;
BEGIN
    IF NOT EXISTS (SELECT FROM event_types WHERE name = NEW.type) THEN
        RAISE EXCEPTION 'unknown event type %', quote_literal(NEW.type)
            USING ERRCODE = 'foreign_key_violation', HINT = 'Known types: SELECT name FROM event_types.';
    END IF;
    IF NOT EXISTS (SELECT FROM tenants WHERE id = NEW.tenant_id) THEN
        RAISE EXCEPTION 'unknown tenant %', format_id('ten', NEW.tenant_id)
            USING ERRCODE = 'foreign_key_violation', HINT = 'Create it with: duro tenant create NAME.';
    END IF;
    IF jsonb_typeof(NEW.data) <> 'object' THEN
        RAISE EXCEPTION 'event data must be a JSON object, not %', jsonb_typeof(NEW.data)
            USING ERRCODE = 'check_violation';
    END IF;
    -- Numbers come before the text, because a few bytes of jsonb can be 128 KiB of text: 1e131071, or 16 KiB: 1e-16383. Megabytes
    -- of such numbers would exhaust the server's memory. The walk takes 11 us for 1 KB.
    IF jsonb_path_exists(NEW.data, 'strict $.** ? (@.abs() >= 1e308 || @.abs() < 1e-307 && @ != 0)') THEN
        -- Receivers parse numbers as IEEE doubles: from 2^1024 - 2^970 on they get infinity or an error. A number that is too small
        -- for a double is parsed as 0, which is harmless.
        IF jsonb_path_exists(NEW.data, 'strict $.** ? (@.abs() >= $bound)',
                             jsonb_build_object('bound', 2::numeric ^ 1024 - 2::numeric ^ 970)) THEN
            RAISE EXCEPTION 'event data has a number that receivers cannot parse: its magnitude is over 1.7976931348623157e308'
                USING ERRCODE = 'check_violation', HINT = 'Send it as a string.';
        END IF;
        IF (SELECT sum(scale(number::numeric))
              FROM jsonb_path_query(NEW.data, 'strict $.** ? (@.abs() < 1e-307 && @ != 0)') AS number) > most_bytes THEN
            RAISE EXCEPTION 'event data has numbers with so many digits that it has more than % bytes (256 KiB)', most_bytes
                USING ERRCODE = 'check_violation', HINT = 'Send them as strings.';
        END IF;
    END IF;
    body := NEW.data::text;  -- as it is sent
    IF octet_length(body) > most_bytes THEN
        RAISE EXCEPTION 'event data has % bytes, more than % (256 KiB)', octet_length(body), most_bytes
            USING ERRCODE = 'check_violation', HINT = 'Send ids and amounts; let the receiver fetch the rest.';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER check_event BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION check_event();
ALTER TABLE events ENABLE ALWAYS TRIGGER check_event;  -- whatever a session's session_replication_role

-- plpgsql, because it keeps the insert's plan: a function in SQL would plan thirteen partitions on each call.
CREATE FUNCTION record_event(tenant_id uuid, type text, data jsonb) RETURNS uuid
LANGUAGE plpgsql SECURITY DEFINER SET search_path = :schema, pg_temp AS $$
DECLARE
    event_id uuid;
BEGIN
    INSERT INTO events (tenant_id, type, data)
    VALUES (record_event.tenant_id, record_event.type, record_event.data)
    RETURNING id INTO event_id;
    RETURN event_id;
END $$;

-- The same with ids as the outside world writes them: 'ten_…' in, 'evt_…' out.
CREATE FUNCTION record_event(tenant_id text, type text, data jsonb) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = :schema, pg_temp AS $$
BEGIN
    RETURN format_id('evt', record_event(parse_id('ten', tenant_id), type, data));
END $$;

-- What typed drivers send: json, or character types for everything (varchar goes as text). Literals without a type are taken as
-- text by PostgreSQL, so a statement that has nothing else is not ambiguous. These are inlined into the caller's statement.
CREATE FUNCTION record_event(tenant_id uuid, type text, data json) RETURNS uuid
LANGUAGE sql VOLATILE RETURN record_event(tenant_id, type, data::jsonb);

CREATE FUNCTION record_event(tenant_id uuid, type text, data text) RETURNS uuid
LANGUAGE sql VOLATILE RETURN record_event(tenant_id, type, data::jsonb);

CREATE FUNCTION record_event(tenant_id text, type text, data json) RETURNS text
LANGUAGE sql VOLATILE RETURN record_event(tenant_id, type, data::jsonb);

CREATE FUNCTION record_event(tenant_id text, type text, data text) RETURNS text
LANGUAGE sql VOLATILE RETURN record_event(tenant_id, type, data::jsonb);

-- Where an event stands in the log. Dense, in commit-safe order; what the world may hold on to.
CREATE TABLE event_log (
    pos        bigint NOT NULL,
    event_id   uuid NOT NULL,
    tenant_id  uuid NOT NULL,
    created_at timestamptz NOT NULL,   -- the event's
    PRIMARY KEY (pos, created_at),
    UNIQUE (event_id, created_at)
) PARTITION BY RANGE (created_at);

-- What has been sequenced, appended per batch (see log.py for why not updated): every transaction that
-- `done` sees as finished has its events in event_log. The newest row counts; the one before is deleted.
CREATE TABLE sequencer (
    tick              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    done              pg_snapshot NOT NULL,
    last_pos          bigint NOT NULL,
    restore_floor     bigint NOT NULL,  -- rows with seq up to this may carry xids of another cluster
    system_identifier bigint NOT NULL,  -- of the cluster whose xids `done` speaks of
    sequenced_at      timestamptz NOT NULL DEFAULT clock_timestamp()
);
INSERT INTO sequencer (done, last_pos, restore_floor, system_identifier)
SELECT '3:3:', 0, 0, system_identifier FROM pg_control_system();

-- One row per consumer, locked by the worker that takes its next batch, and never updated.
CREATE TABLE consumers (
    name text PRIMARY KEY
);
INSERT INTO consumers (name) VALUES ('fanout');

-- How far each consumer has come; appended like sequencer, newest tick counts.
CREATE TABLE cursors (
    consumer text NOT NULL REFERENCES consumers,
    tick     bigint GENERATED ALWAYS AS IDENTITY,
    pos      bigint NOT NULL,
    moved_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (consumer, tick)
);

-- Poison: events that a consumer could not apply even alone. Dead-lettered, never skipped in silence.
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
