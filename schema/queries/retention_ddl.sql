-- Table names cannot be parameters, and these statements cannot run in a function. :parent and :partition
-- come from the catalog.

-- name: detach
-- Waits for every transaction that uses the parent, and blocks none.
ALTER TABLE :parent DETACH PARTITION :partition CONCURRENTLY

-- name: finish_detaching
-- After an interrupted detach.
ALTER TABLE :parent DETACH PARTITION :partition FINALIZE

-- name: count
-- The rows of a detached partition, which is only reachable by its own name.
SELECT count(*) FROM :partition

-- name: drop
-- Attached or detached. While it is attached, this locks its parent.
DROP TABLE :partition

-- name: lock
-- For this transaction: no other session reads it or writes to it.
LOCK TABLE ONLY :partition IN ACCESS EXCLUSIVE MODE
