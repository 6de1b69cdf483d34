"""Creates the roles. Each login role has rights in one schema only, and none is a member of another.

So SET ROLE gives no access to other schemas. Roles belong to the cluster, their rights to one database.

Passwords are derived from the secret key: any host with the database's URL and the key can log in as each
role, and no password has to be stored or distributed.
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
    """Returns the read-only role for the mode's views."""
    return f"{mode.role}_analyst"


def producer_of(mode: Mode) -> str:
    """Returns the role that a product's own role joins to append events."""
    return f"{mode.role}_producer"


ANALYST_ROLES: Final = tuple(analyst_of(mode) for mode in Mode)
PRODUCER_ROLES: Final = tuple(producer_of(mode) for mode in Mode)
ALL_ROLES: Final = (*LOGIN_ROLES, *ANALYST_ROLES, *PRODUCER_ROLES)

_SQL = load("roles")
_SCRAM_ITERATIONS = 4096  # PostgreSQL's default


async def refuse_foreign_roles(owner: asyncpg.Connection, key: bytes) -> bool:
    """Returns whether the roles are already marked with this key.

    Raises Unavailable when another installation in this cluster has set their passwords with another key.
    """
    marked = await owner.fetchval(_SQL["saved_key_check"], CORE_ROLE)
    if marked not in {None, key_check(key)}:
        raise Unavailable(
            "The roles duro_… of this cluster belong to a duro database with another secret key: set DURO_SECRET_KEY "
            "to that one, use another cluster, or drop those roles if that database is gone."
        )
    return marked is not None


async def refuse_missing_rights(owner: asyncpg.Connection) -> None:
    """Raises Unavailable, with the statement to run, when this login may not manage the roles.

    Since PostgreSQL 16, CREATEROLE is not enough for a role that another role created: it needs ADMIN OPTION.
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
            "another role of this cluster created: run as that role or as a superuser: "
            f"GRANT {', '.join(unmanaged)} TO {login} WITH ADMIN OPTION, INHERIT FALSE, SET FALSE;"
        )


async def ensure_roles(owner: asyncpg.Connection, key: bytes) -> list[str]:
    """Creates missing roles, corrects attributes, and sets the passwords derived from `key`.

    Returns one line per change. Raises Unavailable when the roles belong to another installation, or when
    this login may not manage them.
    """
    marked = await refuse_foreign_roles(owner, key)
    await refuse_missing_rights(owner)
    try:
        created = await _create_missing(owner)
        corrected = await _correct_attributes(owner)
        if granted := await _grant_admin_to_owner(owner):
            corrected.append(granted)
        for mode in Mode:
            limits = _SQL["limit_analyst"].replace(":role", analyst_of(mode)).replace(":schema", mode.schema)
            await _execute_with_retries(owner, limits)
        if not marked:
            note = _SQL["save_key_check"].replace(":role", CORE_ROLE).replace(":key_check", key_check(key))
            await _execute_with_retries(owner, note)
        for role in LOGIN_ROLES:
            await _set_password(owner, role, derive_role_password(key, role))
        await _grant_connect(owner)
    except asyncpg.InsufficientPrivilegeError as error:
        raise Unavailable(
            f"The role in DURO_DATABASE_URL may not manage roles ({error.message}): "
            "it must own the database and have CREATEROLE."
        ) from None
    return [*([f"created {', '.join(created)}"] if created else []), *corrected]


async def _create_missing(owner: asyncpg.Connection) -> list[str]:
    existing = {row["rolname"] for row in await owner.fetch(_SQL["attributes"], list(ALL_ROLES))}
    missing = [role for role in ALL_ROLES if role not in existing]
    for role in missing:
        login = "NOLOGIN" if role in PRODUCER_ROLES else "LOGIN"
        await owner.execute(_SQL["create_role"].replace(":role", role).replace(":login", login))
    return missing


async def _correct_attributes(owner: asyncpg.Connection) -> list[str]:
    """Removes cluster-wide attributes. The operator decides whether analysts and producers may log in."""
    lines = []
    for row in await owner.fetch(_SQL["attributes"], list(ALL_ROLES)):
        wrong = [*row["powers"]]
        if row["rolname"] in LOGIN_ROLES:
            wrong += ["LOGIN"] * (not row["rolcanlogin"])
            wrong += ["VALID UNTIL 'infinity'"] * row["expired"]
        if wrong:
            await _execute_with_retries(owner, f"ALTER ROLE {row['rolname']} {' '.join(wrong)}")
            lines.append(f"altered {row['rolname']} to {' '.join(wrong)}")
    return lines


async def _grant_admin_to_owner(login: asyncpg.Connection) -> str | None:
    """After a migration by a superuser, the owner must be able to do the next one."""
    (row,) = await login.fetch(_SQL["owner_without_admin"], list(ALL_ROLES))
    if not row["roles"]:
        return None
    await _execute_with_retries(
        login,
        f"GRANT {', '.join(row['roles'])} TO {_quoted(row['owner'])} WITH ADMIN OPTION, INHERIT FALSE, SET FALSE",
    )
    return f"gave {row['owner']} ADMIN OPTION on {', '.join(row['roles'])}"


async def _grant_connect(owner: asyncpg.Connection) -> None:
    """Grants CONNECT to the roles that lack it; rights of other roles do not change."""
    if not await owner.fetch(_SQL["roles_without_connect"], list(ALL_ROLES)):
        return
    await owner.execute(_SQL["grant_connect"].replace(":roles", ", ".join(ALL_ROLES)))
    if without := [
        row["rolname"] for row in await owner.fetch(_SQL["roles_without_connect"], list(ALL_ROLES))
    ]:
        database = await owner.fetchval(_SQL["database"])
        raise Unavailable(
            f"{', '.join(without)} may not connect to this database: run as its owner: "
            f"GRANT CONNECT ON DATABASE {_quoted(database)} TO {', '.join(without)};"
        )


def _quoted(identifier: str) -> str:
    return '"' + identifier.replace('"', '""') + '"'


async def set_analyst_password(owner: asyncpg.Connection, mode: Mode, password: str | None) -> None:
    """Sets the password of the mode's analyst; None removes it, and open sessions continue.

    Raises InsufficientPrivilegeError for a login that may not manage roles.
    """
    if password is None:
        await _execute_with_retries(owner, _SQL["remove_password"].replace(":role", analyst_of(mode)))
    else:
        await _set_password(owner, analyst_of(mode), password)


async def _set_password(owner: asyncpg.Connection, role: str, password: str) -> None:
    statement = _SQL["set_password"].replace(":role", role).replace(":verifier", scram_verifier(password))
    await _execute_with_retries(owner, statement)


async def _execute_with_retries(owner: asyncpg.Connection, statement: str) -> None:
    """Retries conflicts: roles belong to the cluster, and no lock covers several databases."""
    async for attempt in AsyncRetrying(
        retry=retry_if_exception_type((asyncpg.InternalServerError, asyncpg.UniqueViolationError)),
        wait=wait_random(0.01, 0.2),
        stop=stop_after_attempt(20),
        reraise=True,
    ):
        with attempt:
            await owner.execute(statement)


def scram_verifier(password: str, salt: bytes | None = None) -> str:
    """Returns what PostgreSQL stores for a password (RFC 5803): no statement contains the password."""
    salt = salt or os.urandom(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, _SCRAM_ITERATIONS)
    stored_key = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server_key = hmac.digest(salted, b"Server Key", "sha256")
    return (
        f"SCRAM-SHA-256${_SCRAM_ITERATIONS}:{b64encode(salt).decode()}"
        f"${b64encode(stored_key).decode()}:{b64encode(server_key).decode()}"
    )
