-- Events of another moment than now: a history that is brought along, or a simulation's. Positions are given as always, in
-- the order of commits; lists and buckets go by the moment named.

-- A ULID of that moment.
CREATE FUNCTION new_ulid(at timestamptz) RETURNS uuid LANGUAGE sql VOLATILE PARALLEL SAFE RETURN (
    lpad(to_hex(floor(extract(epoch FROM at) * 1000)::bigint), 12, '0')
    || substr(replace(gen_random_uuid()::text, '-', ''), 1, 12)
    || substr(replace(gen_random_uuid()::text, '-', ''), 19, 8))::uuid;

-- `at` null: now.
CREATE FUNCTION record_event(tenant_id uuid, type text, data jsonb, at timestamptz) RETURNS uuid
LANGUAGE plpgsql SECURITY DEFINER SET search_path = :schema, pg_temp AS $$
DECLARE
    event_id uuid;
BEGIN
    IF at IS NULL THEN
        RETURN record_event(tenant_id, type, data);
    END IF;
    IF at > clock_timestamp() THEN
        RAISE EXCEPTION 'an event cannot be of the future' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    INSERT INTO events (id, tenant_id, type, data, created_at)
    VALUES (new_ulid(at), record_event.tenant_id, record_event.type, record_event.data, at)
    RETURNING id INTO event_id;
    RETURN event_id;
END $$;

-- Makes the missing monthly partitions of every partitioned table here, from `first`'s month to `last`'s; returns how many
-- it made. A partition is made apart and attached, because CREATE TABLE … PARTITION OF would lock the parent against
-- producers.
CREATE FUNCTION make_partitions(first timestamptz, last timestamptz) RETURNS integer
LANGUAGE plpgsql SET search_path = :schema, pg_temp SET timezone = 'UTC' AS $$
DECLARE
    parent      regclass;
    parent_name text;
    month       timestamptz;
    partition   text;
    made        integer := 0;
BEGIN
    LOCK TABLE partitions_lock IN EXCLUSIVE MODE;
    FOR parent, parent_name, month IN
        SELECT p.parent, c.relname, m
          FROM monthly_tables() AS p (parent)
          JOIN pg_class c ON c.oid = p.parent,
               generate_series(date_trunc('month', first), date_trunc('month', last), interval '1 month') AS m
         ORDER BY m, c.relname
    LOOP
        partition := format('%s_%s', parent_name, to_char(month, 'YYYY_MM'));
        CONTINUE WHEN to_regclass(partition) IS NOT NULL;
        EXECUTE format('CREATE TABLE %I (LIKE %s INCLUDING DEFAULTS INCLUDING CONSTRAINTS) WITH (%s)',
                       partition, parent, storage_parameters(parent_name));
        PERFORM revoke_default_privileges(partition::regclass);
        IF EXISTS (SELECT FROM pg_trigger WHERE tgrelid = parent AND tgname = 'append_only') THEN
            PERFORM make_append_only(partition::regclass);
        END IF;
        EXECUTE format('ALTER TABLE %s ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
                       parent, partition, month, month + interval '1 month');
        made := made + 1;
    END LOOP;
    RETURN made;
END $$;

-- From yesterday's month (clocks differ) to `months_ahead` (24 at most) from now. There is no DEFAULT partition on
-- purpose: it would have to be scanned, under a lock, by every later attach and detach.
CREATE OR REPLACE FUNCTION ensure_partitions(months_ahead integer DEFAULT 12) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = :schema, pg_temp SET timezone = 'UTC' AS $$
BEGIN
    RETURN make_partitions(now() - interval '1 day',
                           date_trunc('month', now()) + make_interval(months => least(months_ahead, 24)));
END $$;

-- From `first`'s month, ten years ago at most, until now.
CREATE FUNCTION ensure_past_partitions(first timestamptz) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = :schema, pg_temp AS $$
BEGIN
    IF first < now() - interval '10 years' THEN
        RAISE EXCEPTION 'events can be at most ten years old' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    RETURN make_partitions(first, now());
END $$;
