-- Events. Producers append them with record_event(), in their own transactions; sequence_events() gives
-- them positions.

--   xid   the top-level transaction that wrote the row; with it a snapshot tells whether the row was
--         committed then
--   seq   orders the rows of one transaction
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
SELECT make_append_only('events');

-- Look-ups instead of foreign keys: a foreign key would lock the tenant's and the type's row in every
-- append, and producers of one tenant would share multixacts. Neither kind of row is ever deleted.
CREATE FUNCTION check_event() RETURNS trigger LANGUAGE plpgsql SET search_path = :schema, pg_temp AS $$
DECLARE
    most_bytes CONSTANT integer := 262144;
    body       text;
BEGIN
    IF NOT EXISTS (SELECT FROM event_types WHERE name = NEW.type) THEN
        RAISE EXCEPTION 'unknown event type %', quote_literal(NEW.type)
            USING ERRCODE = 'foreign_key_violation', HINT = 'Use a type that duro event types lists.';
    END IF;
    IF NOT EXISTS (SELECT FROM tenants WHERE id = NEW.tenant_id) THEN
        RAISE EXCEPTION 'unknown tenant %', format_id('ten', NEW.tenant_id)
            USING ERRCODE = 'foreign_key_violation',
                  HINT = 'Check the id, or create the tenant with duro tenant create.';
    END IF;
    IF jsonb_typeof(NEW.data) <> 'object' THEN
        RAISE EXCEPTION 'event data must be a JSON object, not %', jsonb_typeof(NEW.data)
            USING ERRCODE = 'check_violation', HINT = 'Wrap the value in an object.';
    END IF;
    -- Numbers are checked before the text, because a few bytes of jsonb can be 128 KiB of text (1e131071)
    -- or 16 KiB (1e-16383). Megabytes of such numbers would exhaust the server's memory. The walk takes 11
    -- us for 1 KB.
    IF jsonb_path_exists(NEW.data, 'strict $.** ? (@.abs() >= 1e308 || @.abs() < 1e-307 && @ != 0)') THEN
        -- Receivers parse numbers as IEEE doubles: from 2^1024 - 2^970 on they get infinity or an error. A
        -- number that is too small for a double is parsed as 0, which is harmless.
        IF jsonb_path_exists(NEW.data, 'strict $.** ? (@.abs() >= $bound)',
                             jsonb_build_object('bound', 2::numeric ^ 1024 - 2::numeric ^ 970)) THEN
            RAISE EXCEPTION
                'event data has a number that receivers cannot parse: beyond 1.7976931348623157e308'
                USING ERRCODE = 'check_violation', HINT = 'Send it as a string.';
        END IF;
        IF (SELECT sum(scale(number::numeric))
              FROM jsonb_path_query(NEW.data, 'strict $.** ? (@.abs() < 1e-307 && @ != 0)') AS number
           ) > most_bytes THEN
            RAISE EXCEPTION
                'event data has numbers with so many digits that it has more than % bytes (256 KiB)',
                most_bytes
                USING ERRCODE = 'check_violation', HINT = 'Send them as strings.';
        END IF;
    END IF;
    body := NEW.data::text;  -- as it is sent
    IF octet_length(body) > most_bytes THEN
        RAISE EXCEPTION 'event data has % bytes, more than % (256 KiB)', octet_length(body), most_bytes
            USING ERRCODE = 'check_violation',
                  HINT = 'Send ids and amounts. Let the receiver fetch the rest.';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER check_event BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION check_event();
ALTER TABLE events ENABLE ALWAYS TRIGGER check_event;  -- session_replication_role must not turn it off

-- plpgsql, because it keeps the insert's plan: an SQL function would plan thirteen partitions on each call.
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

-- With ids in their public form: 'ten_…' in, 'evt_…' out.
CREATE FUNCTION record_event(tenant_id text, type text, data jsonb) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = :schema, pg_temp AS $$
BEGIN
    RETURN format_id('evt', record_event(parse_id('ten', tenant_id), type, data));
END $$;

-- For drivers that type their parameters as json, or as character types (varchar resolves to text).
-- PostgreSQL takes untyped literals as text, so a call with nothing but literals is not ambiguous. These
-- are inlined into the caller's statement.
CREATE FUNCTION record_event(tenant_id uuid, type text, data json) RETURNS uuid
LANGUAGE sql VOLATILE RETURN record_event(tenant_id, type, data::jsonb);

CREATE FUNCTION record_event(tenant_id uuid, type text, data text) RETURNS uuid
LANGUAGE sql VOLATILE RETURN record_event(tenant_id, type, data::jsonb);

CREATE FUNCTION record_event(tenant_id text, type text, data json) RETURNS text
LANGUAGE sql VOLATILE RETURN record_event(tenant_id, type, data::jsonb);

CREATE FUNCTION record_event(tenant_id text, type text, data text) RETURNS text
LANGUAGE sql VOLATILE RETURN record_event(tenant_id, type, data::jsonb);

-- Records an event with a time in the past, for an imported history or a simulation. Its position still
-- follows the order of commits; lists and hourly sums go by the given time. A null time means now.
CREATE FUNCTION record_event(tenant_id uuid, type text, data jsonb, at timestamptz) RETURNS uuid
LANGUAGE plpgsql SECURITY DEFINER SET search_path = :schema, pg_temp AS $$
DECLARE
    event_id uuid;
BEGIN
    IF at IS NULL THEN
        RETURN record_event(tenant_id, type, data);
    END IF;
    IF at > clock_timestamp() THEN
        RAISE EXCEPTION 'an event cannot have a time in the future'
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Pass the time at which it happened, or null for now.';
    END IF;
    INSERT INTO events (id, tenant_id, type, data, created_at)
    VALUES (new_ulid(at), record_event.tenant_id, record_event.type, record_event.data, at)
    RETURNING id INTO event_id;
    RETURN event_id;
END $$;
