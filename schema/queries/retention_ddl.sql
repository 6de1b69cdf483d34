-- Tables' names cannot be parameters, and none of this can be in a function: :parent and :partition come
-- from the catalog.

-- name: detach
-- Waits for every transaction that uses the parent, and holds up none.
ALTER TABLE :parent DETACH PARTITION :partition CONCURRENTLY

-- name: finish_detaching
-- After a detaching that was interrupted.
ALTER TABLE :parent DETACH PARTITION :partition FINALIZE

-- name: count
-- Of a partition that is detached, where only its own name leads to it.
SELECT count(*) FROM :partition

-- name: drop
-- Attached or detached. Attached, its parent is locked for the moment.
DROP TABLE :partition

-- name: lock
-- For the present transaction: nobody else reads it or writes to it.
LOCK TABLE ONLY :partition IN ACCESS EXCLUSIVE MODE
