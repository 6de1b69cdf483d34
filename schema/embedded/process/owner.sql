-- The role that runs migrations, and its database. The script can be run repeatedly.
--
-- The role gets LOGIN last, so an owner that can connect shows that the whole script has run. psql reads
-- the password from the environment and quotes it.

\getenv password DURO_OWNER_PASSWORD

SELECT 'CREATE ROLE duro_owner NOLOGIN'
 WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'duro_owner')
\gexec

SELECT 'CREATE DATABASE duro OWNER duro_owner'
 WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = 'duro')
\gexec

-- The metrics report open transactions of all roles.
GRANT pg_read_all_stats TO duro_owner;

REVOKE ALL ON DATABASE duro FROM PUBLIC;

ALTER ROLE duro_owner LOGIN NOSUPERUSER CREATEROLE CREATEDB PASSWORD :'password';
