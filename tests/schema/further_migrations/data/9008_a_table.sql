CREATE TABLE further (id bigint PRIMARY KEY, x integer NOT NULL CHECK (x > 0));
CREATE INDEX further_by_x ON further (x);
