"""The owner's login: `duro migrate` and a few other commands need it, workers do not.

Workers and most commands log in as duro's own roles, whose passwords are derived from the secret key. They
use only host, port and database of DURO_DATABASE_URL, so the URL on a worker's host needs no user.
"""

import asyncpg

from schema.errors import Unavailable
from schema.queries import load

_SQL = load("rights")


async def refuse_other_logins(connection: asyncpg.Connection, command: str) -> None:
    """Raises Unavailable unless this login has the rights of the owner of duro's objects."""
    for row in await connection.fetch(_SQL["owner_of_objects"]):
        if not row["may"]:
            raise Unavailable(
                f"{command} needs the login of the database's owner, {row['owner']}: "
                f"DURO_DATABASE_URL logs in as {row['login']}."
            )
