"""A delivery's life: created once, claimed by one worker at a time, settled only by the lease's holder."""

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import asyncpg
import pytest

from schema.connections.database import Database
from schema.deliveries import deliveries
from schema.deliveries.deliveries import Lane, Settlement, Verdict
from schema.modes import Mode
from tests.support.deliveries import LEASE_FOR, WORKER, Queue, attempt, new_endpoint, plan
from tests.support.events import sequenced
from tests.support.servers.connections import Connect

HOUR = timedelta(hours=1)


@pytest.fixture
async def queue(database: Database, tenant: UUID) -> Queue:
    return Queue(database.data(Mode.TEST), tenant, await new_endpoint(database, tenant))


async def fan_out(queue: Queue, *planned: deliveries.PlannedDelivery, lease: int = 1) -> set[UUID]:
    async with queue.data.acquire() as tx:
        return await deliveries.fan_out(tx, planned, lease, WORKER, LEASE_FOR)


async def test_an_event_and_an_endpoint_have_one_delivery(queue: Queue) -> None:
    (event,) = await sequenced(queue.data, queue.tenant, 1)
    first, second = plan(event, queue.endpoint), plan(event, queue.endpoint)
    assert await fan_out(queue, first) == {first.id}
    assert await fan_out(queue, second) == set()
    assert await queue.data.fetchval("SELECT count(*) FROM webhook_deliveries") == 1


async def test_a_delivery_claimed_by_fan_out_is_leased(queue: Queue) -> None:
    events = await sequenced(queue.data, queue.tenant, 2)
    ours, waiting = plan(events[0], queue.endpoint, claimed=True), plan(events[1], queue.endpoint)
    await fan_out(queue, ours, waiting, lease=77)
    assert (await queue.show(ours.id)).in_flight
    assert [claim.id for claim in await queue.claim()] == [waiting.id]


async def test_a_disabled_endpoints_delivery_is_created_skipped(queue: Queue) -> None:
    (delivery,) = await queue.add(enabled=False)
    shown = await queue.show(delivery)
    assert (shown.status, shown.attempts_made, shown.due_at) == ("skipped", 0, None)
    assert shown.settled_at is not None
    assert await queue.claim() == []


async def test_a_claim_returns_everything_an_attempt_needs(queue: Queue) -> None:
    (delivery,) = await queue.add()
    claimed = await queue.claim_one()
    assert claimed.id == delivery
    assert claimed.endpoint
    assert (claimed.endpoint.url, claimed.endpoint.sealed_secrets) == (
        "https://merchant.example/hook",
        (b"sealed",),
    )
    assert (claimed.event_type, claimed.data, claimed.schedule_attempts, claimed.replay) == (
        "invoice_created",
        '{"n": 1}',
        0,
        False,
    )


async def test_a_claim_takes_the_oldest_due_up_to_its_limit(queue: Queue, owner: asyncpg.Connection) -> None:
    ids = await queue.add(4)
    for age, delivery in enumerate(ids):
        await owner.execute(
            "UPDATE webhook_deliveries SET due_at = now() - make_interval(mins => $2) WHERE id = $1",
            delivery,
            age,
        )
    assert {claim.id for claim in await queue.claim(room=2)} == {ids[3], ids[2]}
    assert {claim.id for claim in await queue.claim(room=9)} == {ids[1], ids[0]}


async def test_two_workers_never_claim_the_same_delivery(queue: Queue, connect: Connect) -> None:
    """The second skips rows that the first is claiming, and does not wait."""
    await queue.add(6)
    first, second = await connect(), await connect()
    await second.execute("SET lock_timeout = '1s'")
    async with first.transaction():
        of_first = await deliveries.claim(first, Lane.FIRST, [(queue.endpoint, 4)], 1, 1, LEASE_FOR)
        async with second.transaction():
            of_second = await deliveries.claim(second, Lane.FIRST, [(queue.endpoint, 4)], 2, 2, LEASE_FOR)
    assert (len(of_first), len(of_second)) == (4, 2)
    assert not {claim.id for claim in of_first} & {claim.id for claim in of_second}


async def test_many_workers_claim_each_delivery_once(queue: Queue) -> None:
    ids = await queue.add(60)
    claims = await asyncio.gather(*(queue.claim(room=7, worker=worker) for worker in range(1, 13)))
    claimed = [claim.id for batch in claims for claim in batch]
    claimed += [claim.id for claim in await queue.claim()]
    assert sorted(claimed) == sorted(ids)


async def test_a_delivery_that_is_not_due_is_not_claimed(queue: Queue) -> None:
    (delivery,) = await queue.add()
    await queue.settle(await queue.claim_one(), Verdict.RETRY, retry_in=HOUR)
    assert await queue.claim() == []
    assert (await queue.show(delivery)).status == "pending"


@pytest.mark.parametrize("verdict", [Verdict.DELIVERED, Verdict.FAILED, Verdict.SKIPPED])
async def test_a_final_verdict_ends_it(queue: Queue, verdict: Verdict) -> None:
    (delivery,) = await queue.add()
    assert await queue.settle(await queue.claim_one(), verdict)
    shown = await queue.show(delivery)
    assert shown.status == verdict.value
    assert shown.settled_at is not None
    assert (shown.due_at, shown.retry_at, shown.in_flight) == (None, None, False)
    made = 0 if verdict is Verdict.SKIPPED else 1
    assert (shown.attempts_made, shown.schedule_attempts, len(shown.attempts)) == (made, made, made)


async def test_a_retry_waits_for_its_time_and_counts_its_tries(
    queue: Queue, owner: asyncpg.Connection
) -> None:
    (delivery,) = await queue.add()
    for schedule_attempts in range(3):
        claimed = await queue.claim_one()
        assert claimed.schedule_attempts == schedule_attempts
        await queue.settle(claimed, Verdict.RETRY, retry_in=HOUR)
        shown = await queue.show(delivery)
        assert shown.due_at == shown.retry_at
        assert shown.due_at
        assert shown.due_at > datetime.now(UTC) + 0.9 * HOUR
        await queue.make_due(owner, delivery)
    assert len((await queue.show(delivery)).attempts) == 3


async def test_each_delivery_of_a_batch_gets_its_own_verdict(queue: Queue) -> None:
    await queue.add(3)
    first, second, third = await queue.claim()
    async with queue.data.acquire() as tx:
        settled = await deliveries.settle(
            tx,
            [
                Settlement(first, Verdict.DELIVERED, None, attempt("ok", 200)),
                Settlement(second, Verdict.RETRY, HOUR, attempt("timeout", None)),
                Settlement(third, Verdict.SKIPPED),
            ],
        )
    assert settled == {first.id, second.id, third.id}
    shown = [await queue.show(claim.id) for claim in (first, second, third)]
    assert [delivery.status for delivery in shown] == ["delivered", "pending", "skipped"]
    assert [[a.outcome for a in delivery.attempts] for delivery in shown] == [["ok"], ["timeout"], []]


async def test_a_late_worker_cannot_overwrite_a_newer_result(queue: Queue) -> None:
    """Its attempt is still recorded, marked as one that did not settle."""
    (delivery,) = await queue.add()
    late = await queue.claim_one()
    await deliveries.take_over(queue.data, [WORKER])
    newer = await queue.claim_one()
    assert not await queue.settle(late, Verdict.FAILED)
    assert (await queue.show(delivery)).in_flight
    assert await queue.settle(newer, Verdict.DELIVERED, tried=attempt("ok", 200))
    assert not await queue.settle(late, Verdict.RETRY, retry_in=HOUR)

    shown = await queue.show(delivery)
    assert (shown.status, shown.attempts_made) == ("delivered", 1)
    assert [(a.outcome, a.settled) for a in shown.attempts if a.outcome == "ok"] == [("ok", True)]
    assert [a.settled for a in shown.attempts if a.outcome != "ok"] == [False, False]


async def test_settling_twice_counts_once(queue: Queue) -> None:
    """The reply to the first COMMIT may have been lost."""
    (delivery,) = await queue.add()
    claimed, tried = await queue.claim_one(), attempt()
    assert await queue.settle(claimed, Verdict.RETRY, retry_in=HOUR, tried=tried)
    assert not await queue.settle(claimed, Verdict.RETRY, retry_in=HOUR, tried=tried)
    shown = await queue.show(delivery)
    assert (shown.schedule_attempts, [a.settled for a in shown.attempts]) == (1, [True])


async def test_settling_many_twice_counts_once(queue: Queue) -> None:
    """Whichever way they were written first, the second write skips existing rows."""
    count = deliveries.WORTH_A_COPY + 1
    await queue.add(count)
    settlements = [Settlement(claim, Verdict.RETRY, HOUR, attempt()) for claim in await queue.claim()]
    found = []
    for again in (False, True):
        async with queue.data.acquire() as tx, tx.transaction():
            found.append(len(await deliveries.settle(tx, settlements, again=again)))
    assert found == [count, 0]
    rows = await queue.data.fetch("SELECT schedule_attempts, attempts FROM webhook_deliveries")
    assert [tuple(row) for row in rows] == [(1, 1)] * count
    settled = await queue.data.fetch("SELECT settled FROM webhook_attempts")
    assert [row["settled"] for row in settled] == [True] * count


async def test_takeover_releases_dead_workers_leases(queue: Queue) -> None:
    await queue.add(2)
    of_the_dead, of_the_living = [(await queue.claim(1, worker=worker))[0] for worker in (1, 2)]
    assert await deliveries.take_over(queue.data, [1]) == 1
    assert [claim.id for claim in await queue.claim()] == [of_the_dead.id]
    assert (await queue.show(of_the_living.id)).in_flight


async def test_leases_of_unregistered_workers_and_overlong_ones_are_orphans(
    queue: Queue,
) -> None:
    """A young orphan may belong to a worker that has just registered."""
    await queue.add(3)
    orphan, overdue, alive = [
        (await queue.claim(1, worker=worker, lease_for=lease_for))[0]
        for worker, lease_for in ((1, LEASE_FOR), (2, -2 * LEASE_FOR), (2, LEASE_FOR))
    ]
    assert await deliveries.release_orphans(queue.data, [2], LEASE_FOR, timedelta(minutes=1)) == 1
    assert [claim.id for claim in await queue.claim()] == [overdue.id]
    assert await deliveries.release_orphans(queue.data, [2], LEASE_FOR, timedelta(0)) == 2
    assert {claim.id for claim in await queue.claim()} == {orphan.id, overdue.id}
    assert (await queue.show(alive.id)).in_flight


async def test_a_worker_releases_leases_that_it_does_not_know(queue: Queue) -> None:
    """Not leases that it knows, not another worker's, and not young ones, whose commit may be under way."""
    await queue.add(3)
    known, unknown, anothers = [(await queue.claim(1, worker=worker))[0] for worker in (1, 1, 2)]
    release = deliveries.release_unknown_leases
    assert await release(queue.data, 1, [known.lease], LEASE_FOR, timedelta(minutes=1)) == 0
    assert await release(queue.data, 1, [known.lease], LEASE_FOR, timedelta(0)) == 1
    assert [claim.id for claim in await queue.claim()] == [unknown.id]
    assert (await queue.show(known.id)).in_flight
    assert (await queue.show(anothers.id)).in_flight


async def test_waiting_endpoints_are_found_in_order_from_any_id(database: Database, queue: Queue) -> None:
    others = [await new_endpoint(database, queue.tenant) for _ in range(3)]
    for endpoint in (queue.endpoint, *others[:2]):
        await Queue(queue.data, queue.tenant, endpoint).add(2)
    idle = Queue(queue.data, queue.tenant, others[2])
    await idle.add()
    await idle.settle(await idle.claim_one(), Verdict.RETRY, retry_in=HOUR)

    async def waiting(lane: Lane, after: UUID, steps: int) -> list[tuple[UUID, bool]]:
        found = await deliveries.endpoints_waiting(queue.data, lane, after, steps)
        assert {w.tenant_id for w in found} <= {queue.tenant}
        return [(w.endpoint_id, w.claimable) for w in found]

    in_order = sorted([queue.endpoint, *others[:2]])
    expected = [(endpoint, True) for endpoint in in_order]
    assert await waiting(Lane.FIRST, UUID(int=0), 10) == expected
    assert await waiting(Lane.FIRST, UUID(int=0), 2) == expected[:2]
    assert await waiting(Lane.FIRST, in_order[0], 10) == expected[1:]
    assert await waiting(Lane.FIRST, in_order[-1], 10) == []
    assert await waiting(Lane.RETRY, UUID(int=0), 10) == [(others[2], False)]


async def test_an_endpoint_of_another_mode_comes_as_none(queue: Queue) -> None:
    stranger = Queue(queue.data, queue.tenant, uuid4())
    await stranger.add()
    assert (await stranger.claim_one()).endpoint is None
