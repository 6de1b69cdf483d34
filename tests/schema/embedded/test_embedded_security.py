"""Every login needs a password, no secret leaks, and commits are on disk."""

import stat
from collections.abc import Iterator
from urllib.parse import urlsplit

import asyncpg
import pytest

from schema.embedded import EmbeddedServer, attach, read_secret_key
from schema.embedded.files.data_dir import DataDir
from tests.schema.embedded.embedded_harness import query, stopped_cluster


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedServer]:
    with stopped_cluster() as data, attach(data.root) as server:
        yield server


def without_password(url: str) -> str:
    return url.replace(f":{urlsplit(url).password}@", "@")


@pytest.mark.parametrize("url_name", ["owner_url", "superuser_url"])
async def test_a_missing_password_is_rejected(
    server: EmbeddedServer, url_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PGPASSWORD", raising=False)
    with pytest.raises((asyncpg.InvalidPasswordError, asyncpg.InvalidAuthorizationSpecificationError)):
        await query(without_password(getattr(server, url_name)), "SELECT 1")


@pytest.mark.parametrize("url_name", ["owner_url", "superuser_url"])
async def test_a_wrong_password_is_rejected(server: EmbeddedServer, url_name: str) -> None:
    url = getattr(server, url_name)
    with pytest.raises(asyncpg.InvalidPasswordError):
        await query(url.replace(urlsplit(url).password, "wrong"), "SELECT 1")


async def test_the_socket_needs_the_password_too(server: EmbeddedServer) -> None:
    port = urlsplit(server.owner_url).port
    target = {"host": str(server.socket_dir), "port": port, "user": "duro_owner", "database": "duro"}
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(**target, password="wrong")
    connection = await asyncpg.connect(**target, password=urlsplit(server.owner_url).password)
    await connection.close()


async def test_every_login_method_is_scram(server: EmbeddedServer) -> None:
    methods = "SELECT array_agg(DISTINCT auth_method) FROM pg_hba_file_rules"
    assert await query(server.superuser_url, methods) == ["scram-sha-256"]


async def test_it_listens_on_loopback_only(server: EmbeddedServer) -> None:
    assert urlsplit(server.owner_url).hostname == "127.0.0.1"
    assert await query(server.owner_url, "SHOW listen_addresses") == "127.0.0.1"


async def test_the_owner_can_create_roles_but_is_no_superuser(server: EmbeddedServer) -> None:
    rights = "SELECT ARRAY[rolsuper, rolcreaterole, rolcreatedb, rolreplication, rolbypassrls] FROM pg_roles WHERE rolname = current_user"
    assert await query(server.owner_url, rights) == [False, True, True, False, False]
    owner = "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = 'duro'"
    assert await query(server.owner_url, owner) == "duro_owner"


async def test_a_role_needs_connect_permission(server: EmbeddedServer) -> None:
    await query(server.owner_url, "CREATE ROLE unrelated_process LOGIN PASSWORD 'known'")
    url = server.owner_url.replace(urlsplit(server.owner_url).password, "known").replace(
        "duro_owner", "unrelated_process"
    )
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await query(url, "SELECT 1")
    await query(server.owner_url, "GRANT CONNECT ON DATABASE duro TO unrelated_process")
    assert await query(url, "SELECT 1") == 1


def test_files_are_private(server: EmbeddedServer) -> None:
    """The exception is duro.conf, which the server's user must read and which contains no secret."""
    files = [path for path in server.data_dir.iterdir() if path.is_file()]
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in files}
    assert modes.pop("duro.conf") == 0o644
    assert set(modes.values()) == {0o600}
    assert {"superuser.password", "owner.password", "secret.key"} <= modes.keys()
    assert stat.S_IMODE((server.data_dir / "postgres").stat().st_mode) == 0o700
    assert not stat.S_IMODE(server.data_dir.stat().st_mode) & 0o066


def test_a_widened_file_mode_is_restricted(server: EmbeddedServer) -> None:
    path = DataDir(server.data_dir).secret_key
    path.chmod(0o644)
    read_secret_key(server.data_dir)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_key_is_32_bytes_and_persistent(server: EmbeddedServer) -> None:
    assert len(server.secret_key) == 32
    assert read_secret_key(server.data_dir) == server.secret_key


def test_repr_and_public_files_contain_no_secret(server: EmbeddedServer) -> None:
    secrets = [path.read_text().strip() for path in server.data_dir.glob("*.password")]
    shown = repr(server)
    for name in ("duro.conf", "address.json", "postgres.log"):
        shown += (server.data_dir / name).read_text()
    assert len(secrets) == 2
    assert not [secret for secret in [*secrets, str(server.secret_key)] if secret in shown]


async def test_the_log_does_not_quote_failing_statements(server: EmbeddedServer) -> None:
    """It contains neither the statement's text nor the row that DETAIL would quote."""
    await query(server.owner_url, "CREATE TABLE few (id int PRIMARY KEY CHECK (id < 1), note text)")
    with pytest.raises(asyncpg.CheckViolationError):
        await query(server.owner_url, "INSERT INTO few VALUES (1, 'whsec_in_a_row')")
    with pytest.raises(asyncpg.PostgresError):
        await query(server.owner_url, "ALTER ROLE nobody_here PASSWORD 'whsec_in_a_statement'")
    log = (server.data_dir / "postgres.log").read_text()
    assert "few_id_check" in log
    assert "whsec_" not in log


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("fsync", "on"),
        ("synchronous_commit", "on"),
        ("full_page_writes", "on"),
        ("data_checksums", "on"),
        ("password_encryption", "scram-sha-256"),
        ("server_encoding", "UTF8"),
        ("TimeZone", "UTC"),
        ("log_statement", "none"),
    ],
)
async def test_required_settings_are_set(server: EmbeddedServer, name: str, value: str) -> None:
    assert await query(server.superuser_url, "SELECT current_setting($1)", name) == value


async def test_text_sorts_by_bytes(server: EmbeddedServer) -> None:
    """A new C library must not change the order of existing indexes."""
    collations = "SELECT array_agg(DISTINCT datcollate) FROM pg_database"
    assert await query(server.superuser_url, collations) == ["C"]


async def test_an_operator_s_settings_take_precedence(server: EmbeddedServer) -> None:
    await query(server.superuser_url, "ALTER SYSTEM SET checkpoint_timeout = '7min'")
    await query(server.superuser_url, "SELECT pg_reload_conf()")
    source = "SELECT sourcefile FROM pg_settings WHERE name = $1"
    applied = "SELECT setting FROM pg_file_settings WHERE name = 'checkpoint_timeout' AND applied"
    assert await query(server.superuser_url, applied) == "7min"
    assert await query(server.superuser_url, source, "jit") == str(server.data_dir / "duro.conf")
