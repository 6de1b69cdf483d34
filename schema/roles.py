"""Login roles, one per client. Rights end at a schema's border and SET ROLE does not help: none is a member
of another. Roles belong to the whole cluster, their rights to one database.

Passwords are derived from the service's secret key, so that any host with the owner's URL and the key can
log in as each role, and nothing has to be stored or handed around.
"""

import hashlib
import hmac
import os
from base64 import b64encode
from typing import Final

import asyncpg
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random

from schema.errors import Unavailable
from schema.modes import Mode
from schema.queries import load
from schema.secret_box import derive_role_password, key_check

CORE_ROLE: Final = "duro_core"
LOGIN_ROLES: Final = (CORE_ROLE, *(mode.role for mode in Mode))


def analyst_of(mode: Mode) -> str:
    """The read-only role that sees the mode's views."""
    return f"{mode.role}_analyst"


ANALYST_ROLES: Final = tuple(analyst_of(mode) for mode in Mode)
PRODUCER_ROLES: Final = tuple(
    f"{mode.role}_producer" for mode in Mode
)  # for a product's own role to be a member of

_SQL = load("roles")
_SCRAM_ITERATIONS = 4096  # Postgres's own default


async def refuse_foreign_roles(owner: asyncpg.Connection, key: bytes) -> bool:
    """Whether the roles are noted as ours already.

    Raises Unavailable when another installation in this cluster has given them the passwords of another key.
    """
    noted = await owner.fetchval(_SQL["key_of_role"], CORE_ROLE)
    if noted not in {None, key_check(key)}:
        raise Unavailable(
            "The roles duro_… of this cluster belong to a duro database with another secret key: set DURO_SECRET_KEY "
            "to that one, use another cluster, or drop those roles if that database is gone."
        )
    return noted is not None


async def ensure_roles(owner: asyncpg.Connection, key: bytes) -> None:
    """Creates the roles that are missing and gives the login roles the passwords that `key` yields.

    Raises Unavailable when they are another installation's.
    """
    noted = await refuse_foreign_roles(owner, key)
    try:
        for role in (*LOGIN_ROLES, *ANALYST_ROLES):
            await owner.execute(_SQL["create_role"].replace(":role", role).replace(":login", "LOGIN"))
        for mode in Mode:
            limits = _SQL["limit_analyst"].replace(":role", analyst_of(mode)).replace(":schema", mode.schema)
            await _in_turn(owner, limits)
        for role in PRODUCER_ROLES:
            await owner.execute(_SQL["create_role"].replace(":role", role).replace(":login", "NOLOGIN"))
        if not noted:
            note = _SQL["note_key"].replace(":role", CORE_ROLE).replace(":key_check", key_check(key))
            await _in_turn(owner, note)
        for role in LOGIN_ROLES:
            await _set_password(owner, role, derive_role_password(key, role))
        await owner.execute(
            _SQL["grant_connect"].replace(
                ":roles", ", ".join((*LOGIN_ROLES, *ANALYST_ROLES, *PRODUCER_ROLES))
            )
        )
    except asyncpg.InsufficientPrivilegeError as error:
        raise Unavailable(
            f"The role in DURO_DATABASE_URL may not manage roles ({error.message}): "
            "it must own the database and have CREATEROLE."
        ) from None


async def set_analyst_password(owner: asyncpg.Connection, mode: Mode, password: str | None) -> None:
    """None: nobody can log in as the mode's analyst any more; who is logged in stays so.

    Raises InsufficientPrivilegeError for a login that may not manage roles.
    """
    if password is None:
        await _in_turn(owner, _SQL["remove_password"].replace(":role", analyst_of(mode)))
    else:
        await _set_password(owner, analyst_of(mode), password)


async def _set_password(owner: asyncpg.Connection, role: str, password: str) -> None:
    statement = _SQL["set_password"].replace(":role", role).replace(":verifier", scram_verifier(password))
    await _in_turn(owner, statement)


async def _in_turn(owner: asyncpg.Connection, statement: str) -> None:
    """Roles are the cluster's, and no lock spans databases: of two that alter one at once, one is refused."""
    async for attempt in AsyncRetrying(
        retry=retry_if_exception_type((asyncpg.InternalServerError, asyncpg.UniqueViolationError)),
        wait=wait_random(0.01, 0.2),
        stop=stop_after_attempt(20),
        reraise=True,
    ):
        with attempt:
            await owner.execute(statement)


def scram_verifier(password: str, salt: bytes | None = None) -> str:
    """What Postgres stores for a password (RFC 5803), so that no statement ever carries the password."""
    salt = salt or os.urandom(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, _SCRAM_ITERATIONS)
    stored_key = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server_key = hmac.digest(salted, b"Server Key", "sha256")
    return (
        f"SCRAM-SHA-256${_SCRAM_ITERATIONS}:{b64encode(salt).decode()}"
        f"${b64encode(stored_key).decode()}:{b64encode(server_key).decode()}"
    )
