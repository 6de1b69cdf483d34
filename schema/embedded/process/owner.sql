-- The role that migrations run as, and the database it owns. Safe to run again.
--
-- The role can log in only once everything else is in place: an owner who can connect is the sign that this
-- script has run to its end. psql reads the password from the environment and quotes it.

\getenv password DURO_OWNER_PASSWORD

SELECT 'CREATE ROLE duro_owner NOLOGIN'
 WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'duro_owner')
\gexec

SELECT 'CREATE DATABASE duro OWNER duro_owner'
 WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = 'duro')
\gexec

-- So that the metrics can tell of transactions left open by whomever.
GRANT pg_read_all_stats TO duro_owner;

REVOKE ALL ON DATABASE duro FROM PUBLIC;

ALTER ROLE duro_owner LOGIN NOSUPERUSER CREATEROLE CREATEDB PASSWORD :'password';
