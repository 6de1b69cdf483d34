"""Checks a database before duro uses or changes it.

The checks only read. A failed check raises Unavailable with what to do. Settings that a session can change
are pinned instead (schema/connections/session_settings.py). Collation is not checked: pages are ordered by
times and ids, and text is only compared for equality.
"""

from typing import Final, TypeAlias

import asyncpg

from schema.errors import Unavailable
from schema.queries import load

Connection: TypeAlias = "asyncpg.Connection | asyncpg.pool.PoolConnectionProxy"

MINIMUM_MAJOR: Final = 16
_SQL: Final = load("preconditions")


async def check_server(connection: Connection) -> None:
    """Checks the version, that writes are accepted, the encoding, and the setting that cannot be pinned."""
    check_version(connection)
    (found,) = await connection.fetch(_SQL["server"])
    if found["standby"]:
        raise Unavailable(
            "The database is a read-only standby: name the primary in DURO_DATABASE_URL, or promote this one."
        )
    if found["encoding"] != "UTF8":
        raise Unavailable(
            f"The database has the encoding {found['encoding']}, and duro needs UTF8. "
            f"Create another one with {found['create']}; and name it in DURO_DATABASE_URL."
        )
    if found["template"]:
        raise Unavailable(
            "The database is a template, and every new database would be a copy of it: "
            "create one for duro, and name it in DURO_DATABASE_URL."
        )
    if found["replication_role"] != "origin":
        raise Unavailable(
            f"session_replication_role is {found['replication_role']} for {found['login']}, so foreign keys are not "
            f"checked. As a superuser, run ALTER ROLE {found['login']} RESET session_replication_role; and "
            f"ALTER DATABASE {found['database']} RESET session_replication_role; until it is origin."
        )


def check_version(connection: Connection) -> None:
    version = connection.get_server_version()
    if version.major < MINIMUM_MAJOR:
        raise Unavailable(
            f"The database is PostgreSQL {version.major}; "
            f"duro needs PostgreSQL {MINIMUM_MAJOR} or newer: upgrade it, or use another database."
        )
