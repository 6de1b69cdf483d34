"""Roles log in with passwords derived from the secret key; no statement and no row contains them."""

from uuid import UUID

import asyncpg
import pytest

from schema.installation.roles import ANALYST_ROLES, LOGIN_ROLES, ensure_roles, scram_verifier
from schema.modes import Mode
from schema.secret_box import derive_role_password
from tests.support.servers.connections import Connect


def test_a_verifier_equals_that_of_postgres() -> None:
    """From the example of RFC 7677."""
    assert scram_verifier("pencil", bytes.fromhex("5b6d99689d12358eeca04b141236fa81")) == (
        "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ=="
        "$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
    )


def test_two_verifiers_of_one_password_differ() -> None:
    assert scram_verifier("pencil") != scram_verifier("pencil")


@pytest.mark.parametrize("role", LOGIN_ROLES)
async def test_the_key_opens_each_login_role(connect: Connect, role: str) -> None:
    connection = await connect(role)
    assert await connection.fetchval("SELECT current_user") == role
    assert await connection.fetchval("SELECT current_schema") == role.removeprefix("duro_")


@pytest.mark.parametrize("role", LOGIN_ROLES)
async def test_another_key_opens_no_role(db_url: str, role: str) -> None:
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(db_url, user=role, password=derive_role_password(bytes(32), role))


@pytest.mark.parametrize("role", ANALYST_ROLES)
async def test_an_analyst_without_password_cannot_log_in(db_url: str, key: bytes, role: str) -> None:
    for password in ("", role, derive_role_password(key, role)):
        with pytest.raises((asyncpg.InvalidPasswordError, asyncpg.PostgresConnectionError)):
            await asyncpg.connect(db_url, user=role, password=password)


async def test_ensuring_roles_twice_keeps_their_passwords(
    owner: asyncpg.Connection, connect: Connect, key: bytes
) -> None:
    await ensure_roles(owner, key)
    assert await (await connect(LOGIN_ROLES[0])).fetchval("SELECT true")


async def test_the_server_stores_no_passwords(superuser: asyncpg.Connection, key: bytes) -> None:
    rows = await superuser.fetch(
        "SELECT rolname, rolpassword FROM pg_authid WHERE rolname = ANY($1)", LOGIN_ROLES
    )
    assert len(rows) == len(LOGIN_ROLES)
    for row in rows:
        assert row["rolpassword"].startswith("SCRAM-SHA-256$4096:")
        assert derive_role_password(key, row["rolname"]) not in row["rolpassword"]


async def test_a_member_of_the_producer_role_can_only_append_events(
    db_url: str, key: bytes, owner: asyncpg.Connection, superuser: asyncpg.Connection, tenant: UUID
) -> None:
    """From the login on: it may connect although the database is closed to PUBLIC."""
    name = await owner.fetchval("SELECT current_database()")
    await superuser.execute(
        f"CREATE ROLE billing LOGIN PASSWORD 'billing'; REVOKE CONNECT ON DATABASE {name} FROM PUBLIC"
    )
    try:
        await ensure_roles(owner, key)
        await owner.execute("GRANT duro_live_producer TO billing")
        billing = await asyncpg.connect(db_url, user="billing", password="billing")
        try:
            told = await billing.fetchval(
                "SELECT live.record_event($1::uuid, 'invoice_created', '{}')", tenant
            )
            for refused in (
                "SELECT * FROM live.events",
                "SELECT live.sequence_events()",
                f"SELECT sandbox.record_event('{tenant}'::uuid, 'invoice_created', '{{}}')",
                "SELECT * FROM core.tenants",
            ):
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await billing.execute(refused)
        finally:
            await billing.close()
        assert await owner.fetchval(f"SELECT id FROM {Mode.LIVE.schema}.events") == told
    finally:
        await superuser.execute("DROP ROLE billing")
