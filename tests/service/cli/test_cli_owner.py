"""Which commands need the owner's login, and that no other command ever uses the login in DURO_DATABASE_URL."""

import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit
from uuid import UUID

import asyncpg
import click
import pytest

from schema.connections.database import Database
from schema.modes import Mode
from service.cli import main
from tests.service.cli.duro_command import Duro
from tests.support.engine import add_endpoint
from tests.support.events import record
from tests.support.servers.duro_process import duro as process
from tests.support.servers.duro_process import settings
from tests.support.servers.receiver import receiving

OWNERS = {
    ("migrate",),
    ("up",),
    ("retention", "plan"),
    ("retention", "run"),
    ("analytics", "password"),
}
ARGUMENTS = {
    ("retention", "plan"): ("--attempts", "90d"),
    ("retention", "run"): ("--attempts", "90d"),
    ("analytics", "password"): ("--mode", "live"),
    ("up",): ("--port", "0"),
}
OTHERS = [
    ("tenant", "list"),
    ("event", "types"),
    ("consumers", "status"),
    ("consumers", "retry-dead", "--mode", "test"),
    ("consumers", "rebuild", "rollups", "--mode", "test"),
    ("retries", "status", "--mode", "test"),
    ("analytics", "views", "--mode", "test"),
    ("analytics", "export", "--view", "mrr", "--mode", "test", "--output", "FILE", "--overwrite"),
    ("billing", "status"),
]


def at(url: str, login: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{login}{parts.hostname}:{parts.port}"))


@pytest.fixture
async def guest_url(superuser: asyncpg.Connection, db_url: str) -> AsyncIterator[str]:
    """Of a role that may log in and nothing else."""
    await superuser.execute("CREATE ROLE guest LOGIN PASSWORD 'guest'")
    try:
        yield at(db_url, "guest:guest@")
    finally:
        await superuser.execute("DROP ROLE guest")


def commands(group: click.Group = main, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """Each with its help."""
    context = click.Context(group)
    for name in group.list_commands(context):
        found = group.get_command(context, name)
        if isinstance(found, click.Group):
            yield from commands(found, (*path, name))
        elif found is not None:
            yield (*path, name), str(found.help)


def test_help_says_which_commands_need_the_owner() -> None:
    says = {path for path, text in commands() if "Needs the login of the database's owner" in text}
    assert says == OWNERS


@pytest.mark.parametrize("command", sorted(OWNERS), ids=" ".join)
async def test_a_command_for_the_owner_says_so_to_another_login(
    duro: Duro, guest_url: str, db_url: str, command: tuple[str, ...]
) -> None:
    arguments = (*command, *ARGUMENTS.get(command, ()))
    refused = await duro.set(DURO_DATABASE_URL=guest_url).process(*arguments)
    assert (
        "needs the login of the database's owner, duro_owner: DURO_DATABASE_URL logs in as guest"
        in refused.refusal
    )
    refused = await duro.set(DURO_DATABASE_URL=at(db_url, "")).process(*arguments)
    assert "needs the login of the database's owner, and DURO_DATABASE_URL names no user" in refused.refusal


@pytest.mark.parametrize("command", OTHERS, ids=" ".join)
async def test_every_other_command_works_without_the_owner(
    duro: Duro, db_url: str, command: tuple[str, ...], tmp_path: Path
) -> None:
    """The login in the URL does not exist, so that any use of it would fail."""
    arguments = [str(tmp_path / "mrr.csv") if word == "FILE" else word for word in command]
    for login in ("", "nobody:wrong@"):
        outcome = await duro.set(DURO_DATABASE_URL=at(db_url, login))(*arguments)
        assert outcome.status == 0, outcome


@pytest.mark.parametrize("login", ["", "guest:guest@"], ids=["no user", "a role without rights"])
async def test_a_worker_without_the_owner_s_login_delivers(
    database: Database, guest_url: str, db_url: str, key: bytes, tenant: UUID, login: str
) -> None:
    async with receiving() as receiver:
        await add_endpoint(database, tenant, receiver.url)
        async with process("work", "--json", env=settings(at(db_url, login), key)) as worker:
            await worker.said()
            await record(database.data(Mode.TEST), tenant)
            await receiver.requests.count(1)
            logged_in = await database.core.fetch(
                "SELECT DISTINCT usename FROM pg_stat_activity WHERE datname = current_database()"
            )
            assert "guest" not in {row["usename"] for row in logged_in}
            worker.send(signal.SIGTERM)
            assert await worker.ended() == 0


async def test_children_of_up_do_not_get_the_owners_password(
    owner: asyncpg.Connection, db_url: str, key: bytes
) -> None:
    from service.cli.processes.up_command import _environment
    from service.database_access import DatabaseAccess

    url = f"{db_url}?user=duro_owner&password=secret&sslmode=disable"
    password = urlsplit(db_url).password
    assert password
    given = _environment(DatabaseAccess(url, key, embedded=False))["DURO_DATABASE_URL"]
    assert password not in given
    assert "secret" not in given
    assert given.endswith("?sslmode=disable")


async def test_a_worker_without_rights_says_to_migrate(
    duro: Duro, owner: asyncpg.Connection, db_url: str
) -> None:
    await owner.execute("REVOKE SELECT ON live.events FROM duro_live")
    refused = await duro.set(DURO_DATABASE_URL=at(db_url, "")).process("work")
    assert refused.refusal == (
        "duro: The roles of duro lack rights in this database: run duro migrate with the URL of the database's owner, "
        "which repairs the rights of duro_live in schema live.\n"
    )
    assert (await duro.json("migrate"))["applied"] == 0
    assert (await duro.set(DURO_DATABASE_URL=at(db_url, ""))("tenant", "list")).status == 0
