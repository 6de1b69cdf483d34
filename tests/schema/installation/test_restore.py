"""A logical dump restored elsewhere: nothing is lost, nothing repeated, positions already given stay.

The rows keep the transaction ids of the cluster they came from, where they mean nothing, until the new
cluster hands out the same ids again.
"""

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from uuid import UUID

import asyncpg
import pytest

from schema.deliveries import delivery_hours
from schema.event_log import log
from schema.ids import new_id
from schema.installation.migrate import migrate
from tests.support.attempts import differences, record_attempts
from tests.support.events import in_log, positions, record, record_many, sequence_all
from tests.support.servers.connections import Connect, connections
from tests.support.servers.databases import OWNER, Cluster, running_cluster
from tests.support.servers.dumps import pg_dump, pg_restore
from tests.support.transaction_ids import burn, burn_until, next_xid

A_RESTORE_TAKES = 2500  # transactions, and amply: one for each thing that is made


@pytest.fixture(scope="module")
def new_cluster(cluster: Cluster) -> Iterator[Cluster]:
    """Its operator has copied the secret key."""
    with running_cluster(cluster.key) as new_cluster:
        yield new_cluster


@dataclass
class Restored:
    """What the old database had when it was dumped, and connections to the new one."""

    positions: list[tuple[int, UUID]]
    unsequenced: set[UUID]
    last_xid: int
    producer: asyncpg.Connection
    sequencer: asyncpg.Connection
    connect: Connect
    new: list[UUID] = field(default_factory=list)

    async def record(self, tenant: UUID) -> None:
        self.new.append(await record(self.producer, tenant))

    async def check_log(self) -> None:
        """Complete, once each, the old positions as they were and the new events in their order."""
        everything = await in_log(self.sequencer)
        assert (await positions(self.sequencer))[: len(self.positions)] == self.positions
        assert sorted(everything) == sorted(
            [*(event for _, event in self.positions), *self.unsequenced, *self.new]
        )
        assert [event for event in everything if event in set(self.new)] == self.new


class Drill:
    """An old database in some disorder, and the way from it to a new cluster."""

    def __init__(self, old: Cluster, old_name: str, connect: Connect, tenant: UUID) -> None:
        self._old = old
        self._old_name = old_name
        self._connect = connect
        self._tenant = tenant
        self._unsequenced: set[UUID] = set()

    async def run_the_old_one(self, until_xid: int = 0) -> None:
        """Leaves events of every kind: with positions, cut off by a limit, late, and never committed."""
        producer, late, never = [await self._connect() for _ in range(3)]
        await burn_until(producer, until_xid)
        await late.execute("BEGIN")
        await never.execute("BEGIN")
        self._unsequenced.add(await record(late, self._tenant))
        await record(never, self._tenant)
        for size in (2, 1, 3):
            await record_many(producer, self._tenant, size)
        assert await log.sequence(producer, 3) == 3
        await late.execute("COMMIT")
        self._unsequenced |= {
            row["id"]
            for row in await producer.fetch(
                "SELECT id FROM events WHERE id NOT IN (SELECT event_id FROM event_log)"
            )
        }

    async def record_more_after(self, xids: int) -> None:
        producer = await self._connect()
        await burn(producer, xids)
        self._unsequenced |= set(await record_many(producer, self._tenant, 3))

    async def snapshot_xmax(self) -> int:
        """From there on the stored snapshot has seen nothing."""
        owner = await self._connect(OWNER)
        return int(await owner.fetchval("SELECT pg_snapshot_xmax(done)::text FROM sequencer"))

    async def unsequenced_xids(self) -> list[int]:
        owner = await self._connect(OWNER)
        rows = await owner.fetch(
            "SELECT xid::text::bigint AS xid FROM events WHERE id = ANY($1) ORDER BY xid", self._unsequenced
        )
        return [row["xid"] for row in rows]

    async def restore(self, new: Cluster, name: str, connect: Connect) -> Restored:
        producer = await self._connect()
        given, last_xid = await positions(producer), await next_xid(producer)
        dump = await pg_dump(self._old, self._old_name)
        await pg_restore(new, new.url(name), dump, "--no-owner", "--no-privileges")
        assert (await migrate(await connect(OWNER), new.key)).files == 0
        return Restored(given, self._unsequenced, last_xid, await connect(), await connect(), connect)


@pytest.fixture
def drill(cluster: Cluster, db_name: str, connect: Connect, tenant: UUID) -> Drill:
    return Drill(cluster, db_name, connect, tenant)


@pytest.fixture
async def empty(new_cluster: Cluster) -> AsyncIterator[tuple[Cluster, str, Connect]]:
    """A database of the new cluster that has never been migrated."""
    async with AsyncExitStack() as stack:
        name = await stack.enter_async_context(new_cluster.empty_database())
        yield new_cluster, name, await stack.enter_async_context(connections(new_cluster, name))


async def xid_of_new_cluster(empty: tuple[Cluster, str, Connect]) -> int:
    return await next_xid(await empty[2](OWNER))


async def test_lower_xids_after_a_restore_lose_no_events(
    drill: Drill, empty: tuple[Cluster, str, Connect], tenant: UUID
) -> None:
    await drill.run_the_old_one(until_xid=await xid_of_new_cluster(empty) + A_RESTORE_TAKES)
    old_xids = await drill.unsequenced_xids()
    restored = await drill.restore(*empty)
    assert await next_xid(restored.producer) < old_xids[0]

    await sequence_all(restored.sequencer, limit=1)
    await restored.check_log()
    for xid in (old_xids[0], *old_xids, restored.last_xid + 1):
        await burn_until(restored.producer, xid - 2)
        for _ in range(4):
            await restored.record(tenant)
            await log.sequence(restored.sequencer, 1)
    await sequence_all(restored.sequencer, limit=1)
    assert await next_xid(restored.producer) > restored.last_xid
    await restored.check_log()


async def test_higher_xids_after_a_restore_lose_no_events(
    drill: Drill, empty: tuple[Cluster, str, Connect], tenant: UUID
) -> None:
    await drill.run_the_old_one()
    owner = await empty[2](OWNER)
    await burn_until(owner, max(await drill.unsequenced_xids()) + 2000)
    restored = await drill.restore(*empty)
    for _ in range(3):
        await sequence_all(restored.sequencer)
        await restored.check_log()
        await restored.record(tenant)
    await sequence_all(restored.sequencer)
    await restored.check_log()


async def test_xids_within_the_old_range_cause_no_wait(
    drill: Drill, empty: tuple[Cluster, str, Connect]
) -> None:
    """The stored snapshot could be of this cluster, the events that it has not seen could not."""
    here = await xid_of_new_cluster(empty)
    await drill.run_the_old_one(until_xid=here + A_RESTORE_TAKES)
    await burn_until(await empty[2](OWNER), await drill.snapshot_xmax() + 100)
    await drill.record_more_after(3 * A_RESTORE_TAKES)
    restored = await drill.restore(*empty)
    assert await next_xid(restored.producer) < max(await drill.unsequenced_xids())

    await sequence_all(restored.sequencer)
    await restored.check_log()


async def test_events_recorded_after_a_restore_follow_the_old_ones(
    drill: Drill, empty: tuple[Cluster, str, Connect], tenant: UUID
) -> None:
    await drill.run_the_old_one(until_xid=await xid_of_new_cluster(empty) + A_RESTORE_TAKES)
    restored = await drill.restore(*empty)
    late = await restored.connect()
    await late.execute("BEGIN")
    late_event = await record(late, tenant)
    for _ in range(3):
        await restored.record(tenant)
    assert await log.sequence(restored.sequencer, 1) == len(restored.unsequenced) + 3
    await late.execute("COMMIT")
    restored.new.append(late_event)
    assert await log.sequence(restored.sequencer, 1) == 1

    await restored.check_log()
    assert (await in_log(restored.sequencer))[-4:] == restored.new


async def test_a_reused_xid_does_not_hide_an_old_event(
    drill: Drill, empty: tuple[Cluster, str, Connect], tenant: UUID
) -> None:
    """The first to sequence in the new cluster has, by chance, the xid of an event that has no position yet."""
    await drill.run_the_old_one(until_xid=await xid_of_new_cluster(empty) + A_RESTORE_TAKES)
    target = (await drill.unsequenced_xids())[-1]
    restored = await drill.restore(*empty)
    await burn_until(restored.producer, target)
    async with restored.producer.transaction():
        assert await restored.producer.fetchval("SELECT pg_current_xact_id()::text") == str(target)
        await log.sequence(restored.producer, 1000)
        await restored.record(tenant)
    await sequence_all(restored.sequencer)
    await restored.check_log()


async def test_a_restore_into_the_same_cluster_continues_from_the_dump(
    drill: Drill, cluster: Cluster, tenant: UUID
) -> None:
    await drill.run_the_old_one()
    async with cluster.empty_database() as name, connections(cluster, name) as connect:
        restored = await drill.restore(cluster, name, connect)
        await restored.record(tenant)
        await sequence_all(restored.sequencer, limit=1)
        await restored.check_log()


async def test_a_future_snapshot_is_detected_as_a_restore(
    connect: Connect, owner: asyncpg.Connection, tenant: UUID
) -> None:
    """The same cluster by name, with xids that have gone back."""
    producer = await connect()
    sent = await record_many(producer, tenant, 2)
    await sequence_all(producer)
    await owner.execute(
        "INSERT INTO sequencer (done, last_pos, restore_floor, system_identifier)"
        " SELECT '999999999:999999999:', last_pos, 0, system_identifier FROM sequencer"
    )
    for _ in range(2):
        sent.append(await record(producer, tenant))
        await sequence_all(producer)
    assert await in_log(producer) == sent


async def test_attempts_are_counted_once_after_a_restore(
    drill: Drill, empty: tuple[Cluster, str, Connect], connect: Connect, tenant: UUID
) -> None:
    """Also while the new cluster hands out the xids that the restored rows carry."""
    whose, old = [(tenant, new_id())], await connect()
    await burn_until(old, await xid_of_new_cluster(empty) + A_RESTORE_TAKES)
    await record_attempts(old, whose, 3)
    assert await delivery_hours.fold(old, 100) == 3
    await record_attempts(old, whose, 4)
    restored = await drill.restore(*empty)
    owner = await restored.connect(OWNER)
    await record_attempts(restored.producer, whose, 1)
    assert await delivery_hours.fold(restored.producer, 1) == 8
    assert await next_xid(restored.producer) < restored.last_xid
    for xid in range(restored.last_xid - 12, restored.last_xid + 1, 3):
        await burn_until(restored.producer, xid)
        await record_attempts(restored.producer, whose, 1)
        assert await delivery_hours.fold(restored.producer, 100) == 1
    assert await delivery_hours.fold(restored.producer, 100) == 0
    assert await differences(owner) == []


async def test_late_attempts_are_counted_once(
    drill: Drill, empty: tuple[Cluster, str, Connect], connect: Connect, tenant: UUID
) -> None:
    """The stored snapshot could be of the new cluster, what it has not seen could not."""
    whose, old = [(tenant, new_id())], await connect()
    await burn_until(old, await xid_of_new_cluster(empty) + A_RESTORE_TAKES)
    await record_attempts(old, whose, 3)
    assert await delivery_hours.fold(old, 100) == 3
    folded_until = await next_xid(old)
    await burn(old, 3 * A_RESTORE_TAKES)
    await record_attempts(old, whose, 4)
    await burn_until(await empty[2](OWNER), folded_until + 100)
    restored = await drill.restore(*empty)
    assert folded_until < await next_xid(restored.producer) < restored.last_xid - 1
    owner = await restored.connect(OWNER)
    for _ in range(2):
        await record_attempts(restored.producer, whose, 1)
        await delivery_hours.fold(restored.producer, 100)
        assert await differences(owner) == []
        await burn_until(restored.producer, restored.last_xid + 1)
