-- Attempts by hour. See migrations/data/0020_delivery_hours.sql for the protocol.

-- name: fold
-- $1 limit. How many attempts were added to their hours; null while another session is folding.
SELECT fold_attempts($1);
