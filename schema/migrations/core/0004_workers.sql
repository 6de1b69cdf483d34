-- One row per running worker process. A worker is alive while the database session named here exists. Its
-- row is deleted after its leases have been released or taken over.

CREATE TABLE workers (
    id            integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name          text NOT NULL,
    pid           integer NOT NULL,
    session_start timestamptz NOT NULL,
    started_at    timestamptz NOT NULL DEFAULT now()
);
