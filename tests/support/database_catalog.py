"""Describes the database's objects from its catalog."""

import re
from typing import Any

import asyncpg

SCHEMAS = ("core", "sandbox", "live")

_RELATIONS = """
SELECT n.nspname AS schema, c.relname AS name, c.relkind::text AS kind,
       c.relkind <> 'v' OR pg_relation_is_updatable(c.oid, false) > 0 AS writable,
       (SELECT attname FROM pg_attribute WHERE attrelid = c.oid AND attnum = 1) AS first_column
  FROM pg_class c
  JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = ANY($1) AND c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f')
 ORDER BY 1, 2
"""
_FUNCTIONS = """
SELECT n.nspname AS schema, p.proname AS name, p.prorettype = 'trigger'::regtype AS is_trigger,
       ARRAY(SELECT format_type(t, NULL) FROM unnest(p.proargtypes) AS t) AS argument_types
  FROM pg_proc p
  JOIN pg_namespace n ON n.oid = p.pronamespace
 WHERE n.nspname = ANY($1) AND p.proowner <> 10  -- a range type's constructors are the server's
 ORDER BY 1, 2, 4
"""
# Everything in which two schemas can differ: kind, name and text of each object.
_DESCRIPTION = """
WITH relations AS (SELECT c.* FROM pg_class c WHERE c.relnamespace = $1::regnamespace),
     functions AS (SELECT p.* FROM pg_proc p WHERE p.pronamespace = $1::regnamespace)
SELECT 'relation' AS kind, relname::text AS name,
       concat_ws(' ', relkind, relowner::regrole, relpersistence, reloptions, pg_get_expr(relpartbound, oid),
                 pg_get_partkeydef(oid)) AS text
  FROM relations WHERE relkind <> 'i'
UNION ALL
SELECT 'column', r.relname || '.' || a.attname,
       concat_ws(' ', a.attnum, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity,
                 a.attgenerated, a.attstorage, a.attcompression, a.attoptions, pg_get_expr(d.adbin, d.adrelid))
  FROM relations r
  JOIN pg_attribute a ON a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped
  LEFT JOIN pg_attrdef d ON d.adrelid = r.oid AND d.adnum = a.attnum
UNION ALL
SELECT 'constraint', r.relname || '.' || conname, pg_get_constraintdef(k.oid)
  FROM pg_constraint k JOIN relations r ON r.oid = k.conrelid
UNION ALL
SELECT 'index', relname, pg_get_indexdef(oid) FROM relations WHERE relkind IN ('i', 'I')
UNION ALL
SELECT 'trigger', r.relname || '.' || tgname, concat_ws(' ', tgenabled, pg_get_triggerdef(t.oid))
  FROM pg_trigger t JOIN relations r ON r.oid = t.tgrelid WHERE NOT tgisinternal
UNION ALL
SELECT 'view', relname, pg_get_viewdef(oid) FROM relations WHERE relkind = 'v'
UNION ALL
SELECT 'sequence', r.relname, concat_ws(' ', s.seqtypid::regtype, seqstart, seqincrement, seqcache, seqcycle)
  FROM pg_sequence s JOIN relations r ON r.oid = s.seqrelid
UNION ALL
SELECT 'function', oid::regprocedure::text,
       concat_ws(' ', proowner::regrole, CASE WHEN prokind <> 'a' THEN pg_get_functiondef(oid) END,
                 (SELECT to_jsonb(a) - 'aggfnoid' FROM pg_aggregate a WHERE aggfnoid = p.oid))
  FROM functions p
UNION ALL
SELECT 'grant', what, concat_ws(' ', grantee::regrole, privilege_type, is_grantable)
  FROM (SELECT 'schema'::text AS what, (aclexplode(nspacl)).* FROM pg_namespace WHERE oid = $1::regnamespace
        UNION ALL
        SELECT relname::text, (aclexplode(relacl)).* FROM relations
        UNION ALL
        SELECT r.relname || '.' || attname, (aclexplode(attacl)).*
          FROM pg_attribute JOIN relations r ON r.oid = attrelid
        UNION ALL
        SELECT oid::regprocedure::text, (aclexplode(coalesce(proacl, acldefault('f', proowner)))).* FROM functions
       ) AS granted
"""
_COLUMNS = """
SELECT relnamespace::regnamespace::text AS schema, relname AS table, relkind::text AS kind, attname AS name, attnotnull AS given,
       t.typname AS type, coalesce(b.typname, t.typname) AS base, pg_get_expr(d.adbin, d.adrelid) AS default
  FROM pg_class c
  JOIN pg_attribute a ON attrelid = c.oid AND attnum > 0 AND NOT attisdropped
  JOIN pg_type t ON t.oid = atttypid
  LEFT JOIN pg_type b ON b.oid = t.typbasetype
  LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = attnum
 WHERE relnamespace::regnamespace::text = ANY($1) AND relkind IN ('r', 'p', 'v')
 ORDER BY 1, 2, attnum
"""
_INDEXES = """
SELECT i.relname AS name, t.relname AS table, x.indisunique OR x.indisexclusion AS guards, x.indpred IS NOT NULL AS partial,
       ARRAY(SELECT pg_get_indexdef(x.indexrelid, n, false) FROM generate_series(1, x.indnkeyatts) n)::text[] AS columns
  FROM pg_index x
  JOIN pg_class i ON i.oid = x.indexrelid
  JOIN pg_class t ON t.oid = x.indrelid AND t.relnamespace = $1::regnamespace
 WHERE t.relname = ANY($2::text[])
"""
_FOREIGN_KEYS = """
SELECT k.conname AS name, t.relname AS table, p.relname AS parent, n.nspname AS parent_schema,
       has_table_privilege('duro_' || $1, p.oid, 'DELETE') AS parent_may_go,
       ARRAY(SELECT a.attname FROM unnest(k.conkey) WITH ORDINALITY AS c (number, place)
               JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = c.number ORDER BY c.place)::text[] AS columns,
       ARRAY(SELECT a.attname FROM unnest(k.confkey) WITH ORDINALITY AS c (number, place)
               JOIN pg_attribute a ON a.attrelid = p.oid AND a.attnum = c.number ORDER BY c.place)::text[] AS parent_columns
  FROM pg_constraint k
  JOIN pg_class t ON t.oid = k.conrelid AND t.relnamespace = $1::regnamespace
  JOIN pg_class p ON p.oid = k.confrelid
  JOIN pg_namespace n ON n.oid = p.relnamespace
 WHERE k.contype = 'f' AND t.relname = ANY($2::text[])
 ORDER BY 1
"""
_MODE_NAME = re.compile(r"\b(duro_)?(?:sandbox|live)(_\w+)?\b")


async def relations(connection: asyncpg.Connection, *schemas: str) -> list[asyncpg.Record]:
    return await connection.fetch(_RELATIONS, schemas or SCHEMAS)


async def functions(connection: asyncpg.Connection, *schemas: str) -> list[asyncpg.Record]:
    return await connection.fetch(_FUNCTIONS, schemas or SCHEMAS)


async def columns(connection: asyncpg.Connection, *schemas: str) -> list[asyncpg.Record]:
    """Returns the columns of all relations in order. `base` is a domain's base type, else the type itself."""
    return await connection.fetch(_COLUMNS, schemas or SCHEMAS)


async def indexes(connection: asyncpg.Connection, schema: str, *tables: str) -> dict[str, asyncpg.Record]:
    """Returns by name: the table, the columns in order, whether it is partial, and whether it enforces a
    constraint.
    """
    return {row["name"]: row for row in await connection.fetch(_INDEXES, schema, tables)}


async def foreign_keys(connection: asyncpg.Connection, schema: str, *tables: str) -> list[asyncpg.Record]:
    """Returns the foreign keys of these tables.

    `parent_may_go`: the schema's role may delete referenced rows.
    """
    return await connection.fetch(_FOREIGN_KEYS, schema, tables)


async def describe(connection: asyncpg.Connection, schema: str) -> set[tuple[Any, ...]]:
    """Returns (kind, name, text) of all objects in a schema, without the names of the schema and its role."""
    async with connection.transaction():
        await connection.execute("SET LOCAL search_path = ''")  # makes all names qualified
        rows = await connection.fetch(_DESCRIPTION, schema)
    return {tuple(_MODE_NAME.sub(r"\1MODE\2", str(value)) for value in row) for row in rows}


async def granted_to_public(connection: asyncpg.Connection) -> list[asyncpg.Record]:
    """Returns PUBLIC's privileges in duro's schemas.

    Without an ACL the default applies, which allows EXECUTE.
    """
    return await connection.fetch(
        """
        WITH ours AS (SELECT oid FROM pg_namespace WHERE nspname = ANY($1))
        SELECT what, privilege_type
          FROM (SELECT nspname::text AS what, (aclexplode(coalesce(nspacl, acldefault('n', nspowner)))).*
                  FROM pg_namespace WHERE oid IN (TABLE ours)
                UNION ALL
                SELECT relname, (aclexplode(coalesce(relacl, acldefault('r', relowner)))).*
                  FROM pg_class WHERE relnamespace IN (TABLE ours)
                UNION ALL
                SELECT proname, (aclexplode(coalesce(proacl, acldefault('f', proowner)))).*
                  FROM pg_proc WHERE pronamespace IN (TABLE ours) AND proowner <> 10) AS granted
         WHERE grantee = 0
        """,
        SCHEMAS,
    )
