"""A product with its own schemas `core`, `live` or `sandbox` is refused, or used unchanged with --beside."""

from collections.abc import AsyncIterator

import asyncpg
import pytest

from schema.connections.database import Database, connect_as_owner
from schema.core import tenants
from schema.errors import Unavailable
from schema.event_log.partitions import ensure_partitions
from schema.installation.created_names import created_names
from schema.installation.migrate import migrate, migrations
from schema.modes import Mode
from schema.queries import load
from schema.rights.defaults import without_default_privileges
from tests.support.database_catalog import SCHEMAS, describe
from tests.support.servers.connections import SUPERUSER, Connect, connections
from tests.support.servers.databases import OWNER, Cluster
from tests.support.servers.dumps import schema_of
from tests.support.servers.duro_process import duro, settings

PRODUCT = """
CREATE TABLE {schema}.orders (id bigserial PRIMARY KEY, at timestamptz NOT NULL, note text UNIQUE);
CREATE TABLE {schema}.readings (at timestamptz NOT NULL, value integer) PARTITION BY RANGE (at);
CREATE TABLE {schema}.readings_2026 PARTITION OF {schema}.readings FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
CREATE INDEX readings_by_value ON {schema}.readings (value);
CREATE VIEW {schema}.recent_orders AS SELECT * FROM {schema}.orders WHERE at > now() - interval '1 day';
CREATE TYPE {schema}.mood AS ENUM ('good', 'bad');
CREATE FUNCTION {schema}.total(integer) RETURNS integer LANGUAGE sql AS 'SELECT $1';
CREATE FUNCTION {schema}.retire() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER retiring BEFORE INSERT ON {schema}.orders FOR EACH ROW EXECUTE FUNCTION {schema}.retire();
GRANT USAGE ON SCHEMA {schema} TO PUBLIC;
GRANT SELECT ON {schema}.orders TO PUBLIC;
"""
DEFAULTS = """
ALTER DEFAULT PRIVILEGES FOR ROLE {owner} IN SCHEMA {schema} GRANT ALL ON TABLES TO product_reader, PUBLIC;
ALTER DEFAULT PRIVILEGES FOR ROLE {owner} IN SCHEMA {schema} GRANT ALL ON FUNCTIONS TO product_reader;
ALTER DEFAULT PRIVILEGES FOR ROLE {owner} IN SCHEMA {schema} GRANT ALL ON SEQUENCES TO product_reader;
"""


@pytest.fixture
async def product(cluster: Cluster, template: str) -> AsyncIterator[tuple[str, Connect]]:
    """A database in which a product's role owns all three schemas and objects in them."""
    async with cluster.empty_database() as name, connections(cluster, name) as connect:
        superuser = await connect(SUPERUSER)
        await superuser.execute("CREATE ROLE product; CREATE ROLE product_reader")
        for schema in SCHEMAS:
            await superuser.execute(f"CREATE SCHEMA {schema} AUTHORIZATION product")
            await superuser.execute(f"SET ROLE product; {PRODUCT.format(schema=schema)}; RESET ROLE")
            await superuser.execute(f"GRANT USAGE, CREATE ON SCHEMA {schema} TO {OWNER} WITH GRANT OPTION")
            await superuser.execute(DEFAULTS.format(owner=OWNER, schema=schema))
        await superuser.execute(
            f"ALTER DEFAULT PRIVILEGES FOR ROLE {OWNER} GRANT SELECT ON TABLES TO product_reader"
        )
        yield name, connect
        await superuser.execute(f"REASSIGN OWNED BY product TO {OWNER}")
        await superuser.execute(
            "DROP OWNED BY product, product_reader CASCADE; DROP ROLE product, product_reader"
        )


async def run(cluster: Cluster, name: str, *, beside: bool = False) -> None:
    owner = await connect_as_owner(cluster.url(name))
    try:
        await migrate(owner, cluster.key, beside=beside)
    finally:
        await owner.close()


async def refusal(cluster: Cluster, name: str, *, beside: bool = False) -> str:
    """Returns the refusal; checks that the catalog did not change."""
    before = await schema_of(cluster, name)
    with pytest.raises(Unavailable) as refused:
        await run(cluster, name, beside=beside)
    assert await schema_of(cluster, name) == before
    return str(refused.value)


async def test_foreign_objects_are_refused_without_changes(
    cluster: Cluster, product: tuple[str, Connect]
) -> None:
    name, _connect = product
    sentence = await refusal(cluster, name)
    assert "objects that are not duro's" in sentence
    assert "core.orders" in sentence
    assert "--beside" in sentence


async def test_beside_works_and_leaves_foreign_objects_unchanged(
    cluster: Cluster, product: tuple[str, Connect], owner: asyncpg.Connection
) -> None:
    name, connect = product
    superuser = await connect(SUPERUSER)
    before = {schema: await describe(superuser, schema) for schema in SCHEMAS}
    for beside in (True, False):  # only the first time it has to be said
        await run(cluster, name, beside=beside)
    async with Database.open(cluster.url(name), cluster.key) as database:
        tenant, _keys = await tenants.create(database.core, "Lagos Gym")
        data = database.data(Mode.TEST)
        assert await data.fetchval("SELECT record_event($1::uuid, 'invoice_created', '{}')", tenant)
        assert await data.fetchval("SELECT sequence_events()") == 1
        await data.execute("SELECT begin_rebuild('rollups'), unseal_leftovers()")
        await ensure_partitions(data)
    after = {schema: await describe(superuser, schema) for schema in SCHEMAS}
    for schema in SCHEMAS:
        assert before[schema] <= after[schema]
        made = {name for _kind, name, _text in after[schema] - before[schema]}
        assert not [
            name for name in made if name.startswith(("readings", "orders", "recent_orders", "total"))
        ]
        owner_of_schema = "SELECT nspowner::regrole::text FROM pg_namespace WHERE nspname = $1"
        assert await superuser.fetchval(owner_of_schema, schema) == "product"
        own = await describe(owner, schema)  # in a database that is duro's alone
        added = {entry[1:] for entry in after[schema] - before[schema] - own if entry[0] == "grant"}
        assert {rights for _name, rights in added if not rights.startswith(f"{OWNER} ")} == set()
    assert not await superuser.fetchval(
        "SELECT has_table_privilege('product_reader', 'core.tenants', 'SELECT')"
    )
    assert await superuser.fetchval("SELECT count(*) FROM pg_default_acl") == 10


@pytest.mark.parametrize(
    ("taken", "named"),
    [
        ("CREATE TABLE live.events (id integer)", "table live.events"),
        ("CREATE VIEW sandbox.mrr AS SELECT 1 AS one", "view sandbox.mrr"),
        ("CREATE SEQUENCE core.tenants", "sequence core.tenants"),
        ("CREATE SEQUENCE live.events_seq_seq", "sequence live.events_seq_seq"),
        ("CREATE INDEX events_by_xid ON live.orders (at)", "index live.events_by_xid"),
        ("CREATE INDEX tenants_pkey ON core.orders (at)", "index core.tenants_pkey"),
        ("CREATE DOMAIN live.minor_units AS text", "type live.minor_units"),
        ("CREATE TYPE core.tenants AS ENUM ('a')", "type core.tenants"),
        ("CREATE TYPE core.members AS (a integer)", "composite type core.members"),
        ("CREATE TABLE sandbox.minor_units (id integer)", "table sandbox.minor_units"),
        ("CREATE TABLE sandbox.events_2031_01 (id integer)", "table sandbox.events_2031_01"),
        (
            "CREATE FUNCTION live.record_event(text, text, jsonb) RETURNS text LANGUAGE sql AS 'SELECT $1'",
            "record_event(",
        ),
        ("CREATE TABLE core.schema_migrations (version text)", "table core.schema_migrations"),
    ],
)
async def test_a_name_that_duro_needs_is_refused(
    cluster: Cluster, template: str, taken: str, named: str
) -> None:
    async with cluster.empty_database() as name, connections(cluster, name) as connect:
        owner = await connect(OWNER)
        for schema in SCHEMAS:
            await owner.execute(f"CREATE SCHEMA {schema}; CREATE TABLE {schema}.orders (at timestamptz)")
        await owner.execute(taken)
        assert named in await refusal(cluster, name, beside=True)


async def test_an_existing_empty_schema_is_used(cluster: Cluster, template: str) -> None:
    async with cluster.empty_database() as name, connections(cluster, name) as connect:
        owner = await connect(OWNER)
        await owner.execute("CREATE SCHEMA live")
        await run(cluster, name)


async def test_missing_rights_in_a_foreign_schema_name_the_grant(
    cluster: Cluster, product: tuple[str, Connect]
) -> None:
    name, connect = product
    superuser = await connect(SUPERUSER)
    await superuser.execute(f"REVOKE CREATE ON SCHEMA live FROM {OWNER}")
    sentence = await refusal(cluster, name, beside=True)
    assert f"GRANT USAGE, CREATE ON SCHEMA live TO {OWNER} WITH GRANT OPTION" in sentence


async def test_every_name_that_migrations_create_is_known_first(owner: asyncpg.Connection) -> None:
    for schema in SCHEMAS:
        texts = [migration.text for migration in migrations() if migration.schema == schema]
        names = created_names([*texts, load("migrations")["prepare"]] if schema == "core" else texts)
        rows = await owner.fetch(
            "SELECT relname FROM pg_class c WHERE relnamespace = $1::regnamespace AND NOT EXISTS"
            # what is made for a partition finds another name by itself
            " (SELECT FROM pg_index i JOIN pg_class t ON t.oid = indrelid WHERE indexrelid = c.oid AND t.relispartition)",
            schema,
        )
        assert [row["relname"] for row in rows if not names.has_relation_or_type(row["relname"])] == []
        rows = await owner.fetch("SELECT proname FROM pg_proc WHERE pronamespace = $1::regnamespace", schema)
        assert {row["proname"] for row in rows} <= names.functions
        rows = await owner.fetch(
            "SELECT typname FROM pg_type WHERE typnamespace = $1::regnamespace AND typelem = 0 AND typrelid = 0",
            schema,
        )
        assert [row["typname"] for row in rows if not names.has_relation_or_type(row["typname"])] == []


async def test_commands_refuse_or_accept_beside(cluster: Cluster, product: tuple[str, Connect]) -> None:
    name, _connect = product
    env = settings(cluster.url(name), cluster.key)
    async with duro("up", "--port", "0", env=env) as refused:
        assert await refused.ended() == 1
        assert "run duro migrate --beside" in refused.stderr
    async with duro("up", "--beside", "--port", "0", "--json", env=env) as up:
        assert (await up.said())["workers"]
    async with duro("migrate", "--json", env=env) as again:
        assert await again.said() == {"applied": 0, "repaired": []}


async def test_what_the_product_creates_during_a_migration_keeps_its_privileges(
    cluster: Cluster, template: str, product: tuple[str, Connect]
) -> None:
    """The default privileges are taken back from duro's objects alone."""
    _name, connect = product
    owner, other = await connect(OWNER), await connect(OWNER)
    names = created_names(["CREATE TABLE sessions (); CREATE FUNCTION purge"])
    async with owner.transaction(), without_default_privileges(owner, "core", names):
        await owner.execute(
            "CREATE TABLE core.sessions ();"
            " CREATE FUNCTION core.purge() RETURNS integer LANGUAGE sql RETURN 1"
        )
        await other.execute(
            "CREATE TABLE core.refunds (); CREATE FUNCTION core.refund() RETURNS integer LANGUAGE sql RETURN 1"
        )
    rows = await owner.fetch(
        "SELECT relname, has_table_privilege('product_reader', oid, 'SELECT') FROM pg_class"
        " WHERE relname IN ('sessions', 'refunds')"
        " UNION ALL SELECT proname, proacl::text LIKE '%product_reader%' FROM pg_proc WHERE proname IN ('purge', 'refund')"
    )
    assert dict(map(tuple, rows)) == {"sessions": False, "purge": False, "refunds": True, "refund": True}
