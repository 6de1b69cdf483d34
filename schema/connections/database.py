"""The only ways to a connection. `core` and `data(mode)` log in as roles whose rights end at their schema, so a
query cannot reach another mode even when it names it in full.

    async with Database.open(url, key) as database:
        await database.data(Mode.TEST).fetch("SELECT … FROM events …")
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import asyncpg

from schema.connections.connect_errors import sentences
from schema.connections.connecting import Login, Opener, owner_login
from schema.connections.connection_budget import ConnectionBudget
from schema.connections.database_target import DatabaseTarget
from schema.connections.database_url import parse_database_url
from schema.connections.session_settings import PINNED
from schema.errors import InvalidInput, Unavailable
from schema.installation import migrate
from schema.installation.preconditions import check_server
from schema.modes import Mode
from schema.queries import load
from schema.rights.repair import lacking
from schema.secret_box import derive_role_password

Connection: TypeAlias = "asyncpg.Connection | asyncpg.pool.PoolConnectionProxy"
Pool: TypeAlias = "asyncpg.Pool"
Executor: TypeAlias = "Connection | Pool"  # for what is one statement

CONNECT_TIMEOUT_S = 10.0
# No statement of ours takes seconds. The server ends one that does, and the fault is the statement's; when nothing
# is heard even after that, the connection is dead, and that is an outage.
STATEMENT_TIMEOUT = "50s"
# Waiting for a lock ends well before, so that it has an error of its own: what ran out of time did so by itself. It is
# longer than the 10 s after which the server ends a session that stands still with a lock.
LOCK_TIMEOUT = "15s"
COMMAND_TIMEOUT_S = 60.0

# A peer that vanishes (power, network) or freezes without a word must not keep what its session holds for longer
# than about ten seconds. Each of these sees what the others cannot: keepalives a peer that is silent while nothing is
# on its way to it, the user timeout one that does not acknowledge or take what is, and the last one, which needs
# no network, a process that stands still although its host answers, with a lock (a cursor's) in its hand.
_VANISHED = {
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "2",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "10000",
    "idle_in_transaction_session_timeout": "10s",
}

# Every statement of ours walks an index, a few rows at a time, and is planned once. Left to itself the planner
# plans thirteen partitions anew each time (12 ms for reading one event), or, not knowing how small the limits
# are, settles on parallel scans (5 ms); held to indexes it takes 0.2 ms, whatever the tables' sizes. Bitmaps are an
# index read to its end: without statistics, a hundred of what is due would be taken from all that is due, sorted.
_PLANNING = {
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "max_parallel_workers_per_gather": "0",
    "jit": "off",
}


@dataclass(frozen=True)
class Database:
    url: str = field(repr=False)
    target: DatabaseTarget
    key: bytes = field(repr=False)
    core: Pool
    _data: dict[Mode, Pool]
    _background: dict[Mode, Pool]

    def __repr__(self) -> str:
        return f"Database({self.target})"

    def data(self, mode: Mode) -> Pool:
        return self._data[mode]

    def background(self, mode: Mode) -> Pool:
        """For what may wait, so that deliveries never wait for it: the same rights, and connections of its own."""
        return self._background.get(mode, self._data[mode])

    def pools(self) -> dict[str, list[Pool]]:
        """All of them, by schema."""
        found = {mode.schema: [self._data[mode]] for mode in Mode}
        for mode, pool in self._background.items():
            found[mode.schema].append(pool)
        return {"core": [self.core], **found}

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        url: str,
        key: bytes,
        *,
        name: str = "duro",
        max_per_role: int = 6,
        budget: ConnectionBudget | None = None,
        durable: bool = True,
    ) -> AsyncIterator["Database"]:
        """Raises Unavailable when the database cannot be reached, is too old, or is not migrated.

        Not `durable`: commits are confirmed before they are on disk. For what can be done again, such as a simulation; a
        power cut may take the last moments of it, in whole transactions. `budget`: in place of so many per role.
        """
        target = target_of(url)
        budget = budget or ConnectionBudget(core=max_per_role, data=max_per_role, background=0)
        async with AsyncExitStack() as opened:

            async def pool(schema: str, most: int) -> Pool:
                settings = _pinned(schema) | ({} if durable else {"synchronous_commit": "off"})
                opener = Opener(
                    target, _login(key, schema), name, settings, command_timeout=COMMAND_TIMEOUT_S
                )
                with sentences(target, own_role=True):
                    made = await _pool(opener, most)
                opened.callback(made.terminate)
                return made

            core = await pool("core", budget.core)
            data = {mode: await pool(mode.schema, budget.data) for mode in Mode}
            background = {}
            if budget.background:
                background = {mode: await pool(mode.schema, budget.background) for mode in Mode}
            database = cls(url, target, key, core, data, background)
            with sentences(target):
                await _check(database)
            yield database


async def fetchval_with_timeout(pool: Pool, seconds: float, statement: str, *arguments: object) -> Any:
    """In a transaction of its own, without the usual limit of time, for what a restore makes one great batch."""
    async with pool.acquire() as tx, tx.transaction():
        await tx.execute("SET LOCAL statement_timeout = 0")
        return await tx.fetchval(statement, *arguments, timeout=seconds)


async def connect_as_owner(url: str) -> asyncpg.Connection:
    """For the few commands that need it: see schema/connections/owner_login.py. Raises Unavailable with a sentence when it cannot."""
    target = target_of(url)
    settings = {**PINNED, "search_path": "pg_catalog, pg_temp"}
    with sentences(target):
        try:
            return await Opener(target, owner_login(target), "duro owner", settings).open()
        except (asyncpg.InvalidPasswordError, asyncpg.InvalidAuthorizationSpecificationError):
            if target.user is not None:
                raise
            raise Unavailable(
                "This command needs the login of the database's owner, and DURO_DATABASE_URL names no user: "
                "write postgresql://owner:password@host:5432/database (duro work needs no user)."
            ) from None


async def connect_to_core(database: Database, name: str, *, silent_for: str = "0") -> asyncpg.Connection:
    """A connection outside the pool, for what a session itself holds. The server ends it when nothing is asked of it
    for as long as `silent_for`, a time as PostgreSQL writes it; 0 is for ever.
    """
    settings = {**_pinned("core"), "idle_session_timeout": silent_for}
    login = _login(database.key, "core")
    return await connect_with(database.target, login, name, settings, command_timeout=COMMAND_TIMEOUT_S)


async def connect_with(
    target: DatabaseTarget,
    login: Login,
    name: str,
    settings: Mapping[str, str],
    *,
    command_timeout: float | None = None,
) -> asyncpg.Connection:
    """For sessions of another kind, such as a producer's. Raises the driver's errors."""
    return await Opener(target, login, name, settings, command_timeout).open()


def target_of(url: str) -> DatabaseTarget:
    """Raises InvalidInput."""
    try:
        return parse_database_url(url)
    except InvalidInput as error:
        raise InvalidInput(f"DURO_DATABASE_URL: {error}") from None


def _login(key: bytes, schema: str) -> Login:
    role = f"duro_{schema}"
    return Login(role, derive_role_password(key, role))


def _pinned(schema: str) -> dict[str, str]:
    return {
        **PINNED,
        "search_path": schema,
        "statement_timeout": STATEMENT_TIMEOUT,
        "lock_timeout": LOCK_TIMEOUT,
        **_VANISHED,
        **_PLANNING,
    }


async def _pool(opener: Opener, max_size: int) -> Pool:
    async def connect(_dsn: str | None, **of_pool: Any) -> asyncpg.Connection:
        return await opener.open(**of_pool)

    # The stubs' type for `connect` is a class that only the driver's own function has.
    pool: Pool = await asyncpg.create_pool(
        connect=connect,  # type: ignore[call-overload]
        min_size=1,
        max_size=max_size,
        max_inactive_connection_lifetime=60,
        reset=_keep_as_it_is,
    )
    return pool


async def _keep_as_it_is(_connection: Any) -> None:
    """Nothing of ours outlives its transaction, so there is nothing to reset, and each use saves a round trip."""


async def _check(database: Database) -> None:
    for mode in Mode:
        async with database.data(mode).acquire() as connection:
            await check_server(connection)
    async with database.core.acquire() as connection:
        await check_server(connection)
        rows = await connection.fetch(load("migrations")["applied"])
        lost = await lacking(connection)
    if missing := migrate.missing({(row["schema"], row["name"]): row["sha256"] for row in rows}):
        raise Unavailable(
            f"The database lacks {len(missing)} migration(s) of this version: run duro migrate."
        )
    if lost:
        raise Unavailable(
            "The roles of duro lack rights in this database: run duro migrate with the URL of the database's owner, "
            f"which repairs {lost[0]}{f' and more ({len(lost)} roles and schemas)' if len(lost) > 1 else ''}."
        )
