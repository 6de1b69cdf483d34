"""Rounds over what waits in the table: bounded, going on where they stopped, past whatever must not be sent now."""

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
from delivery.health.breaker import LONGEST_OPEN_S, NEVER_OPEN_FOR
from delivery.health.health_book import HealthBook
from schema.connections.database import Database, Pool
from schema.core import endpoints
from schema.deliveries import deliveries, endpoint_health
from schema.deliveries import retry_switch as switches
from schema.deliveries.deliveries import Lane, Settlement, Verdict, WaitingEndpoint
from schema.modes import Mode
from tests.support.deliveries import Queue, attempt
from tests.support.engine import add_endpoint, in_flight_limits

HOUR = timedelta(hours=1)
LONG = timedelta(seconds=LONGEST_OPEN_S)


@dataclass
class Rounds:
    """A worker's claims in both lanes; what they bring is answered and written when the test says so."""

    pool: Pool
    capacity: Capacity
    health: HealthBook = field(default_factory=lambda: HealthBook(lambda: datetime.now(UTC)))
    worker: int = 1
    doubted: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.lanes = {
            lane: Claiming(
                self.pool, lane, self.capacity, self.health, lambda: self.worker, self.doubted.append
            )
            for lane in Lane
        }

    async def round(self, lane: Lane = Lane.FIRST) -> Round:
        self.lanes[lane]._not_before = 0.0  # the pause after an empty look is not what is tested
        return await self.lanes[lane].round()

    async def claimed(self, lane: Lane = Lane.FIRST) -> Counter[UUID]:
        """One round's deliveries by endpoint; they keep their places."""
        return Counter(claim.endpoint_id for claim in (await self.round(lane)).claims)

    async def served(self, lane: Lane = Lane.FIRST) -> Counter[UUID]:
        """The same, and their places are free again."""
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
    """Endpoints with ids in the order in which they are asked for, and that many deliveries waiting."""
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


async def test_a_round_takes_as_many_steps_as_it_may_and_the_next_one_goes_on(
    new_queue: NewQueue, rounds: Rounds, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claiming, "STEPS", 3)
    queues = [await new_queue(8) for _ in range(7)]
    seen = [sorted(await rounds.served()) for _ in range(4)]
    assert seen == [of(*queues[:3]), of(*queues[3:6]), of(queues[6]), of(*queues[:3])]


async def test_a_round_that_may_not_have_seen_all_says_so(
    new_queue: NewQueue, rounds: Rounds, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claiming, "STEPS", 2)
    for _ in range(3):
        await new_queue()
    assert [(await rounds.round()).more_soon for _ in range(4)] == [True, True, False, False]


async def test_all_are_seen_although_the_first_steps_lead_to_endpoints_that_cannot_be_served(
    new_queue: NewQueue, data: Pool, rounds: Rounds, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claiming, "STEPS", 2)
    queues = [await new_queue() for _ in range(5)]
    for queue in queues[:4]:
        await open_breaker(data, queue, for_=LONG)
    served = [await rounds.served() for _ in range(3)]
    assert served == [{}, {}, {queues[4].endpoint: 1}]


@pytest.mark.parametrize("lane", Lane)
async def test_nobody_starves_while_others_always_have_more(
    new_queue: NewQueue, data: Pool, lane: Lane
) -> None:
    """Fewer places than endpoints, one of which never gives its places back."""
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


async def test_endpoints_share_alike_and_no_more_than_their_room(new_queue: NewQueue, rounds: Rounds) -> None:
    first, second, third = await new_queue(9), await new_queue(9), await new_queue(2)
    rounds.capacity.take(Slot(second.tenant, second.endpoint), 3)
    assert await rounds.claimed() == {first.endpoint: 4, second.endpoint: 1, third.endpoint: 2}
    assert rounds.capacity.in_flight == 3 + 7, "what was not there is given back"
    assert await rounds.round() == Round(more_soon=True), "the first two wait for places"


async def test_a_round_without_places_looks_for_nothing(new_queue: NewQueue, data: Pool) -> None:
    queue = await new_queue()
    rounds = Rounds(data, Capacity(in_flight_limits(2)))
    rounds.capacity.take(Slot(queue.tenant, UUID(int=99)), 2)
    assert await rounds.round() == Round(more_soon=True)


async def test_what_is_known_to_wait_is_forgotten_once_nothing_does(
    new_queue: NewQueue, rounds: Rounds, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not before the steps have come by."""
    monkeypatch.setattr(claiming, "STEPS", 2)
    queues = [await new_queue(5), await new_queue(5), await new_queue(1)]
    stranger = UUID(int=50)
    waiting = rounds.lanes[Lane.FIRST].overflowing
    waiting.update({*of(*queues), stranger})
    await rounds.claimed()
    assert waiting == {*of(*queues), stranger}, "the first two have more, the others were not looked at"
    await rounds.claimed()
    assert waiting == set(of(*queues[:2]))


async def test_a_claim_that_fails_gives_its_places_back_and_doubts_its_lease(
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
    assert len(rounds.doubted) == 1, "it looks like a commit of unknown fate"
    assert await rounds.claimed() == {queue.endpoint: 3}


# Who is passed by


async def test_a_paused_endpoint_is_passed_by_until_it_is_resumed(
    new_queue: NewQueue, database: Database, rounds: Rounds
) -> None:
    paused, other = await new_queue(2), await new_queue(2)
    await endpoints.pause(database.core, await endpoints.show(database.core, paused.endpoint))
    assert await rounds.claimed() == {other.endpoint: 2}
    await endpoints.resume(database.core, await endpoints.show(database.core, paused.endpoint))
    assert await rounds.claimed() == {paused.endpoint: 2}


async def test_paused_retries_wait_and_fresh_deliveries_do_not(
    new_queue: NewQueue, data: Pool, rounds: Rounds
) -> None:
    retried, fresh = await new_queue(2, retries=True), await new_queue(2)
    await switches.pause_retries(data)
    assert await rounds.claimed(Lane.RETRY) == {}
    assert await rounds.claimed(Lane.FIRST) == {fresh.endpoint: 2}
    await switches.resume_retries(data)
    assert await rounds.claimed(Lane.RETRY) == {retried.endpoint: 2}


@pytest.mark.parametrize("lane", Lane)
async def test_an_open_breaker_is_passed_by_and_a_half_open_one_gets_single_probes(
    new_queue: NewQueue, data: Pool, rounds: Rounds, lane: Lane
) -> None:
    """In every worker, also one that has not heard of the endpoint before."""
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


async def test_a_worker_that_saw_no_probe_starts_slowly_as_well(
    new_queue: NewQueue, data: Pool, rounds: Rounds
) -> None:
    """It had opened the breaker, and another worker probed and closed it."""
    queue = await new_queue(9)
    await write_hung(data, rounds.health, queue)
    await data.execute("UPDATE endpoint_health SET open_until = NULL, openings = 0")
    assert await rounds.served() == {queue.endpoint: 1}
    assert rounds.health.closed(queue.endpoint)


async def test_a_look_under_way_while_the_breaker_was_opened_and_written_lets_nothing_through(
    new_queue: NewQueue, data: Pool, rounds: Rounds, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = await new_queue(9)
    look = deliveries.endpoints_waiting

    async def slow_look(*arguments: Any) -> list[WaitingEndpoint]:
        found = await look(*arguments)
        await write_hung(data, rounds.health, queue)
        return found

    with monkeypatch.context() as slow:
        slow.setattr(deliveries, "endpoints_waiting", slow_look)
        assert await rounds.claimed() == {}
    assert rounds.health.open(queue.endpoint)


async def write_hung(data: Pool, health: HealthBook, queue: Queue) -> None:
    """Five attempts that hung, observed and written: the breaker is open here and in the database."""
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
async def test_a_breaker_that_was_open_when_the_database_s_clock_was_set_back_is_half_open(
    new_queue: NewQueue, data: Pool, rounds: Rounds, lane: Lane
) -> None:
    queue = await new_queue(9, retries=lane is Lane.RETRY)
    await open_breaker(data, queue, for_=NEVER_OPEN_FOR - timedelta(seconds=9))
    assert await rounds.claimed(lane) == {}
    await open_breaker(data, queue, for_=NEVER_OPEN_FOR + timedelta(seconds=9))
    assert await rounds.claimed(lane) == {queue.endpoint: 1}
    assert not rounds.health.closed(queue.endpoint)


# How often it looks


async def test_an_empty_look_is_not_repeated_at_once_and_one_that_found_something_is(
    new_queue: NewQueue, data: Pool, rounds: Rounds, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where all that waits is held, every hint would be a look."""
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
    assert await fresh.round() == Round(), "it does not look"
    assert await rounds.claimed() == {free.endpoint: 1}


async def test_a_look_that_found_no_place_for_what_may_be_claimed_is_repeated(
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


async def test_what_waits_for_a_disabled_endpoint_is_skipped_in_bulk(
    new_queue: NewQueue, database: Database, data: Pool, rounds: Rounds, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bounded number in a round, without a slot, an attempt or a lease; the others are served as ever."""
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


async def test_a_retry_that_is_not_due_is_skipped_when_it_is(
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
    assert (shown.status, shown.attempts_made, shown.tries) == ("skipped", 1, 1)


async def test_what_was_skipped_can_be_replayed_after_enabling(
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


async def test_a_rate_limit_is_all_workers_together(
    new_queue: NewQueue, data: Pool, rounds: Rounds, limit: Callable[[Queue, int], Awaitable[None]]
) -> None:
    limited, free = await new_queue(60), await new_queue(60)
    await limit(limited, 8)
    other = Rounds(data, Capacity(in_flight_limits()), worker=2)
    claimed = await rounds.claimed() + await other.claimed()
    assert claimed[limited.endpoint] == 3, "the burst and one"
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


async def test_an_endpoint_that_another_worker_paces_is_passed_by_without_waiting(
    new_queue: NewQueue, data: Pool, rounds: Rounds, limit: Callable[[Queue, int], Awaitable[None]]
) -> None:
    limited, free = await new_queue(9), await new_queue(9)
    await limit(limited, 100)
    assert (await rounds.served())[limited.endpoint] == 4
    async with data.acquire() as tx, tx.transaction():
        assert limited.endpoint in await deliveries.lock_rate_limits(tx, [limited.endpoint])
        assert await rounds.served() == {free.endpoint: 4}
    assert limited.endpoint in await rounds.served()


async def test_only_what_is_found_counts_for_the_rate(
    new_queue: NewQueue, data: Pool, rounds: Rounds, limit: Callable[[Queue, int], Awaitable[None]]
) -> None:
    """A claim that finds less than it was granted leaves the rest of the rate to the next."""
    queue = await new_queue(1)
    await limit(queue, 8)
    assert await rounds.claimed() == {queue.endpoint: 1}
    await queue.add(9)
    assert await rounds.claimed() == {queue.endpoint: 2}


async def test_a_rolled_back_claim_costs_nothing_of_the_rate(
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
