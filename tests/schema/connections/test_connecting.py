"""Every kind of connection that a URL can name, and one clear sentence for each failure."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import quote, urlsplit

import asyncpg
import pytest

from schema.connections.database import Database, connect_as_owner
from schema.errors import Unavailable
from tests.support.servers.databases import Cluster
from tests.support.servers.directories import free_port
from tests.support.servers.hostile_environment import hostile_environment
from tests.support.servers.standby import standby

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def listening(answer: Answer) -> AsyncIterator[int]:
    """The port of a server that is not PostgreSQL."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await answer(reader, writer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1")
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def hang_up(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    pass


async def speak_http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(8)
    writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
    await writer.drain()


async def refusal(url: str) -> str:
    with pytest.raises(Unavailable) as caught:
        await connect_as_owner(url)
    assert caught.value.__cause__ is None
    said = str(caught.value)
    assert said.isprintable()
    assert str(urlsplit(url).password) not in said
    return said


async def works(url: str) -> bool:
    owner = await connect_as_owner(url)
    await owner.close()
    return True


@pytest.fixture
def login(cluster: Cluster) -> str:
    return urlsplit(cluster.server.owner_url).netloc.partition("@")[0]


@pytest.fixture
def port(cluster: Cluster) -> int:
    port = urlsplit(cluster.server.owner_url).port
    assert port is not None
    return port


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.0.0.1,localhost"])
async def test_a_refused_connection_is_reported(host: str) -> None:
    hosts = ",".join(f"{name}:{free_port()}" for name in host.split(","))
    said = await refusal(f"postgresql://u:hunter2@{hosts}/d")
    assert "connection refused" in said
    assert "start it" in said or "None of the hosts" in said


@pytest.mark.parametrize("mode", ["disable", "prefer", "require"])
@pytest.mark.parametrize("answer", [hang_up, speak_http])
async def test_a_server_that_is_not_postgres_is_reported(answer: Answer, mode: str) -> None:
    async with listening(answer) as port:
        said = await refusal(f"postgresql://u:hunter2@127.0.0.1:{port}/d?sslmode={mode}&connect_timeout=2")
    assert "start it" not in said
    assert "check its log" in said or "did not respond" in said or "has no TLS" in said


async def test_a_silent_server_is_reported() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        said = await refusal(f"postgresql://u:hunter2@127.0.0.1:{port}/d?connect_timeout=2")
    assert "did not respond within 2 s: check that its host is up" in said


async def test_an_unknown_host_name_is_reported() -> None:
    said = await refusal("postgresql://u:hunter2@absent.invalid/d")
    assert "has a host name that DNS does not resolve" in said


async def test_a_missing_socket_is_reported(tmp_path: Path) -> None:
    said = await refusal(f"postgresql://u:hunter2@/d?host={tmp_path}")
    assert "has no socket: start it, or correct the socket directory" in said


async def test_a_missing_password_is_reported(
    port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPASSWORD", "hunter2")
    said = await refusal(f"postgresql://duro_owner@127.0.0.1:{port}/duro")
    assert "refuses the login without a password" in said
    assert "PG* variables and ~/.pgpass are not read" in said


async def test_a_role_at_its_connection_limit_is_reported(
    cluster: Cluster, superuser: asyncpg.Connection
) -> None:
    await superuser.execute("CREATE ROLE crowded LOGIN PASSWORD 'hunter2' CONNECTION LIMIT 0")
    port = urlsplit(cluster.server.owner_url).port
    said = await refusal(f"postgresql://crowded:hunter2@127.0.0.1:{port}/duro")
    await superuser.execute("DROP ROLE crowded")
    assert "has no connection left (too many connections for role" in said


async def test_a_database_that_allows_no_connections_is_reported(
    cluster: Cluster, superuser: asyncpg.Connection
) -> None:
    async with cluster.empty_database() as name:
        await superuser.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        said = await refusal(cluster.url(name))
        await superuser.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    assert "refuses the session" in said
    assert "not currently accepting connections" in said


async def test_a_nologin_role_is_reported(cluster: Cluster, superuser: asyncpg.Connection) -> None:
    await superuser.execute("CREATE ROLE grounded NOLOGIN PASSWORD 'hunter2'")
    port = urlsplit(cluster.server.owner_url).port
    said = await refusal(f"postgresql://grounded:hunter2@127.0.0.1:{port}/duro")
    await superuser.execute("DROP ROLE grounded")
    assert "refuses the login" in said
    assert "not permitted to log in" in said


async def test_the_first_working_host_is_used(login: str, port: int) -> None:
    for hosts in (
        f"127.0.0.1:{free_port()},127.0.0.1:{port}",
        f"absent.invalid,127.0.0.1:{port}",
        f"%2Fnowhere,127.0.0.1:{port}",
        f"127.0.0.1:{port},127.0.0.1:{free_port()}",
    ):
        assert await works(f"postgresql://{login}@{hosts}/duro")
    assert await works(f"postgresql://{login}@/duro?host=127.0.0.1,127.0.0.1&port={free_port()},{port}")


async def test_a_standby_is_skipped_for_the_primary(cluster: Cluster, login: str, port: int) -> None:
    with standby(cluster) as behind:
        hosts = f"127.0.0.1:{behind},127.0.0.1:{port}"
        for parameters, reached in {"": port, "target_session_attrs=any": behind}.items():
            owner = await connect_as_owner(f"postgresql://{login}@{hosts}/duro?{parameters}")
            assert await owner.fetchval("SELECT current_setting('port')::int") == reached
            await owner.close()
        said = await refusal(f"postgresql://{login}@127.0.0.1:{behind}/duro?target_session_attrs=read-write")
        assert "does not accept writes (a standby, or read-only): name the primary" in said


async def test_a_silent_host_costs_only_its_own_timeout(login: str, port: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        hosts = f"127.0.0.1:{silent.getsockname()[1]},127.0.0.1:{port}"
        assert await works(f"postgresql://{login}@{hosts}/duro?connect_timeout=2")


async def test_each_failed_host_is_reported() -> None:
    said = await refusal(f"postgresql://u:hunter2@127.0.0.1:{free_port()},absent.invalid/d")
    assert said.startswith("None of the hosts in DURO_DATABASE_URL can be used: 127.0.0.1:")
    assert "connection refused); absent.invalid:5432 has a host name that DNS does not resolve" in said


async def test_a_socket_directory_is_a_host(cluster: Cluster, login: str, port: int) -> None:
    directory = cluster.server.socket_dir
    assert directory is not None
    if not os.access(directory, os.X_OK):
        pytest.skip("the socket is another user's")
    for url in (
        f"postgresql://{login}@{quote(str(directory), safe='')}:{port}/duro",
        f"postgresql://{login}@/duro?host={directory}&port={port}",
        f"postgresql://{login}@/duro?host={directory}&port={port}&sslmode=verify-full",
    ):
        assert await works(url)


async def test_keyword_value_pairs_connect_too(login: str, port: int) -> None:
    user, _, password = login.partition(":")
    assert await works(f"host=127.0.0.1 port={port} user={user} password='{password}' dbname=duro")


async def test_the_password_comes_from_the_passfile(login: str, port: int, tmp_path: Path) -> None:
    user, _, password = login.partition(":")
    url = f"postgresql://{user}@127.0.0.1:{port}/duro?passfile="
    file = tmp_path / "pgpass"
    file.write_text(
        f"# a comment\nother:*:*:*:wrong\n127.0.0.1:{port}:duro:{user}:{password}\n*:*:*:*:wrong\n"
    )
    file.chmod(0o600)
    assert await works(f"{url}{file}")
    file.chmod(0o640)
    assert "can be read by others: chmod 600 it" in await refusal(f"{url}{file}")
    file.chmod(0o600)
    file.write_text(f"127.0.0.1:{port}:elsewhere:{user}:{password}\n")
    assert "has no line for this host, port, database and user" in await refusal(f"{url}{file}")
    assert "cannot be read (No such file" in await refusal(f"{url}{tmp_path / 'absent'}")
    os.mkfifo(pipe := tmp_path / "pipe", 0o600)
    assert "is not a regular file" in await refusal(f"{url}{pipe}")


async def test_ignored_parameters_have_no_effect(login: str, port: int) -> None:
    ignored = (
        "application_name=somebody&keepalives=1&keepalives_idle=30&tcp_user_timeout=1000&gssencmode=prefer"
        "&channel_binding=prefer&load_balance_hosts=disable&pgbouncer=true&schema=public&connection_limit=3"
    )
    assert await works(f"postgresql://{login}@127.0.0.1:{port}/duro?{ignored}")


async def test_options_reach_the_server_and_keep_pinned_settings(login: str, port: int) -> None:
    options = quote("-c search_path=public -c work_mem=1234kB")
    owner = await connect_as_owner(f"postgresql://{login}@127.0.0.1:{port}/duro?options={options}")
    try:
        assert await owner.fetchval("SHOW work_mem") == "1234kB"
        assert await owner.fetchval("SHOW search_path") == "pg_catalog, pg_temp"
    finally:
        await owner.close()


async def test_the_environment_has_no_effect(
    db_url: str, key: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in hostile_environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    for url in (db_url, db_url.partition("?")[0]):
        async with Database.open(url, key) as database:
            assert await database.core.fetchval("SHOW search_path") == "core"
        assert await works(url)
