-- The lock lasts for a moment, because no row is checked yet.
ALTER TABLE events ADD CONSTRAINT seq_is_positive CHECK (seq > 0) NOT VALID;
