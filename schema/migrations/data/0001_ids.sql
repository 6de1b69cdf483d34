-- This folder is applied once to sandbox and once to live, with search_path set to that schema alone.
-- `:schema` stands for the schema's name. No file may name its schema in any other way: the two catalogs
-- must come out equal.

-- The one difference between the two schemas: which mode's rows of core they see.
DO $$
BEGIN
    EXECUTE format(
        'CREATE FUNCTION this_mode() RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN %L::text',
        CASE current_schema() WHEN 'sandbox' THEN 'test' WHEN 'live' THEN 'live' END);
END $$;

-- A ULID: 48 bits of milliseconds, 80 random bits (a version 4 uuid's bytes without version and variant).
CREATE FUNCTION new_ulid() RETURNS uuid LANGUAGE sql VOLATILE PARALLEL SAFE RETURN (
    lpad(to_hex(floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint), 12, '0')
    || substr(replace(gen_random_uuid()::text, '-', ''), 1, 12)
    || substr(replace(gen_random_uuid()::text, '-', ''), 19, 8))::uuid;

-- A ULID with the milliseconds of another time.
CREATE FUNCTION new_ulid(at timestamptz) RETURNS uuid LANGUAGE sql VOLATILE PARALLEL SAFE RETURN (
    lpad(to_hex(floor(extract(epoch FROM at) * 1000)::bigint), 12, '0')
    || substr(replace(gen_random_uuid()::text, '-', ''), 1, 12)
    || substr(replace(gen_random_uuid()::text, '-', ''), 19, 8))::uuid;

-- Parses 'ten_01HK…', or a plain uuid. Crockford base 32: five bits per character.
CREATE FUNCTION parse_id(prefix text, id text) RETURNS uuid
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
DECLARE
    ulid text := upper(substr(id, length(prefix) + 2));
    bits bit varying := ''::bit varying;
    digit integer;
BEGIN
    IF id ~* '^[0-9a-f]{8}-?([0-9a-f]{4}-?){3}[0-9a-f]{12}$' THEN
        RETURN id::uuid;
    END IF;
    IF left(id, length(prefix) + 1) <> prefix || '_' OR ulid !~ '^[0-7][0-9A-HJKMNP-TV-Z]{25}$' THEN
        RAISE EXCEPTION '% is not an id of the form %_ followed by 26 letters and digits',
                        quote_literal(id), prefix
            USING ERRCODE = 'invalid_text_representation';
    END IF;
    FOR i IN 1..26 LOOP
        digit := strpos('0123456789ABCDEFGHJKMNPQRSTVWXYZ', substr(ulid, i, 1)) - 1;
        bits := bits || digit::bit(5);
    END LOOP;
    -- 130 bits, the first two are zero; hex by halves of 64.
    RETURN (lpad(to_hex(substring(bits FROM 3 FOR 64)::bit(64)::bigint), 16, '0')
         || lpad(to_hex(substring(bits FROM 67 FOR 64)::bit(64)::bigint), 16, '0'))::uuid;
END $$;

CREATE FUNCTION format_id(prefix text, id uuid) RETURNS text
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
DECLARE
    bits bit varying := B'00' || ('x' || replace(id::text, '-', ''))::bit(128);
    ulid text := '';
BEGIN
    FOR i IN 0..25 LOOP
        ulid := ulid || substr('0123456789ABCDEFGHJKMNPQRSTVWXYZ',
                               substring(bits FROM i * 5 + 1 FOR 5)::bit(5)::integer + 1, 1);
    END LOOP;
    RETURN prefix || '_' || ulid;
END $$;
