"""What must be true of a database before duro uses or changes it.

Everything here only reads. What fails is raised as Unavailable, with what to do. What a session can set for itself is not checked but
pinned: see schema/connections/session_settings.py. Collation is not checked either: pages go by times and ids, and text is compared for equality alone.
"""

from typing import Final, TypeAlias

import asyncpg

from schema.errors import Unavailable
from schema.queries import load

Connection: TypeAlias = "asyncpg.Connection | asyncpg.pool.PoolConnectionProxy"

MINIMUM_MAJOR: Final = 16
_SQL: Final = load("preconditions")


async def check_server(connection: Connection) -> None:
    """For every login: the version, that it accepts writes, its encoding, and what cannot be pinned."""
    check_version(connection)
    (found,) = await connection.fetch(_SQL["server"])
    if found["standby"]:
        raise Unavailable(
            "The database is read-only (a standby): name the primary in DURO_DATABASE_URL, or promote this one."
        )
    if found["encoding"] != "UTF8":
        raise Unavailable(
            f"The database has the encoding {found['encoding']}, and duro needs UTF8. "
            f"Create another one with {found['create']}; and name it in DURO_DATABASE_URL."
        )
    if found["template"]:
        raise Unavailable(
            "The database is a template, so that every new database would be a copy of it: "
            "create one for duro, and name it in DURO_DATABASE_URL."
        )
    if found["replication_role"] != "origin":
        raise Unavailable(
            f"session_replication_role is {found['replication_role']} for {found['login']}, so that foreign keys are not "
            f"checked. As a superuser, run ALTER ROLE {found['login']} RESET session_replication_role; and "
            f"ALTER DATABASE {found['database']} RESET session_replication_role; until it is origin again."
        )


def check_version(connection: Connection) -> None:
    version = connection.get_server_version()
    if version.major < MINIMUM_MAJOR:
        raise Unavailable(
            f"The database is PostgreSQL {version.major}; "
            f"duro needs PostgreSQL {MINIMUM_MAJOR} or newer: upgrade it or point DURO_DATABASE_URL elsewhere."
        )
