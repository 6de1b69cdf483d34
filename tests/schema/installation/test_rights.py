"""Rights are declared in one place, and `migrate` repairs the catalog object by object."""

from collections.abc import AsyncIterator

import asyncpg
import pytest

from schema.errors import Unavailable
from schema.installation.migrate import MigrationResult, migrate
from schema.installation.roles import ALL_ROLES
from schema.modes import Mode
from schema.read_models.projections import begin_rebuild
from schema.rights.declared import DECLARED, data_schema
from schema.rights.repair import roles_lacking_rights
from tests.support.servers.connections import LIVE, SUPERUSER, Connect
from tests.support.servers.databases import OWNER

UNDECLARED = """
SELECT n.nspname || '.' || c.relname
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = $1 AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND NOT c.relispartition AND c.relname <> ALL ($2::text[])
UNION ALL
SELECT n.nspname || '.' || signature.text
  FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
 CROSS JOIN LATERAL (SELECT format('%s(%s)', p.proname, oidvectortypes(p.proargtypes))) AS signature (text)
 WHERE n.nspname = $1 AND signature.text <> ALL ($3::text[])
   AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = p.oid AND d.deptype = 'i')  -- a type's constructors
UNION ALL
SELECT n.nspname || '.' || t.typname
  FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
 WHERE n.nspname = $1 AND t.typtype IN ('d', 'e', 'r') AND t.typname <> ALL ($4::text[])
"""
STANDING = """
SELECT pg_get_userbyid(relowner) AS owner, relacl::text AS acl FROM pg_class WHERE oid = to_regclass($1)
"""


@pytest.mark.parametrize("declared", DECLARED, ids=lambda declared: declared.schema)
async def test_every_object_is_declared(owner: asyncpg.Connection, declared: object) -> None:
    (here,) = (each for each in DECLARED if each is declared)
    rows = await owner.fetch(
        UNDECLARED, here.schema, list(here.tables), list(here.functions), list(here.types)
    )
    assert [row[0] for row in rows] == []


async def test_a_migrated_database_needs_no_repair(owner: asyncpg.Connection, key: bytes) -> None:
    assert await migrate(owner, key) == MigrationResult(0, [])
    assert await roles_lacking_rights(owner) == []


@pytest.mark.parametrize(
    ("damage", "repaired"),
    [
        (
            "REVOKE SELECT ON live.events FROM duro_live",
            "granted duro_live the rights it lacked on 1 object of schema live",
        ),
        (
            "REVOKE USAGE ON SCHEMA core FROM duro_core",
            "granted duro_core the rights it lacked on 1 object of schema core",
        ),
        (
            "GRANT EXECUTE ON FUNCTION live.sequence_restored_events() TO PUBLIC",
            "revoked rights of PUBLIC on 1 object of schema live",
        ),
        (
            "GRANT DELETE ON live.events TO duro_live",
            "revoked rights of duro_live on 1 object of schema live",
        ),
        (
            "GRANT SELECT (data) ON live.events TO duro_sandbox",
            "revoked rights of duro_sandbox on 1 object of schema live",
        ),
        (
            "GRANT USAGE ON SCHEMA live TO duro_sandbox",
            "revoked rights of duro_sandbox on 1 object of schema live",
        ),
        (
            "ALTER TABLE live.events ENABLE TRIGGER append_only",
            "enabled the trigger append_only on 1 object of schema live",
        ),
        (
            "ALTER TABLE live.events DISABLE TRIGGER check_event",
            "enabled the trigger check_event on",
        ),
    ],
)
async def test_a_difference_is_repaired_once_and_reported(
    owner: asyncpg.Connection, key: bytes, damage: str, repaired: str
) -> None:
    await owner.execute(damage)
    (line,) = (await migrate(owner, key)).repaired
    assert line.startswith(repaired)
    assert await migrate(owner, key) == MigrationResult(0, [])


async def test_a_grant_option_is_revoked(owner: asyncpg.Connection, key: bytes) -> None:
    await owner.execute("GRANT SELECT ON live.events TO duro_live WITH GRANT OPTION")
    assert len((await migrate(owner, key)).repaired) == 2
    assert await owner.fetchval("SELECT has_table_privilege('duro_live', 'live.events', 'SELECT')")
    assert not await owner.fetchval(
        "SELECT has_table_privilege('duro_live', 'live.events', 'SELECT WITH GRANT OPTION')"
    )


async def test_new_partitions_and_generations_are_repaired_too(
    owner: asyncpg.Connection, superuser: asyncpg.Connection, connect: Connect, key: bytes
) -> None:
    live = await connect(LIVE)
    await begin_rebuild(live, "rollups")
    (partition,) = (
        row[0]
        for row in await owner.fetch(
            "SELECT min(inhrelid::regclass::text) FROM pg_inherits WHERE inhparent = 'live.events'::regclass"
        )
    )
    detached = partition.replace("live.events_", "live.webhook_attempts_")  # retention was interrupted
    await owner.execute(f"ALTER TABLE live.webhook_attempts DETACH PARTITION {detached}")
    for table in (partition, detached, "live.event_hours_g2"):
        await superuser.execute(f"ALTER TABLE {table} OWNER TO {SUPERUSER}; GRANT ALL ON {table} TO PUBLIC")
    done = await migrate(superuser, key)
    assert "made duro_owner the owner of 3 objects of schema live that belonged to postgres" in done.repaired
    assert "revoked rights of PUBLIC on 3 objects of schema live" in done.repaired
    for table in (partition, detached, "live.event_hours_g2"):
        standing = await owner.fetchrow(STANDING, table)
        assert standing["owner"] == OWNER
        assert "=" not in standing["acl"].replace("duro_owner=", "")


async def test_foreign_objects_are_not_changed(
    owner: asyncpg.Connection, superuser: asyncpg.Connection, key: bytes
) -> None:
    """A product's tables and functions beside duro's, and grants to the product's roles."""
    await superuser.execute(
        """
        CREATE ROLE reporting;
        CREATE TABLE live.orders ();
        CREATE TABLE live.events_of_ours ();
        CREATE FUNCTION live.as_of(integer) RETURNS integer LANGUAGE sql RETURN 1;
        GRANT ALL ON live.orders TO PUBLIC;
        CREATE TABLE public.regulars () INHERITS (live.customers);
        GRANT ALL ON public.regulars TO PUBLIC;
        GRANT SELECT ON live.events TO reporting;
        GRANT USAGE ON SCHEMA live TO reporting;
        """
    )
    try:
        assert await migrate(owner, key) == MigrationResult(0, [])
        for table in ("live.orders", "live.events_of_ours", "public.regulars"):
            assert (await owner.fetchrow(STANDING, table))["owner"] == SUPERUSER
        for table in ("live.orders", "public.regulars"):
            assert "=arwdDxt/" in (await owner.fetchrow(STANDING, table))["acl"]
        assert await owner.fetchval(
            "SELECT has_function_privilege('public', 'live.as_of(integer)', 'EXECUTE')"
        )
        assert await owner.fetchval("SELECT has_table_privilege('reporting', 'live.events', 'SELECT')")
    finally:
        await superuser.execute("DROP OWNED BY reporting; DROP ROLE reporting")


async def test_a_missing_object_is_named(owner: asyncpg.Connection, key: bytes) -> None:
    """As after a restore with unnoticed errors."""
    await owner.execute("DROP FUNCTION live.parse_id(text, text) CASCADE; DROP TABLE live.plans CASCADE")
    with pytest.raises(
        Unavailable, match=r"lacks live\.plans, live\.parse_id\(text, text\), .*restore the dump again"
    ):
        await migrate(owner, key)


@pytest.fixture
async def second_owner(superuser: asyncpg.Connection, owner: asyncpg.Connection) -> AsyncIterator[str]:
    """Another role with CREATEROLE, which owns a database of this cluster."""
    await superuser.execute("CREATE ROLE second_owner LOGIN CREATEROLE PASSWORD 'second'")
    try:
        yield "second_owner"
    finally:
        await superuser.execute("DROP DATABASE IF EXISTS second_database WITH (FORCE)")
        await superuser.execute("DROP OWNED BY second_owner; DROP ROLE second_owner")


async def test_a_second_owner_is_told_which_statement_to_run(
    superuser: asyncpg.Connection, owner: asyncpg.Connection, second_owner: str, db_url: str, key: bytes
) -> None:
    await superuser.execute(f"CREATE DATABASE second_database OWNER {second_owner} TEMPLATE template1")
    second = await asyncpg.connect(db_url, user=second_owner, password="second", database="second_database")
    try:
        with pytest.raises(
            Unavailable, match=r"lacks ADMIN OPTION on duro_core, .*: GRANT duro_core, "
        ) as refused:
            await migrate(second, key)
        assert not await second.fetchval("SELECT to_regnamespace('core') IS NOT NULL")
        statement = str(refused.value).rpartition("superuser: ")[2]
        await owner.execute(statement)  # the first one's owner is the role that made them
        assert (await migrate(second, key)).files > 0
        assert await migrate(second, key) == MigrationResult(0, [])
        assert await migrate(owner, key) == MigrationResult(0, [])
        for role in ALL_ROLES:
            assert not await second.fetchval("SELECT pg_has_role($1, 'SET')", role)
    finally:
        await second.close()


@pytest.mark.parametrize("damage", ["NOLOGIN", "VALID UNTIL '2001-01-01'", "CREATEDB"])
async def test_a_role_with_wrong_attributes_is_corrected(
    superuser: asyncpg.Connection, owner: asyncpg.Connection, connect: Connect, key: bytes, damage: str
) -> None:
    await superuser.execute(f"ALTER ROLE {LIVE} {damage}")
    try:
        (line,) = (await migrate(owner, key)).repaired
        assert line.startswith(f"altered {LIVE} to ")
    finally:
        await superuser.execute(f"ALTER ROLE {LIVE} LOGIN VALID UNTIL 'infinity' NOCREATEDB")
    assert await (await connect(LIVE)).fetchval("SELECT true")


def test_both_modes_declare_the_same_rights() -> None:
    test, live = data_schema(Mode.TEST), data_schema(Mode.LIVE)
    assert [*test.tables] == [*live.tables]
    assert [*test.functions] == [*live.functions]
