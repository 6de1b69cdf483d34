"""An unsuitable database is refused with what to do, before anything is written."""

import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import asyncpg
import pytest

from schema.connections.database import Database, connect_as_owner
from schema.errors import Unavailable
from schema.installation.migrate import migrate
from schema.installation.preconditions import check_server
from tests.support.servers.databases import OWNER, Cluster


@asynccontextmanager
async def database_made(cluster: Cluster, command: Callable[[str], str], name: str) -> AsyncIterator[str]:
    superuser = await asyncpg.connect(cluster.superuser_url("postgres"))
    try:
        await superuser.execute(command(name))
        yield name
        await superuser.execute(f"ALTER DATABASE {name} IS_TEMPLATE false")
        await superuser.execute(f"DROP DATABASE {name} WITH (FORCE)")
    finally:
        await superuser.close()


async def refusal(cluster: Cluster, name: str) -> str:
    """Returns the sentence, the same for `migrate` and for opening; nothing was created."""
    owner = await connect_as_owner(cluster.url(name))
    try:
        with pytest.raises(Unavailable) as refused:
            await migrate(owner, cluster.key)
        assert await owner.fetchval("SELECT to_regnamespace('core') IS NULL")
    finally:
        await owner.close()
    with pytest.raises(Unavailable) as of_opening:
        async with Database.open(cluster.url(name), cluster.key):
            pass
    assert str(of_opening.value) == str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
async def test_another_encoding_is_refused_with_a_working_command(
    cluster: Cluster, template: str, encoding: str
) -> None:
    def command(name: str) -> str:
        return f"CREATE DATABASE {name} OWNER {OWNER} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0"

    async with database_made(cluster, command, f"in_{encoding.lower()}") as name:
        sentence = await refusal(cluster, name)
        found = re.search(r"(CREATE DATABASE .*); and name it", sentence)
        assert found, sentence
        async with database_made(cluster, lambda _name: found[1], f"{name}_utf8") as right:
            owner = await connect_as_owner(cluster.url(right))
            await check_server(owner)
            assert await owner.fetchval("SELECT current_setting('server_encoding')") == "UTF8"
            await owner.close()


async def test_a_template_is_refused(cluster: Cluster, template: str) -> None:
    def command(name: str) -> str:
        return f"CREATE DATABASE {name} OWNER {OWNER} IS_TEMPLATE true"

    async with database_made(cluster, command, "a_template") as name:
        assert "is a template" in await refusal(cluster, name)


@pytest.mark.parametrize("role", [OWNER, "duro_core", "duro_live"])
async def test_a_login_without_foreign_key_checks_is_refused(
    cluster: Cluster, template: str, db_name: str, superuser: asyncpg.Connection, role: str
) -> None:
    """Only a superuser can set it, so no session can pin it."""
    await superuser.execute(f"ALTER ROLE {role} IN DATABASE {db_name} SET session_replication_role = replica")

    async def use() -> None:
        owner = await connect_as_owner(cluster.url(db_name))
        try:
            await migrate(owner, cluster.key)
        finally:
            await owner.close()
        async with Database.open(cluster.url(db_name), cluster.key):
            pass

    with pytest.raises(Unavailable, match=f"session_replication_role is replica for {role}.*ALTER ROLE"):
        await use()
    await superuser.execute(f"ALTER ROLE {role} IN DATABASE {db_name} RESET session_replication_role")
    await use()
