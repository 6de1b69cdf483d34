ALTER TABLE events VALIDATE CONSTRAINT seq_is_positive;
