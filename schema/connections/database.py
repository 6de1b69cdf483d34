"""Opens the connection pools. `core` and `data(mode)` log in as roles whose rights are limited to their
schema.

So a query cannot reach another mode, even with a fully qualified name.

    async with Database.open(url, key) as database:
        await database.data(Mode.TEST).fetch("SELECT … FROM events …")
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import asyncpg

from schema.connections.connect_errors import connection_errors
from schema.connections.connecting import Login, SessionOpener, owner_login
from schema.connections.connection_budget import ConnectionBudget
from schema.connections.database_target import DatabaseTarget
from schema.connections.database_url import parse_database_url
from schema.connections.session_settings import PINNED
from schema.errors import InvalidInput, Unavailable
from schema.installation import migrate
from schema.installation.preconditions import check_server
from schema.modes import Mode
from schema.queries import load
from schema.rights.repair import roles_lacking_rights
from schema.secret_box import derive_role_password
from schema.secret_repr import HidesSecrets

Connection: TypeAlias = "asyncpg.Connection | asyncpg.pool.PoolConnectionProxy"
Pool: TypeAlias = "asyncpg.Pool"
Executor: TypeAlias = "Connection | Pool"  # for a single statement

CONNECT_TIMEOUT_S = 10.0
# Normal statements take milliseconds. The server cancels one that takes this long; that is the statement's
# fault. If even the cancel does not arrive, the client's timeout ends the connection; that is an outage.
STATEMENT_TIMEOUT = "50s"
# Shorter than the statement timeout, so that waiting for a lock has its own error. Longer than the 10 s after
# which the server ends an idle session that holds a lock.
LOCK_TIMEOUT = "15s"
COMMAND_TIMEOUT_S = 60.0

# A worker that disappears (power, network) or freezes must not keep its session's locks for more than about
# 10 s. Keepalives detect a silent peer while no data is in flight. The user timeout detects one that does not
# acknowledge or read data. The idle timeout detects a frozen process whose host still responds, with an open
# transaction and its locks.
_LOST_PEER_LIMITS = {
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "2",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "10000",
    "idle_in_transaction_session_timeout": "10s",
}

# Every statement reads a few rows through an index and is planned once. By default the planner would plan
# thirteen partitions each time (12 ms to read one event) or, without knowing the limits, choose parallel
# scans (5 ms). Restricted to indexes it takes 0.2 ms at any table size. Bitmap scans read the whole index
# range: without statistics, a claim of a hundred due rows would read and sort all due rows.
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
class Database(HidesSecrets):
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
        """Returns the pool for background work: the same rights, separate connections, so that deliveries
        never wait.
        """
        return self._background.get(mode, self._data[mode])

    def pools(self) -> dict[str, list[Pool]]:
        """Returns all pools by schema."""
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

        Not `durable`: commits are confirmed before they are on disk, so a power failure may lose the last
        transactions. Only for work that can be repeated, such as a simulation. `budget` replaces
        `max_per_role`.
        """
        target = target_of(url)
        budget = budget or ConnectionBudget(core=max_per_role, data=max_per_role, background=0)
        async with AsyncExitStack() as opened:

            async def pool(schema: str, most: int) -> Pool:
                settings = _pinned(schema) | ({} if durable else {"synchronous_commit": "off"})
                opener = SessionOpener(
                    target, _login(key, schema), name, settings, command_timeout=COMMAND_TIMEOUT_S
                )
                created = await _pool(opener, most)
                opened.callback(created.terminate)
                with connection_errors(target, own_role=True):
                    await created.release(await created.acquire())
                return created

            core = await pool("core", budget.core)
            data = {mode: await pool(mode.schema, budget.data) for mode in Mode}
            background = {}
            if budget.background:
                background = {mode: await pool(mode.schema, budget.background) for mode in Mode}
            database = cls(url, target, key, core, data, background)
            with connection_errors(target):
                await _check(database)
            yield database


async def fetchval_with_timeout(pool: Pool, seconds: float, statement: str, *arguments: object) -> Any:
    """Runs one statement in its own transaction and time limit, such as a large batch after a restore."""
    async with pool.acquire() as tx, tx.transaction():
        await tx.execute("SET LOCAL statement_timeout = 0")
        return await tx.fetchval(statement, *arguments, timeout=seconds)


async def connect_as_owner(url: str) -> asyncpg.Connection:
    """Opens a session as the database's owner (see owner_login.py). Raises Unavailable with a sentence."""
    target = target_of(url)
    settings = {**PINNED, "search_path": "pg_catalog, pg_temp"}
    with connection_errors(target):
        try:
            return await SessionOpener(target, owner_login(target), "duro owner", settings).open()
        except (asyncpg.InvalidPasswordError, asyncpg.InvalidAuthorizationSpecificationError):
            if target.user is not None:
                raise
            raise Unavailable(
                "This command needs the login of the database's owner, and DURO_DATABASE_URL names no user: "
                "write postgresql://owner:password@host:5432/database (duro work needs no user)."
            ) from None


async def connect_to_core(database: Database, name: str, *, silent_for: str = "0") -> asyncpg.Connection:
    """Opens a connection outside the pools, for session-level locks.

    The server ends it after it is idle for `silent_for`, an interval in PostgreSQL's form; "0" means no
    limit.
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
    """Opens a session with another login, such as a producer's. Raises the driver's errors."""
    return await SessionOpener(target, login, name, settings, command_timeout).open()


def target_of(url: str) -> DatabaseTarget:
    """Parses DURO_DATABASE_URL. Raises InvalidInput."""
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
        **_LOST_PEER_LIMITS,
        **_PLANNING,
    }


async def _pool(opener: SessionOpener, max_size: int) -> Pool:
    async def connect(_dsn: str | None, **of_pool: Any) -> asyncpg.Connection:
        return await opener.open(**of_pool)

    # The stubs give `connect` a type that only the driver's own function has.
    pool: Pool = await asyncpg.create_pool(
        connect=connect,  # type: ignore[call-overload]
        # With 1 the pool would reopen a lost connection by itself, and log a traceback each time that it cannot.
        min_size=0,
        max_size=max_size,
        max_inactive_connection_lifetime=60,
        reset=_no_reset,
    )
    return pool


async def _no_reset(_connection: Any) -> None:
    """Sessions keep no state between transactions, so no reset is needed. This saves a round trip per use."""


async def _check(database: Database) -> None:
    for mode in Mode:
        async with database.data(mode).acquire() as connection:
            await check_server(connection)
    async with database.core.acquire() as connection:
        await check_server(connection)
        rows = await connection.fetch(load("migrations")["applied"])
        lost = await roles_lacking_rights(connection)
    if missing := migrate.pending_migrations({(row["schema"], row["name"]): row["sha256"] for row in rows}):
        raise Unavailable(
            f"The database lacks {len(missing)} migration(s) of this version: run duro migrate."
        )
    if lost:
        raise Unavailable(
            "The roles of duro lack rights in this database: run duro migrate with the URL of the database's owner, "
            f"which repairs {lost[0]}{f' and more ({len(lost)} roles and schemas)' if len(lost) > 1 else ''}."
        )
