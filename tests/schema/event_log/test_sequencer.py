"""sequence_events() gives each committed event one position, whoever calls it, however often, wherever it fails."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

import asyncpg
import pytest

from schema.event_log import log
from schema.secret_box import derive_role_password
from tests.support.events import in_log, record, record_many, sequence_all
from tests.support.plans import explain
from tests.support.servers.connections import LIVE, SANDBOX, Connect


@pytest.fixture
async def producer(connect: Connect) -> asyncpg.Connection:
    return await connect()


@pytest.fixture
async def sequencer(connect: Connect) -> asyncpg.Connection:
    return await connect()


@asynccontextmanager
async def rolled_back(connection: asyncpg.Connection) -> AsyncIterator[None]:
    transaction = connection.transaction()
    await transaction.start()
    try:
        yield
    finally:
        await transaction.rollback()


async def test_positions_are_dense_and_rolled_back_rows_leave_no_gap(
    producer: asyncpg.Connection, sequencer: asyncpg.Connection, tenant: UUID
) -> None:
    committed = [await record(producer, tenant)]
    async with rolled_back(producer):
        await record_many(producer, tenant, 3)
    committed += await record_many(producer, tenant, 3)

    assert await log.sequence(sequencer, 1000) == 4
    assert await in_log(sequencer) == committed


async def test_the_log_has_only_events_of_kept_savepoints(
    producer: asyncpg.Connection, sequencer: asyncpg.Connection, tenant: UUID
) -> None:
    async with producer.transaction():
        async with rolled_back(producer):
            await record(producer, tenant)
        async with producer.transaction():
            kept = [await record(producer, tenant)]
            async with rolled_back(producer):
                await record(producer, tenant)
            await log.sequence(sequencer, 1000)
        kept += [await record(producer, tenant)]
        await log.sequence(sequencer, 1000)
    await sequence_all(sequencer)

    assert await in_log(sequencer) == kept


async def test_a_transaction_may_sequence_before_and_after_it_records(
    producer: asyncpg.Connection, sequencer: asyncpg.Connection, tenant: UUID
) -> None:
    """Its own events wait for its commit, since events recorded after the call belong to the same transaction."""
    async with producer.transaction():
        before = await record(producer, tenant)
        others = await record(
            sequencer, tenant
        )  # later by xid, so that the own one lies in the range to look at
        assert await log.sequence(producer, 1000) == 1
        after = await record(producer, tenant)
        assert await log.sequence(producer, 1000) == 0
        assert await in_log(producer) == [others]
    assert await log.sequence(sequencer, 1000) == 2

    assert await in_log(sequencer) == [others, before, after]


async def test_a_transaction_that_sequences_first_loses_no_own_events(
    producer: asyncpg.Connection, sequencer: asyncpg.Connection, tenant: UUID
) -> None:
    earlier = await record(sequencer, tenant)
    async with producer.transaction():
        assert await log.sequence(producer, 1000) == 1
        own = await record(producer, tenant)
    later = await record(sequencer, tenant)
    assert await log.sequence(sequencer, 1000) == 2

    assert await in_log(sequencer) == [earlier, own, later]


@pytest.mark.parametrize("isolation", ["repeatable_read", "serializable"])
async def test_a_transaction_with_one_snapshot_for_all_is_refused(
    producer: asyncpg.Connection, isolation: str
) -> None:
    with pytest.raises(asyncpg.InvalidTransactionStateError, match="READ COMMITTED"):
        async with producer.transaction(isolation=isolation):
            await log.sequence(producer, 1000)


@pytest.mark.parametrize("limit", [0, -1, None])
async def test_a_limit_below_one_is_refused(producer: asyncpg.Connection, limit: int | None) -> None:
    with pytest.raises(asyncpg.InvalidParameterValueError, match="batch_limit"):
        await producer.fetchval("SELECT sequence_events($1)", limit)


async def test_a_limit_never_splits_a_transaction(
    producer: asyncpg.Connection, sequencer: asyncpg.Connection, tenant: UUID
) -> None:
    committed = []
    for size in (1, 5, 1, 1):
        committed += await record_many(producer, tenant, size)

    assert [await log.sequence(sequencer, 2) for _ in range(4)] == [6, 2, 0, 0]
    assert await in_log(sequencer) == committed


async def test_a_limited_batch_loses_neither_earlier_nor_later_events(
    connect: Connect, producer: asyncpg.Connection, sequencer: asyncpg.Connection, tenant: UUID
) -> None:
    """Open and committed transactions alternate; each event is a batch, and the open ones commit in between."""
    first_open, second_open = await connect(), await connect()
    transactions = [first_open.transaction(), second_open.transaction()]
    await transactions[0].start()
    a = await record(first_open, tenant)
    b = await record(producer, tenant)
    await transactions[1].start()
    c = await record(second_open, tenant)
    d = await record(producer, tenant)
    e = await record(producer, tenant)

    assert await log.sequence(sequencer, 1) == 1
    assert await in_log(sequencer) == [b]
    await transactions[1].commit()
    assert await log.sequence(sequencer, 1) == 1
    assert await in_log(sequencer) == [b, c]
    await transactions[0].commit()
    assert await log.sequence(sequencer, 1) == 1
    assert await in_log(sequencer) == [b, c, a]
    await sequence_all(sequencer, limit=1)
    assert await in_log(sequencer) == [b, c, a, d, e]


async def test_a_second_session_does_not_wait_and_sequences_later(
    connect: Connect, producer: asyncpg.Connection, sequencer: asyncpg.Connection, tenant: UUID
) -> None:
    rival = await connect()
    first = await record(producer, tenant)
    async with sequencer.transaction():
        assert await log.sequence(sequencer, 1000) == 1
        second = await record(producer, tenant)
        assert await log.sequence(rival, 1000) is None
        assert await in_log(rival) == []
    assert await log.sequence(rival, 1000) == 1

    assert await in_log(rival) == [first, second]


async def test_a_mode_does_not_wait_for_the_other(connect: Connect, tenant: UUID) -> None:
    sandbox, live = await connect(SANDBOX), await connect(LIVE)
    await record(sandbox, tenant)
    event = await record(live, tenant)
    async with sandbox.transaction():
        await log.sequence(sandbox, 1000)
        assert await log.sequence(live, 1000) == 1
    assert await in_log(live) == [event]


@pytest.mark.parametrize("ending", ["rollback", "savepoint", "killed"])
async def test_a_batch_that_is_not_committed_is_sequenced_again(
    ending: str,
    connect: Connect,
    producer: asyncpg.Connection,
    superuser: asyncpg.Connection,
    sequencer: asyncpg.Connection,
    tenant: UUID,
) -> None:
    committed = await record_many(producer, tenant, 3)
    failing = await connect()
    if ending == "savepoint":
        async with failing.transaction():
            async with rolled_back(failing):
                assert await log.sequence(failing, 1000) == 3
            assert await log.sequence(sequencer, 1000) == 3
    elif ending == "rollback":
        async with rolled_back(failing):
            assert await log.sequence(failing, 1000) == 3
    else:
        await failing.execute("BEGIN")
        assert await log.sequence(failing, 1000) == 3
        await superuser.fetchval("SELECT pg_terminate_backend($1, 5000)", failing.get_server_pid())
    committed.append(await record(producer, tenant))
    await sequence_all(sequencer)

    assert await in_log(sequencer) == committed


async def test_a_poll_that_finds_nothing_writes_nothing(
    producer: asyncpg.Connection, sequencer: asyncpg.Connection, tenant: UUID
) -> None:
    """Not even a transaction id is drawn, however much is open or rolled back. A poll that a busy machine makes
    slow may remember where it got to; of a few in a row not all are.
    """
    await record(sequencer, tenant)
    await sequence_all(sequencer)
    async with producer.transaction():
        await record(producer, tenant)
        drawn = []
        for _ in range(5):
            async with sequencer.transaction():
                assert await log.sequence(sequencer, 1000) == 0
                drawn.append(await sequencer.fetchval("SELECT pg_current_xact_id_if_assigned()::text"))
    assert None in drawn


@pytest.mark.drill
async def test_a_large_open_transaction_is_read_once_not_by_every_poll(
    superuser: asyncpg.Connection, producer: asyncpg.Connection, sequencer: asyncpg.Connection, tenant: UUID
) -> None:
    """It began after the last batch, so its rows are in the range to read, and none is visible."""
    poll = "SELECT sequence_events()"
    quick = await explain(sequencer, poll)
    await superuser.execute("SET session_replication_role = replica")  # no look-up of tenant and type per row
    async with rolled_back(superuser):
        walk = quick
        while walk.milliseconds < 40 or walk.buffers < 1000:  # far more than the 5 ms that make it remember
            await superuser.execute(
                "INSERT INTO events (tenant_id, type, data) SELECT $1, 'invoice_created', '{}'"
                "  FROM generate_series(1, 50000)",
                tenant,
            )
            await producer.execute(
                "SELECT pg_current_xact_id()"
            )  # is over, and later: the open one is in range
            walk = await explain(sequencer, poll)
        assert await log.sequence(sequencer, 1000) == 0
        next_poll = await explain(sequencer, poll)
        event = await record(producer, tenant)
        assert await log.sequence(sequencer, 1000) == 1
    assert next_poll.buffers < 100
    assert await log.sequence(sequencer, 1000) == 0
    assert await in_log(sequencer) == [event]


SLOW = """
CREATE FUNCTION public.dawdle() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN PERFORM pg_sleep(0.3); RETURN NEW; END $$;
CREATE TRIGGER dawdle BEFORE INSERT ON sandbox.event_log FOR EACH ROW EXECUTE FUNCTION public.dawdle();
"""


async def test_a_batch_too_large_for_the_usual_timeout_is_sequenced(
    db_url: str, key: bytes, producer: asyncpg.Connection, owner: asyncpg.Connection, tenant: UUID
) -> None:
    event = await record(producer, tenant)
    await owner.execute(SLOW)
    async with asyncpg.create_pool(
        db_url,
        user=SANDBOX,
        password=derive_role_password(key, SANDBOX),
        server_settings={"search_path": "sandbox", "statement_timeout": "100ms"},
        min_size=1,
    ) as pool:
        with pytest.raises(asyncpg.QueryCanceledError):
            await log.sequence(pool, 1000)
        assert await log.sequence_large_batch(pool, 1000) == 1
    assert await in_log(producer) == [event]


async def test_the_sequencers_state_stays_one_row(
    producer: asyncpg.Connection, sequencer: asyncpg.Connection, tenant: UUID
) -> None:
    for _ in range(20):
        await record(producer, tenant)
        await log.sequence(sequencer, 1)
    rows = await sequencer.fetch("SELECT last_pos FROM sequencer")
    assert [row["last_pos"] for row in rows] == [20]
