"""Which workers count as dead, and which of their sessions are ended; above all, which do not and are not."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta

import asyncpg
import pytest

from schema.deliveries import workers
from schema.installation.roles import CORE_ROLE
from tests.support.database_waits import until, wait_until_blocked
from tests.support.servers.connections import LIVE, SANDBOX, Connect, connections
from tests.support.servers.databases import Cluster

NAME = "a worker that froze"
AT_ONCE = timedelta(0)
IS_CLIENT_READ = "SELECT wait_event = 'ClientRead' FROM pg_stat_activity WHERE pid = $1"
MARK = 1685418607

Named = Callable[..., Awaitable[asyncpg.Connection]]


@pytest.fixture
def named(connect: Connect) -> Named:
    """A session with the worker's name."""

    async def make(role: str = SANDBOX, name: str = NAME) -> asyncpg.Connection:
        session = await connect(role)
        await session.execute(f"SET application_name = '{name}'")
        return session

    return make


async def ended(role: asyncpg.Connection, *waiting: asyncpg.Connection, name: str = NAME) -> int:
    """Ends the sessions of that name, once the server waits for these, and returns how many."""
    for session in waiting:
        await until(role, IS_CLIENT_READ, session.get_server_pid())
    return await workers.end_sessions(role, name, AT_ONCE)


async def test_a_session_in_a_transaction_that_waits_for_its_client_is_ended(
    named: Named, connect: Connect
) -> None:
    session, role = await named(), await connect(SANDBOX)
    await session.execute("BEGIN; SELECT 1")
    assert await ended(role, session) == 1


async def test_a_name_truncated_by_the_server_is_recognized(named: Named, connect: Connect) -> None:
    long = "w" * 80
    session, role = await named(name=long), await connect(SANDBOX)
    await session.execute("BEGIN; SELECT 1")
    assert await ended(role, session, name=long) == 1


async def test_a_session_outside_of_a_transaction_is_not_ended(named: Named, connect: Connect) -> None:
    session, role = await named(), await connect(SANDBOX)
    assert await ended(role, session) == 0
    assert await session.fetchval("SELECT 1") == 1


async def test_a_session_that_waits_for_a_lock_is_not_ended(named: Named, connect: Connect) -> None:
    """It is not idle in a transaction: it may belong to a live worker with the same name."""
    session, role, other = await named(), await connect(SANDBOX), await connect(SANDBOX)
    lock = "SELECT FROM consumers WHERE name = 'fanout' FOR UPDATE"
    await other.execute(f"BEGIN; {lock}")
    waiting = asyncio.create_task(session.execute(f"BEGIN; {lock}"))
    await wait_until_blocked(role, session)
    assert await ended(role) == 0
    await other.execute("COMMIT")
    await waiting


@pytest.fixture
async def elsewhere(cluster: Cluster, template: str) -> AsyncIterator[Connect]:
    """Connections to another database of the cluster."""
    async with cluster.fresh_database(template) as name, connections(cluster, name) as connect:
        yield connect


async def test_sessions_of_other_roles_and_databases_are_not_ended(
    named: Named, connect: Connect, elsewhere: Connect
) -> None:
    role = await connect(SANDBOX)
    of_other_role, of_other_database = await named(LIVE), await elsewhere(SANDBOX)
    await of_other_database.execute(f"SET application_name = '{NAME}'")
    others = (of_other_role, of_other_database)
    for session in others:
        await session.execute("BEGIN; SELECT 1")
    assert await ended(role, of_other_database) == 0
    for session in others:
        assert await session.fetchval("SELECT 1") == 1


async def marked(connect: Connect) -> asyncpg.Connection:
    session = await connect(CORE_ROLE)
    await workers.mark(session)
    return session


async def taken_for_dead(observer: asyncpg.Connection, worker: int) -> bool:
    """The query and the lock agree."""
    absent = await workers.absent(observer, 0)
    locked = await workers.lock_absent(observer, worker)
    assert (worker in absent) == (locked is not None)
    return locked is not None


async def test_a_worker_with_a_marked_session_is_alive(connect: Connect) -> None:
    session, observer = await marked(connect), await connect(CORE_ROLE)
    worker, pid = await workers.register(session, NAME), session.get_server_pid()
    assert not await taken_for_dead(observer, worker)
    await session.close()
    await until(observer, "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1)", pid)
    assert await taken_for_dead(observer, worker)


async def test_a_reused_process_id_is_not_the_worker(connect: Connect) -> None:
    session, observer = await marked(connect), await connect(CORE_ROLE)
    worker = await workers.register(session, NAME)
    await observer.execute("UPDATE workers SET session_start = session_start - interval '1 us'")
    assert await taken_for_dead(observer, worker)


@pytest.mark.parametrize(
    "lock",
    [
        "SELECT 1",
        f"SELECT pg_advisory_lock_shared({MARK + 1}, 7)",
        f"SELECT pg_advisory_lock({MARK}::bigint << 32)",
    ],
    ids=["none", "another number", "another kind"],
)
async def test_an_unmarked_session_is_not_a_workers(connect: Connect, lock: str) -> None:
    """A pooler keeps the session for the next client, which may take any advisory lock."""
    session, observer = await connect(CORE_ROLE), await connect(CORE_ROLE)
    worker = await workers.register(session, NAME)
    await session.execute(lock)
    assert await taken_for_dead(observer, worker)


async def test_a_worker_does_not_declare_itself_dead(connect: Connect) -> None:
    session = await connect(CORE_ROLE)
    worker = await workers.register(session, NAME)
    assert await workers.absent(session, worker) == []
