"""A dump restored by the steps of the documentation, into a cluster that has never had duro's roles: `duro
migrate` puts roles, owners and rights right, and a worker delivers.
"""

import signal
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from uuid import UUID

import asyncpg
import pytest

from schema.connections.database import Database
from schema.errors import Unavailable
from schema.installation.migrate import MigrationResult, migrate
from schema.installation.roles import ALL_ROLES
from schema.modes import Mode
from tests.support.engine import add_endpoint
from tests.support.events import record
from tests.support.servers.connections import SUPERUSER, connections
from tests.support.servers.databases import OWNER, Cluster, running_cluster
from tests.support.servers.dumps import pg_dump, pg_restore, psql
from tests.support.servers.duro_process import duro, settings
from tests.support.servers.receiver import receiving

pytestmark = pytest.mark.drill

NEITHER = ("--no-owner", "--no-privileges")
RIGHTS = """
SELECT c.oid::regclass::text AS object, pg_get_userbyid(c.relowner)::text AS owner,
       ARRAY(SELECT e::text FROM unnest(coalesce(c.relacl, acldefault('r', c.relowner))) AS e ORDER BY 1) AS acl
  FROM pg_class c
 WHERE c.relnamespace = ANY (ARRAY['core', 'sandbox', 'live']::regnamespace[]) AND c.relkind IN ('r', 'p', 'v')
UNION ALL
SELECT p.oid::regprocedure::text, pg_get_userbyid(p.proowner),
       ARRAY(SELECT e::text FROM unnest(coalesce(p.proacl, acldefault('f', p.proowner))) AS e ORDER BY 1)
  FROM pg_proc p
 WHERE p.pronamespace = ANY (ARRAY['core', 'sandbox', 'live']::regnamespace[])
   AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = p.oid AND d.deptype = 'i')
UNION ALL
SELECT nspname, pg_get_userbyid(nspowner), ARRAY(SELECT e::text FROM unnest(nspacl) AS e ORDER BY 1)
  FROM pg_namespace WHERE nspname IN ('core', 'sandbox', 'live')
UNION ALL
SELECT tgrelid::regclass || '.' || tgname, tgenabled::text, '{}' FROM pg_trigger WHERE tgname = 'append_only'
"""
OPEN_TO_ALL = """
SELECT count(*) FROM pg_proc
 WHERE pronamespace = ANY (ARRAY['core', 'sandbox', 'live']::regnamespace[]) AND prosecdef
   AND has_function_privilege('public', oid, 'EXECUTE')
"""


@dataclass(frozen=True)
class Target:
    """An empty database of a cluster without duro's roles."""

    cluster: Cluster
    name: str
    owner: asyncpg.Connection
    superuser: asyncpg.Connection

    def url(self, login: str) -> str:
        return self.cluster.superuser_url(self.name) if login == SUPERUSER else self.cluster.url(self.name)


@pytest.fixture(scope="module")
def new_cluster(cluster: Cluster) -> Iterator[Cluster]:
    """Its operator has copied the secret key."""
    with running_cluster(cluster.key) as new_cluster:
        yield new_cluster


@pytest.fixture
async def target(new_cluster: Cluster) -> AsyncIterator[Target]:
    async with new_cluster.empty_database() as name, connections(new_cluster, name) as connect:
        superuser = await connect(SUPERUSER)
        try:
            yield Target(new_cluster, name, await connect(OWNER), superuser)
        finally:
            await superuser.execute(f"DROP OWNED BY {', '.join(ALL_ROLES)}; DROP ROLE {', '.join(ALL_ROLES)}")


@pytest.fixture
async def old(owner: asyncpg.Connection, tenant: UUID, database: Database) -> asyncpg.Connection:
    """The database to be dumped, with an event in it."""
    await record(database.data(Mode.LIVE), tenant)
    return owner


async def rights(connection: asyncpg.Connection) -> dict[str, tuple[str, list[str]]]:
    await connection.execute("SET search_path = pg_catalog")
    return {row["object"]: (row["owner"], row["acl"]) for row in await connection.fetch(RIGHTS)}


@pytest.mark.parametrize("login", [OWNER, SUPERUSER])
@pytest.mark.parametrize("flags", [(), NEITHER], ids=["with", "without"])
async def test_a_restored_database_gets_back_roles_owners_and_rights(
    cluster: Cluster,
    db_name: str,
    old: asyncpg.Connection,
    target: Target,
    login: str,
    flags: tuple[str, ...],
) -> None:
    await pg_restore(target.cluster, target.url(login), await pg_dump(cluster, db_name), *flags)
    if flags:
        assert await target.superuser.fetchval(OPEN_TO_ALL) > 0
    if flags and login == SUPERUSER:
        with pytest.raises(
            Unavailable, match=r"belong to postgres, .* run duro migrate once with a superuser's URL"
        ):
            await migrate(target.owner, target.cluster.key)
        assert not await target.superuser.fetch("SELECT FROM pg_roles WHERE rolname = ANY($1)", ALL_ROLES)
        done = await migrate(target.superuser, target.cluster.key)
        assert [line for line in done.repaired if "that belonged to postgres" in line]
    else:
        done = await migrate(target.owner, target.cluster.key)
    assert done.files == 0
    assert [line for line in done.repaired if line.startswith("created duro_core, ")]
    assert [line for line in done.repaired if line.startswith("granted duro_live the rights it lacked on ")]
    assert await target.owner.fetchval(OPEN_TO_ALL) == 0
    assert await rights(target.owner) == await rights(old)
    assert await migrate(target.owner, target.cluster.key) == MigrationResult(0, [])


async def test_after_the_documented_steps_a_worker_delivers(
    cluster: Cluster, db_name: str, old: asyncpg.Connection, target: Target, tenant: UUID, database: Database
) -> None:
    """pg_dump as text, psql, duro migrate, duro up; then pending deliveries are delivered."""
    url = target.url(OWNER)
    async with receiving() as receiver:
        await add_endpoint(database, tenant, receiver.url)
        await record(database.data(Mode.TEST), tenant)
        script = await pg_dump(cluster, db_name, "-Fp", *NEITHER)
        assert "ERROR" not in await psql(target.cluster, url, script)
        env = settings(url, target.cluster.key)
        async with duro("work", "--json", env=env) as refused:
            assert await refused.ended() == 1
            assert "run duro migrate" in refused.stderr
        async with duro("migrate", "--json", env=env) as migrating:
            said = await migrating.said()
            assert said["applied"] == 0
            assert [line for line in said["repaired"] if line.startswith("created duro_core, ")]
            assert await migrating.ended() == 0
        async with duro("up", "--port", "0", "--json", env=env) as up:
            await up.said()
            await receiver.requests.count(1)
            up.send(signal.SIGTERM)
            assert await up.ended() == 0


async def test_a_data_only_restore_keeps_the_log_append_only(
    cluster: Cluster, db_name: str, old: asyncpg.Connection, target: Target
) -> None:
    """--disable-triggers enables them again as ordinary ones, which session_replication_role turns off."""
    await migrate(target.owner, target.cluster.key)
    dump = await pg_dump(cluster, db_name, "--data-only", "--table=live.plans", "--table=live.events*")
    await pg_restore(target.cluster, target.url(SUPERUSER), dump, "--disable-triggers")
    done = await migrate(target.owner, target.cluster.key)
    assert [line for line in done.repaired if line.startswith("enabled the trigger append_only on ")]
    triggers = {
        name: how for name, (how, _) in (await rights(target.owner)).items() if ".append_only" in name
    }
    assert set(triggers.values()) == {"A"}


async def test_a_superuser_may_migrate_for_the_owner(target: Target) -> None:
    """The database's owner then owns everything and can run the next migration."""
    assert (await migrate(target.superuser, target.cluster.key)).files > 0
    assert {owner for owner, _ in (await rights(target.owner)).values()} - {"A"} == {OWNER}
    assert await migrate(target.owner, target.cluster.key) == MigrationResult(0, [])
    assert await migrate(target.superuser, target.cluster.key) == MigrationResult(0, [])
