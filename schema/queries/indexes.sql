-- Catalog queries for building indexes. See schema/installation/index_building.py.

-- name: parents
-- $1 schema, $2 table. The partitioned tables of its tree, from the top; none for a table without
-- partitions.
SELECT c.relname::text AS name, p.relname::text AS parent
  FROM pg_partition_tree(format('%I.%I', $1::text, $2::text)::regclass) t
  JOIN pg_class c ON c.oid = t.relid
  LEFT JOIN pg_class p ON p.oid = t.parentrelid
 WHERE c.relkind = 'p'
 ORDER BY t.level, c.relname;

-- name: lacking
-- $1 schema, $2 table, $3 index. The tables with rows that lack their part of the index: the leaves of a
-- partitioned table that no attached index covers, or the table itself unless its index is valid.
SELECT c.relname::text AS name, p.relname::text AS parent
  FROM pg_class root
 CROSS JOIN LATERAL (SELECT t.relid, t.parentrelid FROM pg_partition_tree(root.oid) t WHERE t.isleaf
                     UNION ALL
                     SELECT root.oid, NULL WHERE root.relkind = 'r' AND NOT root.relispartition) AS leaf
  JOIN pg_class c ON c.oid = leaf.relid
  LEFT JOIN pg_class p ON p.oid = leaf.parentrelid
 WHERE root.oid = format('%I.%I', $1::text, $2::text)::regclass
   AND NOT EXISTS (SELECT FROM pg_index i
                    WHERE i.indrelid = leaf.relid AND i.indisvalid
                      AND (i.indexrelid = to_regclass(format('%I.%I', $1::text, $3::text))
                           OR i.indexrelid IN (
                               SELECT relid
                                 FROM pg_partition_tree(to_regclass(format('%I.%I', $1::text, $3::text))))))
 ORDER BY c.relname;

-- name: state
-- $1 schema, $2 index, $3 its table. Null: there is no such index on this table.
SELECT CASE WHEN indisvalid THEN 'valid' ELSE 'invalid' END
  FROM pg_index
 WHERE indexrelid = to_regclass(format('%I.%I', $1::text, $2::text))
   AND indrelid = to_regclass(format('%I.%I', $1::text, $3::text));

-- name: oldest_transaction
-- The oldest transaction of another session in this database, as far as this login may see.
SELECT pid, extract(epoch FROM clock_timestamp() - xact_start)::float8 AS seconds
  FROM pg_stat_activity
 WHERE datname = current_database() AND pid <> pg_backend_pid()
   AND xact_start < clock_timestamp() - interval '1 s'
 ORDER BY xact_start LIMIT 1;
