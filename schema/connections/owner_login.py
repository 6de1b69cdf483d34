"""The owner's login: `duro migrate` and a few other commands need it, workers do not.

Workers and most commands log in as duro's own roles, whose passwords the secret key yields. Of DURO_DATABASE_URL they
use the host, the port and the database alone, so the URL on a worker's host needs no user.
"""

import asyncpg

from schema.errors import Unavailable
from schema.queries import load

_SQL = load("rights")


async def refuse_other_logins(connection: asyncpg.Connection, command: str) -> None:
    """Raises Unavailable unless this login has the rights of our objects' owner."""
    for row in await connection.fetch(_SQL["owner_of_ours"]):
        if not row["may"]:
            raise Unavailable(
                f"{command} needs the login of the database's owner, {row['owner']}: "
                f"DURO_DATABASE_URL logs in as {row['login']}."
            )
