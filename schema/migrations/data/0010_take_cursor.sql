-- Takes a consumer's cursor for the present transaction: no row while another transaction has it. Two statements, for
-- the second one's snapshot must be younger than the lock; one function, for each batch waits for its round trips.
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
