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


def producer_of(mode: Mode) -> str:
    """The role that a product's own role becomes a member of, to append events."""
    return f"{mode.role}_producer"


ANALYST_ROLES: Final = tuple(analyst_of(mode) for mode in Mode)
PRODUCER_ROLES: Final = tuple(producer_of(mode) for mode in Mode)
ALL_ROLES: Final = (*LOGIN_ROLES, *ANALYST_ROLES, *PRODUCER_ROLES)

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


async def refuse_missing_rights(owner: asyncpg.Connection) -> None:
    """Raises Unavailable with the statement that helps when this login may not manage the roles.

    Since PostgreSQL 16 CREATEROLE is not enough for a role that another one made: it takes ADMIN OPTION on it.
    """
    (rights,) = await owner.fetch(_SQL["rights_over_roles"], list(ALL_ROLES))
    login = _quoted(rights["login"])
    if not rights["creates_roles"]:
        raise Unavailable(
            f"The role {rights['login']} in DURO_DATABASE_URL may not manage roles: "
            f"run as a superuser: ALTER ROLE {login} CREATEROLE;"
        )
    if unmanaged := rights["unmanaged"]:
        raise Unavailable(
            f"The role {rights['login']} in DURO_DATABASE_URL lacks ADMIN OPTION on {', '.join(unmanaged)}, which "
            "another role of this cluster made: run as that role or as a superuser: "
            f"GRANT {', '.join(unmanaged)} TO {login} WITH ADMIN OPTION, INHERIT FALSE, SET FALSE;"
        )


async def ensure_roles(owner: asyncpg.Connection, key: bytes) -> list[str]:
    """Creates the roles that are missing, corrects the attributes of the others, and gives the login roles the passwords
    that `key` yields. Returns what it did, in words.

    Raises Unavailable when they are another installation's, or when this login may not manage them.
    """
    noted = await refuse_foreign_roles(owner, key)
    await refuse_missing_rights(owner)
    try:
        created = await _create_missing(owner)
        corrected = await _correct_attributes(owner)
        if given := await _let_owner_manage(owner):
            corrected.append(given)
        for mode in Mode:
            limits = _SQL["limit_analyst"].replace(":role", analyst_of(mode)).replace(":schema", mode.schema)
            await _in_turn(owner, limits)
        if not noted:
            note = _SQL["note_key"].replace(":role", CORE_ROLE).replace(":key_check", key_check(key))
            await _in_turn(owner, note)
        for role in LOGIN_ROLES:
            await _set_password(owner, role, derive_role_password(key, role))
        await _let_connect(owner)
    except asyncpg.InsufficientPrivilegeError as error:
        raise Unavailable(
            f"The role in DURO_DATABASE_URL may not manage roles ({error.message}): "
            "it must own the database and have CREATEROLE."
        ) from None
    return [*([f"created {', '.join(created)}"] if created else []), *corrected]


async def _create_missing(owner: asyncpg.Connection) -> list[str]:
    there = {row["rolname"] for row in await owner.fetch(_SQL["attributes"], list(ALL_ROLES))}
    missing = [role for role in ALL_ROLES if role not in there]
    for role in missing:
        login = "NOLOGIN" if role in PRODUCER_ROLES else "LOGIN"
        await owner.execute(_SQL["create_role"].replace(":role", role).replace(":login", login))
    return missing


async def _correct_attributes(owner: asyncpg.Connection) -> list[str]:
    """An analyst's or a producer's login is the operator's to allow or not; no role of ours has power over the cluster."""
    lines = []
    for row in await owner.fetch(_SQL["attributes"], list(ALL_ROLES)):
        wrong = [*row["powers"]]
        if row["rolname"] in LOGIN_ROLES:
            wrong += ["LOGIN"] * (not row["rolcanlogin"])
            wrong += ["VALID UNTIL 'infinity'"] * row["expired"]
        if wrong:
            await _in_turn(owner, f"ALTER ROLE {row['rolname']} {' '.join(wrong)}")
            lines.append(f"altered {row['rolname']} to {' '.join(wrong)}")
    return lines


async def _let_owner_manage(login: asyncpg.Connection) -> str | None:
    """A superuser that migrates does so once, in the owner's place: the owner must be able to do it the next time."""
    (row,) = await login.fetch(_SQL["owner_without_admin"], list(ALL_ROLES))
    if not row["roles"]:
        return None
    await _in_turn(
        login,
        f"GRANT {', '.join(row['roles'])} TO {_quoted(row['owner'])} WITH ADMIN OPTION, INHERIT FALSE, SET FALSE",
    )
    return f"gave {row['owner']} ADMIN OPTION on {', '.join(row['roles'])}"


async def _let_connect(owner: asyncpg.Connection) -> None:
    """What others may do in this database is not ours to change."""
    if not await owner.fetch(_SQL["cannot_connect"], list(ALL_ROLES)):
        return
    await owner.execute(_SQL["grant_connect"].replace(":roles", ", ".join(ALL_ROLES)))
    if without := [row["rolname"] for row in await owner.fetch(_SQL["cannot_connect"], list(ALL_ROLES))]:
        database = await owner.fetchval(_SQL["database"])
        raise Unavailable(
            f"{', '.join(without)} may not connect to this database: run as its owner: "
            f"GRANT CONNECT ON DATABASE {_quoted(database)} TO {', '.join(without)};"
        )


def _quoted(identifier: str) -> str:
    return '"' + identifier.replace('"', '""') + '"'


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
