-- What is true of the database before duro uses or changes it. Any login may ask.

-- name: server
-- `create`: the command that makes a database with the right encoding. LOCALE C goes with every encoding and every system.
SELECT pg_is_in_recovery() AS standby, pg_encoding_to_char(encoding)::text AS encoding, datistemplate AS template,
       current_setting('session_replication_role') AS replication_role, format('%I', current_user) AS login,
       format('%I', datname) AS database,
       format('CREATE DATABASE %I OWNER %I ENCODING ''UTF8'' LOCALE ''C'' TEMPLATE template0',
              datname || '_utf8', pg_get_userbyid(datdba)) AS create
  FROM pg_database
 WHERE datname = current_database();
