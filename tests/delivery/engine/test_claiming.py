"""Claims are bounded, continue where they stopped, and leave deliveries that must not be sent now."""

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from delivery.engine import claiming
from delivery.engine.capacity import Capacity, Slot
from delivery.engine.claiming import Claiming, Round
from delivery.health.breaker import LONGER_THAN_ANY_OPENING, LONGEST_OPEN_S
from delivery.health.health_tracker import HealthTracker
from schema.connections.database import Database, Pool
from schema.core import endpoints
from schema.deliveries import deliveries, endpoint_health, retry_switch
from schema.deliveries.deliveries import Lane, Settlement, Verdict, WaitingEndpoint
from schema.modes import Mode
from tests.support.deliveries import Queue, attempt
from tests.support.engine import add_endpoint, in_flight_limits

HOUR = timedelta(hours=1)
LONG = timedelta(seconds=LONGEST_OPEN_S)


@dataclass
class Rounds:
    """A worker's claims in both lanes; the test says when their results are written."""

    pool: Pool
    capacity: Capacity
    health: HealthTracker = field(default_factory=lambda: HealthTracker(lambda: datetime.now(UTC)))
    worker: int = 1
    uncertain: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.lanes = {
            lane: Claiming(
                self.pool, lane, self.capacity, self.health, lambda: self.worker, self.uncertain.append
            )
            for lane in Lane
        }

    async def round(self, lane: Lane = Lane.FIRST) -> Round:
        self.lanes[lane]._not_before = 0.0  # the pause after an empty search is tested elsewhere
        return await self.lanes[lane].round()

    async def claimed(self, lane: Lane = Lane.FIRST) -> Counter[UUID]:
        """One round's deliveries by endpoint; they keep their slots."""
        return Counter(claim.endpoint_id for claim in (await self.round(lane)).claims)

    async def served(self, lane: Lane = Lane.FIRST) -> Counter[UUID]:
        """The same, with their slots released."""
        claims = (await self.round(lane)).claims
        for claim in claims:
            slot = Slot(claim.tenant_id, claim.endpoint_id, claim.lane)
            self.capacity.release(slot, size=len(claim.data))
        return Counter(claim.endpoint_id for claim in claims)


@pytest.fixture
def data(database: Database) -> Pool:
    return database.data(Mode.TEST)


@pytest.fixture
def rounds(data: Pool) -> Rounds:
    return Rounds(data, Capacity(in_flight_limits()))


NewQueue = Callable[..., Awaitable[Queue]]


@pytest.fixture
def new_queue(database: Database, tenant: UUID) -> NewQueue:
    """Creates endpoints with ascending ids and that many waiting deliveries."""
    number = 0

    async def create(waiting: int = 1, *, retries: bool = False) -> Queue:
        nonlocal number
        number += 1
        endpoint = await add_endpoint(
            database, tenant, f"https://merchant.example/{number}", endpoint_id=UUID(int=number)
        )
        queue = Queue(database.data(Mode.TEST), tenant, endpoint)
        await queue.add(waiting)
        if retries:
            for claim in await queue.claim():
                await queue.settle(claim, Verdict.RETRY, retry_in=timedelta(0))
        return queue

    return create


@pytest.fixture
def limit(database: Database) -> Callable[[Queue, int], Awaitable[None]]:
    async def limit(queue: Queue, rate: int) -> None:
        changes = endpoints.EndpointChanges(None, None, None, None, rate)
        await endpoints.update(database.core, queue.endpoint, changes)

    return limit


async def open_breaker(data: Pool, queue: Queue, *, for_: timedelta, openings: int = 1) -> None:
    await data.execute(
        "INSERT INTO endpoint_health (endpoint_id, tenant_id, open_until, openings) VALUES ($1, $2, now() + $3, $4)"
        " ON CONFLICT (endpoint_id) DO UPDATE SET open_until = excluded.open_until, openings = excluded.openings",
        *(queue.endpoint, queue.tenant, for_, openings),
    )


def of(*queues: Queue) -> list[UUID]:
    return [queue.endpoint for queue in queues]


# Rounds


async def test_a_round_is_bounded_and_the_next_one_continues(
    new_queue: NewQueue, rounds: Rounds, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claiming, "STEPS", 3)
    queues = [await new_queue(8) for _ in range(7)]
    seen = [sorted(await rounds.served()) for _ in range(4)]
    assert seen == [of(*queues[:3]), of(*queues[3:6]), of(queues[6]), of(*queues[:3])]


async def test_a_round_that_did_not_search_all_says_so(
    new_queue: NewQueue, rounds: Rounds, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claiming, "STEPS", 2)
    for _ in range(3):
        await new_queue()
    assert [(await rounds.round()).more_soon for _ in range(4)] == [True, True, False, False]


async def test_endpoints_with_open_breakers_do_not_hide_others(
    new_queue: NewQueue, data: Pool, rounds: Rounds, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claiming, "STEPS", 2)
    queues = [await new_queue() for _ in range(5)]
    for queue in queues[:4]:
        await open_breaker(data, queue, for_=LONG)
    served = [await rounds.served() for _ in range(3)]
    assert served == [{}, {}, {queues[4].endpoint: 1}]


@pytest.mark.parametrize("lane", Lane)
async def test_no_endpoint_starves_while_others_have_more(
    new_queue: NewQueue, data: Pool, lane: Lane
) -> None:
    """With fewer slots than endpoints, one of which never releases its slots."""
    rounds = Rounds(data, Capacity(in_flight_limits(8 if lane is Lane.RETRY else 4)))
    queues = [await new_queue(20, retries=lane is Lane.RETRY) for _ in range(6)]
    hanging = Slot(queues[2].tenant, queues[2].endpoint, lane)
    rounds.capacity.take(hanging, 2)
    served: Counter[UUID] = Counter()
    for _ in range(24):
        served += await rounds.served(lane)
    assert served.keys() >= set(of(*queues)) - {queues[2].endpoint}
    others = [served[queue.endpoint] for queue in queues if queue is not queues[2]]
    assert min(others) >= max(others) // 3


async def test_endpoints_get_equal_shares_within_their_limits(new_queue: NewQueue, rounds: Rounds) -> None:
    first, second, third = await new_queue(9), await new_queue(9), await new_queue(2)
    rounds.capacity.take(Slot(second.tenant, second.endpoint), 3)
    assert await rounds.claimed() == {first.endpoint: 4, second.endpoint: 1, third.endpoint: 2}
    assert rounds.capacity.in_flight == 3 + 7, "slots without a delivery are released"
    assert await rounds.round() == Round(more_soon=True), "the first two wait for slots"


async def test_a_round_without_slots_does_not_search(new_queue: NewQueue, data: Pool) -> None:
    queue = await new_queue()
    rounds = Rounds(data, Capacity(in_flight_limits(2)))
    rounds.capacity.take(Slot(queue.tenant, UUID(int=99)), 2)
    assert await rounds.round() == Round(more_soon=True)


async def test_an_endpoint_without_waiting_deliveries_is_forgotten(
    new_queue: NewQueue, rounds: Rounds, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But not before the search has passed it."""
    monkeypatch.setattr(claiming, "STEPS", 2)
    queues = [await new_queue(5), await new_queue(5), await new_queue(1)]
    idle = UUID(int=50)
    overflow = rounds.lanes[Lane.FIRST].overflow
    overflow.add([*of(*queues), idle])
    await rounds.claimed()
    assert overflow.endpoints == {*of(*queues), idle}, "the first two have more, the others were not searched"
    await rounds.claimed()
    assert overflow.endpoints == set(of(*queues[:2]))


async def test_an_endpoint_after_the_last_full_page_is_forgotten(
    new_queue: NewQueue, rounds: Rounds, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The search starts from the beginning when it finds nothing after a page."""
    monkeypatch.setattr(claiming, "STEPS", 2)
    queues = [await new_queue(9) for _ in range(2)]
    overflow = rounds.lanes[Lane.FIRST].overflow
    overflow.add([*of(*queues), UUID(int=50)])
    await rounds.served()
    assert UUID(int=50) in overflow, "it was not searched"
    await rounds.served()
    assert overflow.endpoints == set(of(*queues))


async def test_a_failed_claim_releases_its_slots_and_reports_its_lease(
    new_queue: NewQueue, rounds: Rounds, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = await new_queue(3)

    async def fail(*_args: object, **_options: object) -> None:
        raise LookupError

    with monkeypatch.context() as broken:
        broken.setattr(deliveries, "claim", fail)
        with pytest.raises(LookupError):
            await rounds.round()
    assert (rounds.capacity.in_flight, rounds.capacity._size) == (0, 0)
    assert len(rounds.uncertain) == 1, "its commit may have succeeded"
    assert await rounds.claimed() == {queue.endpoint: 3}


async def test_a_damaged_delivery_is_claimed_while_others_always_wait(
    new_queue: NewQueue, rounds: Rounds, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rounds with fewer deliveries begin where the one that failed began, not with the endpoints that can be read."""
    await new_queue(60)
    queue = await new_queue(4)
    damaged = await queue.data.fetchval(
        "SELECT id FROM webhook_deliveries WHERE endpoint_id = $1 LIMIT 1", queue.endpoint
    )
    claim = deliveries.claim

    async def claim_or_fail(*arguments: Any, with_data: bool = True) -> Any:
        claims = await claim(*arguments, with_data=with_data)
        if with_data and any(claimed.id == damaged for claimed in claims):
            raise asyncpg.DataCorruptedError("damaged")
        return claims

    monkeypatch.setattr(deliveries, "claim", claim_or_fail)
    served: Counter[UUID] = Counter()
    for _ in range(12):
        served += await rounds.served()
    assert served[queue.endpoint] == 4


# Endpoints that must not be sent to


async def test_a_paused_endpoint_waits_until_it_is_resumed(
    new_queue: NewQueue, database: Database, rounds: Rounds
) -> None:
    paused, other = await new_queue(2), await new_queue(2)
    await endpoints.pause(database.core, await endpoints.show(database.core, paused.endpoint))
    assert await rounds.claimed() == {other.endpoint: 2}
    await endpoints.resume(database.core, await endpoints.show(database.core, paused.endpoint))
    assert await rounds.claimed() == {paused.endpoint: 2}


async def test_paused_retries_wait_and_first_attempts_do_not(
    new_queue: NewQueue, data: Pool, rounds: Rounds
) -> None:
    retried, fresh = await new_queue(2, retries=True), await new_queue(2)
    await retry_switch.pause_retries(data)
    assert await rounds.claimed(Lane.RETRY) == {}
    assert await rounds.claimed(Lane.FIRST) == {fresh.endpoint: 2}
    await retry_switch.resume_retries(data)
    assert await rounds.claimed(Lane.RETRY) == {retried.endpoint: 2}


@pytest.mark.parametrize("lane", Lane)
async def test_an_open_breaker_waits_and_a_half_open_one_gets_probes(
    new_queue: NewQueue, data: Pool, rounds: Rounds, lane: Lane
) -> None:
    """In every worker, also one that has not sent to the endpoint before."""
    queue = await new_queue(9, retries=lane is Lane.RETRY)
    await open_breaker(data, queue, for_=LONG)
    assert await rounds.claimed(lane) == {}
    await open_breaker(data, queue, for_=timedelta(0))
    assert await rounds.claimed(lane) == {queue.endpoint: 1}
    assert not rounds.health.closed(queue.endpoint)
    assert await rounds.claimed(lane) == {}, "the probe is under way"


async def test_a_breaker_that_another_worker_closed_is_closed_here(
    new_queue: NewQueue, data: Pool, rounds: Rounds
) -> None:
    queue = await new_queue(9)
    await open_breaker(data, queue, for_=timedelta(0))
    assert await rounds.served() == {queue.endpoint: 1}
    await data.execute("UPDATE endpoint_health SET open_until = NULL, openings = 0")
    assert await rounds.served() == {queue.endpoint: 1}, "a slow start"
    assert rounds.health.closed(queue.endpoint)


async def test_a_worker_that_did_not_probe_starts_slowly_too(
    new_queue: NewQueue, data: Pool, rounds: Rounds
) -> None:
    """It opened the breaker; another worker probed and closed it."""
    queue = await new_queue(9)
    await write_hung(data, rounds.health, queue)
    await data.execute("UPDATE endpoint_health SET open_until = NULL, openings = 0")
    assert await rounds.served() == {queue.endpoint: 1}
    assert rounds.health.closed(queue.endpoint)


async def test_a_breaker_opened_during_a_search_is_respected(
    new_queue: NewQueue, data: Pool, rounds: Rounds, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = await new_queue(9)
    search = deliveries.endpoints_waiting

    async def slow_search(*arguments: Any) -> list[WaitingEndpoint]:
        found = await search(*arguments)
        await write_hung(data, rounds.health, queue)
        return found

    with monkeypatch.context() as slow:
        slow.setattr(deliveries, "endpoints_waiting", slow_search)
        assert await rounds.claimed() == {}
    assert rounds.health.open(queue.endpoint)


async def write_hung(data: Pool, health: HealthTracker, queue: Queue) -> None:
    """Observes and writes five hung attempts: the breaker is open here and in the database."""
    (claim,) = await queue.claim(1)
    hung = [Settlement(claim, Verdict.RETRY, timedelta(0), attempt("timeout", None)) for _ in range(5)]
    for settlement in hung:
        health.observe(settlement)
    notes = health.notes(hung)
    async with data.acquire() as tx, tx.transaction():
        await endpoint_health.note_health(tx, notes)
    health.written(notes)
    assert health.open(queue.endpoint)


@pytest.mark.parametrize("lane", Lane)
async def test_a_clock_set_back_makes_an_open_breaker_half_open(
    new_queue: NewQueue, data: Pool, rounds: Rounds, lane: Lane
) -> None:
    queue = await new_queue(9, retries=lane is Lane.RETRY)
    await open_breaker(data, queue, for_=LONGER_THAN_ANY_OPENING - timedelta(seconds=9))
    assert await rounds.claimed(lane) == {}
    await open_breaker(data, queue, for_=LONGER_THAN_ANY_OPENING + timedelta(seconds=9))
    assert await rounds.claimed(lane) == {queue.endpoint: 1}
    assert not rounds.health.closed(queue.endpoint)


# How often it searches


async def test_an_empty_search_is_not_repeated_immediately(
    new_queue: NewQueue, data: Pool, rounds: Rounds, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If all waiting deliveries are held, every hint would cause a search."""
    monkeypatch.setattr(claiming, "FIRST_EVERY_S", 3600)
    held, free = await new_queue(9), await new_queue(30)
    await open_breaker(data, held, for_=LONG)
    fresh = rounds.lanes[Lane.FIRST]
    for _ in range(3):
        claims = (await fresh.round()).claims
        assert len(claims) == 4
        for claim in claims:
            rounds.capacity.release(Slot(claim.tenant_id, claim.endpoint_id), size=len(claim.data))
    await open_breaker(data, free, for_=LONG)
    assert await fresh.round() == Round()
    await open_breaker(data, free, for_=timedelta(0))
    assert await fresh.round() == Round(), "it does not search"
    assert await rounds.claimed() == {free.endpoint: 1}


async def test_a_search_is_repeated_if_only_slots_were_missing(
    new_queue: NewQueue, rounds: Rounds, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claiming, "FIRST_EVERY_S", 3600)
    queue = await new_queue(9)
    held = Slot(queue.tenant, queue.endpoint)
    rounds.capacity.take(held, 4)
    fresh = rounds.lanes[Lane.FIRST]
    assert await fresh.round() == Round(more_soon=True)
    rounds.capacity.release(held, 4)
    assert len((await fresh.round()).claims) == 4


# Disabled endpoints


async def test_deliveries_of_a_disabled_endpoint_are_skipped_in_bulk(
    new_queue: NewQueue, database: Database, data: Pool, rounds: Rounds, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bounded number per round, without a slot, an attempt or a lease; other endpoints are served."""
    monkeypatch.setattr(claiming, "SKIPS", 5)
    disabled, other = [await new_queue(7), await new_queue(7)], await new_queue(9)
    for queue in disabled:
        await endpoints.disable(data, await endpoints.show(database.core, queue.endpoint), "asked for")
    found = []
    for _ in range(4):
        made = await rounds.round()
        found.append((made.skipped, {claim.endpoint_id for claim in made.claims}))
        for claim in made.claims:
            rounds.capacity.release(Slot(claim.tenant_id, claim.endpoint_id), size=len(claim.data))
    assert found == [(5, {other.endpoint}), (7, {other.endpoint}), (2, {other.endpoint}), (0, set())]
    rows = await data.fetch(
        "SELECT status, attempts, settled_at, due_at, retry_at, lease FROM webhook_deliveries"
        " WHERE endpoint_id = ANY($1::uuid[])",
        of(*disabled),
    )
    assert len(rows) == 14
    for row in rows:
        assert row["settled_at"] is not None
        assert (row["status"], row["attempts"]) == ("skipped", 0)
        assert (row["due_at"], row["retry_at"], row["lease"]) == (None, None, None)


async def test_a_retry_of_a_disabled_endpoint_is_skipped_when_due(
    new_queue: NewQueue, database: Database, owner: asyncpg.Connection, data: Pool, rounds: Rounds
) -> None:
    queue = await new_queue(0)
    (delivery,) = await queue.add()
    await queue.settle(await queue.claim_one(), Verdict.RETRY, retry_in=HOUR)
    await endpoints.disable(data, await endpoints.show(database.core, queue.endpoint), "asked for")
    assert (await rounds.round(Lane.RETRY)).skipped == 0
    await queue.make_due(owner, delivery)
    assert (await rounds.round(Lane.RETRY)).skipped == 1
    shown = await queue.show(delivery)
    assert (shown.status, shown.attempts_made, shown.schedule_attempts) == ("skipped", 1, 1)


async def test_a_skipped_delivery_can_be_replayed_after_enabling(
    new_queue: NewQueue, database: Database, data: Pool, rounds: Rounds
) -> None:
    queue = await new_queue(0)
    (delivery,) = await queue.add()
    await endpoints.disable(data, await endpoints.show(database.core, queue.endpoint), "asked for")
    await rounds.round()
    await endpoints.enable(data, await endpoints.show(database.core, queue.endpoint))
    assert await queue.replay(delivery) == "skipped"
    assert await rounds.claimed(Lane.RETRY) == {queue.endpoint: 1}


# Rate limits


async def test_workers_share_a_rate_limit(
    new_queue: NewQueue, data: Pool, rounds: Rounds, limit: Callable[[Queue, int], Awaitable[None]]
) -> None:
    limited, free = await new_queue(60), await new_queue(60)
    await limit(limited, 8)
    other = Rounds(data, Capacity(in_flight_limits()), worker=2)
    claimed = await rounds.claimed() + await other.claimed()
    assert claimed[limited.endpoint] == 3, "the burst and one more"
    assert claimed[free.endpoint] == 4 + 4
    assert (await rounds.round()).more_soon


async def test_lanes_share_a_rate_limit(
    new_queue: NewQueue, rounds: Rounds, limit: Callable[[Queue, int], Awaitable[None]]
) -> None:
    queue = await new_queue(9, retries=True)
    await queue.add(9)
    await limit(queue, 4)
    claimed = [await rounds.claimed(lane) for lane in (Lane.RETRY, Lane.FIRST, Lane.RETRY)]
    assert [c[queue.endpoint] for c in claimed] == [2, 0, 0]


async def test_a_rate_limit_that_is_locked_is_left_without_waiting(
    new_queue: NewQueue, data: Pool, rounds: Rounds, limit: Callable[[Queue, int], Awaitable[None]]
) -> None:
    limited, free = await new_queue(9), await new_queue(9)
    await limit(limited, 100)
    assert (await rounds.served())[limited.endpoint] == 4
    async with data.acquire() as tx, tx.transaction():
        assert limited.endpoint in await deliveries.lock_rate_limits(tx, [limited.endpoint])
        assert await rounds.served() == {free.endpoint: 4}
    assert limited.endpoint in await rounds.served()


async def test_only_claimed_deliveries_count_for_the_rate(
    new_queue: NewQueue, data: Pool, rounds: Rounds, limit: Callable[[Queue, int], Awaitable[None]]
) -> None:
    """A claim that finds fewer than granted leaves the rest to the next."""
    queue = await new_queue(1)
    await limit(queue, 8)
    assert await rounds.claimed() == {queue.endpoint: 1}
    await queue.add(9)
    assert await rounds.claimed() == {queue.endpoint: 2}


async def test_a_rolled_back_claim_does_not_count_for_the_rate(
    new_queue: NewQueue,
    rounds: Rounds,
    limit: Callable[[Queue, int], Awaitable[None]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    queue = await new_queue(9)
    await limit(queue, 8)

    async def fail(*_args: object, **_options: object) -> Sequence[object]:
        raise LookupError

    with monkeypatch.context() as broken:
        broken.setattr(deliveries, "advance_rate_limits", fail)
        with pytest.raises(LookupError):
            await rounds.round()
    assert await rounds.claimed() == {queue.endpoint: 3}
