"""fold_attempts() counts each attempt in its endpoint's hour once, whoever folds, whenever it commits, whatever fails."""

import asyncio
import math
from datetime import UTC, datetime, timedelta
from random import Random
from uuid import UUID

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from consumers.attempt_folding import AttemptFolder
from schema.connections.database import Database, Pool
from schema.deliveries import delivery_hours
from schema.ids import ENDPOINT, format_id, new_id
from schema.modes import Mode
from schema.queries import load
from tests.support.attempts import OUTCOMES, differences, record_attempts
from tests.support.engine import running
from tests.support.plans import explain
from tests.support.servers.connections import Connect
from tests.support.servers.duro_process import eventually

Whose = list[tuple[UUID, UUID]]


@pytest.fixture
def whose(tenant: UUID) -> Whose:
    return [(tenant, new_id()) for _ in range(3)]


@pytest.fixture
def data(database: Database) -> Pool:
    return database.data(Mode.TEST)


async def fold_all(data: Pool, limit: int = 1000) -> int:
    total = 0
    while count := await delivery_hours.fold(data, limit):
        total += count
    return total


async def test_every_attempt_is_in_its_hour_by_outcome(
    data: Pool, owner: asyncpg.Connection, whose: Whose
) -> None:
    began = datetime.now(UTC)
    for hours_ago in (0, 1, 30):
        await record_attempts(data, whose, 100, at=began - timedelta(hours=hours_ago))
    assert await fold_all(data) == 300
    assert await differences(owner) == []
    assert await owner.fetchval("SELECT count(*) FROM delivery_hours") == 9


async def test_a_limit_cuts_at_whole_transactions(
    data: Pool, owner: asyncpg.Connection, whose: Whose
) -> None:
    for size in (3, 5, 2):
        await record_attempts(data, whose, size)
    assert [await delivery_hours.fold(data, 4) for _ in range(3)] == [8, 2, 0]
    assert await differences(owner) == []


async def test_a_limit_that_is_reached_exactly_forgets_nothing(
    data: Pool, owner: asyncpg.Connection, whose: Whose
) -> None:
    for _ in range(3):
        await record_attempts(data, whose, 2)
    assert [await delivery_hours.fold(data, 2) for _ in range(4)] == [2, 2, 2, 0]
    assert await differences(owner) == []


@pytest.mark.parametrize(
    ("ms", "bucket"), [(0.99, 0), (1, 1), (1.18, 1), (1.19, 2), (65535, 64), (65536, 65), (65537, 65)]
)
async def test_a_latency_is_in_the_bucket_that_begins_with_it(
    owner: asyncpg.Connection, ms: float, bucket: int
) -> None:
    assert await owner.fetchval("SELECT latency_bucket($1::real)", ms) == bucket


async def test_a_late_commit_is_counted_later_and_once(
    data: Pool, connect: Connect, owner: asyncpg.Connection, whose: Whose
) -> None:
    late, never = await connect(), await connect()
    await late.execute("BEGIN")
    await never.execute("BEGIN")
    await record_attempts(late, whose, 5)
    await record_attempts(never, whose, 7)
    await record_attempts(data, whose, 2)
    assert await fold_all(data, limit=1) == 2
    await late.execute("COMMIT")
    await record_attempts(data, whose, 1)
    await never.execute("ROLLBACK")
    assert await fold_all(data, limit=1) == 6
    assert await fold_all(data) == 0
    assert await differences(owner) == []


async def test_attempts_recorded_after_a_fold_in_one_transaction_are_counted(
    data: Pool, owner: asyncpg.Connection, whose: Whose
) -> None:
    async with data.acquire() as tx, tx.transaction():
        await record_attempts(tx, whose, 1)
        await record_attempts(data, whose, 1)  # one that began later and is over
        assert await delivery_hours.fold(tx, 100) == 1
        await record_attempts(tx, whose, 1)
    assert await fold_all(data) == 2
    assert await differences(owner) == []


async def test_a_rolled_back_fold_counts_nothing(data: Pool, owner: asyncpg.Connection, whose: Whose) -> None:
    await record_attempts(data, whose, 4)
    async with data.acquire() as tx:
        undone = tx.transaction()
        await undone.start()
        assert await delivery_hours.fold(tx, 100) == 4
        await undone.rollback()
    assert await fold_all(data) == 4
    assert await differences(owner) == []


async def test_one_session_folds_at_a_time_and_the_others_do_not_wait(
    data: Pool, connect: Connect, whose: Whose
) -> None:
    first = await connect()
    await record_attempts(data, whose, 1)
    await first.execute("BEGIN")
    assert await delivery_hours.fold(first, 100) == 1
    assert await delivery_hours.fold(data, 100) is None
    await first.execute("COMMIT")
    assert await delivery_hours.fold(data, 100) == 0


async def test_a_poll_that_finds_nothing_writes_nothing(data: Pool, whose: Whose) -> None:
    await record_attempts(data, whose, 1)
    await fold_all(data)
    before = await data.fetchval("SELECT pg_snapshot_xmax(pg_current_snapshot())::text")
    assert await fold_all(data) == 0
    assert await data.fetchval("SELECT pg_snapshot_xmax(pg_current_snapshot())::text") == before


async def test_a_poll_reads_only_new_attempts(data: Pool, whose: Whose) -> None:
    for _ in range(5):
        await record_attempts(data, whose, 2000)
    await fold_all(data)
    async with data.acquire() as connection:
        for new, pages in ((0, 100), (10, 300)):
            if new:
                await record_attempts(data, whose, new)
            plan = await explain(connection, load("delivery_hours")["fold"], 1000)
            assert plan.buffers <= pages


async def test_concurrent_writers_and_folders_lose_and_repeat_nothing(
    data: Pool, connect: Connect, owner: asyncpg.Connection, whose: Whose
) -> None:
    chance, done = Random(1), asyncio.Event()

    async def write(connection: asyncpg.Connection) -> None:
        for _ in range(40):
            transaction = connection.transaction()
            await transaction.start()
            await record_attempts(connection, whose, chance.randint(1, 5))
            await asyncio.sleep(0)
            await (transaction.rollback() if chance.random() < 0.2 else transaction.commit())

    async def fold(connection: asyncpg.Connection) -> None:
        while not done.is_set():
            await delivery_hours.fold(connection, 7)

    folding = [asyncio.create_task(fold(await connect())) for _ in range(2)]
    await asyncio.gather(*[write(await connect()) for _ in range(4)])
    done.set()
    await asyncio.gather(*folding)
    await fold_all(data)
    assert await differences(owner) == []


@pytest.fixture
async def restored(owner: asyncpg.Connection, data: Pool, whose: Whose) -> int:
    """A database whose rows were all written by a restore, of a cluster that was far ahead; some had not been folded. How many
    attempts there are."""
    await record_attempts(data, whose, 20)
    await fold_all(data)
    await record_attempts(data, whose, 10)
    await owner.execute(
        "ALTER TABLE webhook_attempts DISABLE TRIGGER USER;"
        "CREATE TEMPORARY TABLE kept AS SELECT * FROM webhook_attempts;"
        "UPDATE kept SET xid = (xid::text::bigint + 5)::text::xid8;"
        "ALTER TABLE kept ALTER created_at SET NOT NULL"
    )
    for row in await owner.fetch(
        "SELECT inhrelid::regclass AS part FROM pg_inherits WHERE inhparent = 'webhook_attempts'::regclass"
    ):
        await owner.execute(f"ALTER TABLE {row['part']} DISABLE TRIGGER USER; DELETE FROM {row['part']}")
    await owner.execute(
        "INSERT INTO webhook_attempts SELECT * FROM kept;"
        "UPDATE attempt_folds SET xid = (xid::text::bigint + 100000)::text::xid8, done = '100000:100000:'"
    )
    return 30


async def test_after_a_restore_existing_attempts_are_recounted(
    restored: int, data: Pool, owner: asyncpg.Connection, whose: Whose
) -> None:
    """The restored cluster assigns the old xids again, and nothing is counted for that."""
    dropped = datetime.now(UTC) - timedelta(days=200)
    await owner.execute(
        "INSERT INTO delivery_hours SELECT tenant_id, endpoint_id, date_trunc('hour', $1::timestamptz), attempts, ok, http_status,"
        " timeout, dns, connect, tls, protocol, blocked, latency FROM delivery_hours LIMIT 1",
        dropped,
    )
    before = "SELECT * FROM delivery_hours WHERE hour < now() - interval '100 days'"
    long_ago = await owner.fetch(before)
    assert await delivery_hours.fold(data, 1) == restored
    for _ in range(12):
        await record_attempts(data, whose, 2)
    assert await fold_all(data) == 24
    assert await fold_all(data) == 0
    assert [row["attempts"] for row in await differences(owner)] == [long_ago[0]["attempts"]]
    assert await owner.fetch(before) == long_ago


async def test_dropped_attempts_stay_counted_in_their_hour(
    restored: int, data: Pool, owner: asyncpg.Connection
) -> None:
    await owner.execute("UPDATE delivery_hours SET attempts = attempts + 1000, ok = ok + 1000")
    kept = await owner.fetch("SELECT * FROM delivery_hours ORDER BY endpoint_id")
    assert await delivery_hours.fold(data, 1) == restored
    assert await owner.fetch("SELECT * FROM delivery_hours ORDER BY endpoint_id") == kept


async def test_the_views_show_the_outcomes_and_when_they_are_complete(
    data: Pool, owner: asyncpg.Connection, tenant: UUID
) -> None:
    endpoint = new_id()
    now = datetime.now(UTC)
    for outcome in OUTCOMES:
        await record_attempts(data, [(tenant, endpoint)], 2, outcome=outcome, ms=100, at=now)
    assert await data.fetch("SELECT * FROM delivery_health") == []
    await fold_all(data)
    (day,) = await data.fetch("SELECT * FROM delivery_health")
    (hour,) = await data.fetch("SELECT * FROM hourly_delivery_health")
    for row in (day, hour):
        assert row["endpoint_id"] == format_id(ENDPOINT, endpoint)
        assert (row["attempts"], row["succeeded"], float(row["success_rate"])) == (16, 2, 0.125)
        assert all(row[outcome] == 2 for outcome in OUTCOMES if outcome != "ok")
        assert row["as_of"] >= now
    await record_attempts(data, [(tenant, endpoint)], 1, outcome="ok", ms=0, at=now - timedelta(minutes=5))
    assert await data.fetchval("SELECT as_of FROM delivery_health") == now - timedelta(minutes=5)


async def test_latency_is_right_within_a_fifth_and_hours_add_up(data: Pool, tenant: UUID) -> None:
    endpoint, chance = new_id(), Random(3)
    took = sorted(math.exp(chance.gauss(4, 1.5)) for _ in range(400))
    now = datetime.now(UTC)
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=1)
    for number, ms in enumerate(took):
        at = midnight + timedelta(hours=number % 20)
        await record_attempts(data, [(tenant, endpoint)], 1, outcome="ok", ms=ms, at=at)
    await fold_all(data)
    (day,) = await data.fetch("SELECT * FROM delivery_health")
    together = await data.fetchrow(
        "SELECT count(*), latency_quantile(histogram_sum(latency), 0.95) AS p95 FROM hourly_delivery_health"
    )
    assert (together["count"], together["p95"]) == (20, day["p95_ms"])
    for column, share in (("p50_ms", 0.5), ("p95_ms", 0.95), ("p99_ms", 0.99)):
        exact = took[math.ceil(share * len(took)) - 1]
        assert exact / 1.2 < float(day[column]) < exact * 1.2


@given(st.floats(width=32), st.floats(0, 1))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_every_latency_has_a_bucket(owner: asyncpg.Connection, ms: float, share: float) -> None:
    bucket = await owner.fetchval("SELECT latency_bucket($1::real)", ms)
    assert 0 <= bucket <= 65
    histogram = [int(n == bucket) for n in range(66)]
    shown = await owner.fetchval("SELECT latency_quantile($1::bigint[], $2::float8)", histogram, share)
    if 1 <= ms < 65536:
        assert ms / 1.2 <= float(shown) + 0.06 and float(shown) <= ms * 1.2 + 0.06  # noqa: PT018


async def test_attempts_without_a_response_have_no_latency(data: Pool, tenant: UUID) -> None:
    await record_attempts(data, [(tenant, new_id())], 1, outcome="timeout")
    await fold_all(data)
    assert await data.fetchval("SELECT p50_ms FROM delivery_health") is None


async def test_a_worker_folds_until_it_is_stopped(
    data: Pool, owner: asyncpg.Connection, whose: Whose
) -> None:
    """In batches, without a pause while there is more than one."""
    for _ in range(10):
        await record_attempts(data, whose, 10)
    folder = AttemptFolder(data, batch_size=10)
    async with running(folder):
        await eventually(lambda: folder.folded >= 100, "all are folded")
    assert await differences(owner) == []


async def test_each_mode_counts_its_own_attempts(database: Database, whose: Whose) -> None:
    await record_attempts(database.data(Mode.LIVE), whose, 1)
    assert await fold_all(database.data(Mode.TEST)) == 0
    assert await fold_all(database.data(Mode.LIVE)) == 1
