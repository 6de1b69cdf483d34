"""The dispatcher over a real database and real sockets: bounded, fair, and without losses or leaks."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from functools import partial
from uuid import UUID

import pytest
import standardwebhooks

from delivery.dispatcher import DispatchLimits
from delivery.endpoint_secret import generate_secret
from schema import deliveries, delivery_history, endpoints
from schema.database import Database, is_transient
from schema.endpoints import EndpointChanges
from schema.ids import EVENT, format_id
from schema.modes import Mode
from tests.support.engine import AT_ONCE, Engine, Runs, add_endpoint, engine, places, rotate, running
from tests.support.events import record, record_many
from tests.support.receiver import OK, Answer, Received, Receiver, receiving
from tests.support.tcp_proxy import Cut, TcpProxy, proxying


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as receiver:
        yield receiver


@pytest.fixture
async def proxy(db_url: str) -> AsyncIterator[TcpProxy]:
    async with proxying(db_url) as proxy:
        yield proxy


@pytest.fixture
async def far_database(proxy: TcpProxy, db_url: str, key: bytes) -> AsyncIterator[Database]:
    """The database as it is seen through the proxy."""
    async with Database.open(proxy.url(db_url), key) as database:
        yield database


@pytest.fixture
def silence(receiver: Receiver) -> asyncio.Event:
    """What `/slow` waits for before it answers."""
    held = asyncio.Event()
    receiver.answer = lambda request: Answer(held_by=held) if request.path == "/slow" else OK
    return held


@pytest.fixture
def soon_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lease that is known to nobody counts as lost after a moment, not after half a minute."""
    release = partial(deliveries.release_unknown_leases, older_than=timedelta(milliseconds=50))
    monkeypatch.setattr(deliveries, "release_unknown_leases", release)


def ids(events: list[UUID]) -> list[str]:
    return [format_id(EVENT, event) for event in events]


def everything(engine: Engine) -> tuple[Runs, ...]:
    """In the order of starting."""
    return (engine.settler, engine.dispatcher, engine.fanout, engine.sequencer)


async def statuses(engine: Engine) -> list[str]:
    return [row["status"] for row in await engine.rows()]


# Bounds and fairness


async def test_a_flood_never_has_more_in_flight_than_the_limits(
    database: Database, tenant: UUID, receiver: Receiver
) -> None:
    """Per endpoint and in all, on the wire and in memory; what has no place waits in the table, and all arrives once."""
    limits = DispatchLimits(places(20, per_endpoint=8))
    for path in ("/a", "/b", "/c"):
        await add_endpoint(database, tenant, receiver.url + path)
    async with engine(database, limits=limits) as flooded:
        held_in_memory: list[int] = []

        def answer(_request: Received) -> Answer:
            held_in_memory.append(max(flooded.dispatcher.in_flight, len(flooded.dispatcher._under_way)))
            return OK

        receiver.answer = answer
        sent = await record_many(flooded.pool, tenant, 100)
        async with running(*everything(flooded)):
            await flooded.settled.count(300)
            assert flooded.dispatcher.in_flight == 0
        assert await statuses(flooded) == ["delivered"] * 300

    assert receiver.event_ids() == dict.fromkeys(ids(sent), 3)
    assert max(receiver.most_active[path] for path in ("/a", "/b", "/c")) <= 8
    assert receiver.most_active[""] <= 20
    assert max(held_in_memory) <= 20


async def test_what_waits_is_claimed_oldest_first_and_new_events_do_not_overtake_it(
    database: Database, tenant: UUID, receiver: Receiver
) -> None:
    """Even when a place becomes free between the overflow and its claim."""
    answered = asyncio.Event()
    receiver.answer = lambda _request: Answer(held_by=answered)
    await add_endpoint(database, tenant, receiver.url)
    async with engine(database, limits=DispatchLimits(places(per_endpoint=1))) as narrow:
        sent = []
        async with running(narrow.settler):
            for _ in range(4):
                sent.append(await record(narrow.pool, tenant))
                await narrow.hand_over()
            answered.set()
            await narrow.settled.count(1)
            sent.append(await record(narrow.pool, tenant))
            await narrow.hand_over()
            assert [row["status"] for row in await narrow.rows()] == ["delivered"] + ["pending"] * 4
            async with running(narrow.dispatcher):
                await narrow.settled.count(5)
    assert [request.event_id for request in receiver.requests] == ids(sent)


async def test_a_place_is_offered_again_once_nothing_of_the_endpoint_waits(
    database: Database, tenant: UUID, receiver: Receiver
) -> None:
    endpoint_id = await add_endpoint(database, tenant, receiver.url)
    async with engine(database, limits=DispatchLimits(places(per_endpoint=1))) as narrow:
        await record_many(narrow.pool, tenant, 2)
        async with running(narrow.settler):
            await narrow.hand_over()
            await narrow.settled.count(1)
            assert not narrow.dispatcher.reserve(tenant, endpoint_id, 0)
            assert await narrow.dispatcher.claim() == 1
            await narrow.settled.count(2)
            assert await narrow.dispatcher.claim() == 0
            assert narrow.dispatcher.reserve(tenant, endpoint_id, 0)


async def test_a_silent_endpoint_with_a_backlog_does_not_hold_up_another(
    database: Database, tenant: UUID, receiver: Receiver, silence: asyncio.Event
) -> None:
    await add_endpoint(database, tenant, receiver.url + "/slow")
    await add_endpoint(database, tenant, receiver.url + "/fast")
    limits = DispatchLimits(places(12, per_endpoint=5))
    async with engine(database, limits=limits) as shared:
        await record_many(shared.pool, tenant, 60)
        async with running(*everything(shared)):
            await receiver.requests.until(lambda _all: len(receiver.at("/fast")) == 60)
            assert 0 < len(receiver.at("/slow")) <= 5
            silence.set()
            await shared.settled.count(120)


async def test_fewer_places_than_endpoints_go_round(
    database: Database, tenant: UUID, receiver: Receiver
) -> None:
    """Each claim goes on where the one before ran out, so the endpoint with the greatest id has its turn too."""
    paths = [f"/{number}" for number in range(5)]
    for number, path in enumerate(paths):
        await add_endpoint(database, tenant, receiver.url + path, endpoint_id=UUID(int=number + 1))
    async with engine(database, limits=DispatchLimits(places(2))) as small:
        await record_many(small.pool, tenant, 3)
        await small.leave_waiting()
        async with running(small.settler):
            for round_ in range(3):
                assert await small.dispatcher.claim() == 2
                await small.settled.count(2 * round_ + 2)
    assert [request.path for request in receiver.requests][:4] == ["/0", "/1", "/2", "/3"]
    assert {request.path for request in receiver.requests} == set(paths)


async def test_endpoints_of_a_tenant_at_its_cap_take_turns(
    database: Database, tenant: UUID, receiver: Receiver
) -> None:
    """There are places enough, but not for this tenant: still nobody waits for another's backlog to end."""
    paths = [f"/{number}" for number in range(5)]
    for number, path in enumerate(paths):
        await add_endpoint(database, tenant, receiver.url + path, endpoint_id=UUID(int=number + 1))
    async with engine(database, limits=DispatchLimits(places(per_tenant=2))) as ours:
        await record_many(ours.pool, tenant, 4)
        await ours.leave_waiting()
        async with running(ours.settler):
            claimed = 0
            for _ in range(3):
                claimed += await ours.dispatcher.claim()
                await ours.settled.count(claimed)
    assert {request.path for request in receiver.requests} == set(paths)


async def test_two_workers_share_a_backlog_without_repeating_anything(
    database: Database, tenant: UUID, receiver: Receiver
) -> None:
    await add_endpoint(database, tenant, receiver.url)
    limits = DispatchLimits(places(per_endpoint=7))
    async with (
        engine(database, limits=limits) as one,
        engine(database, limits=limits, worker_id=lambda: 2) as other,
    ):
        sent = await record_many(one.pool, tenant, 150)
        await one.leave_waiting()
        async with running(one.settler, other.settler, one.dispatcher, other.dispatcher):
            await receiver.requests.count(150)
        assert await statuses(one) == ["delivered"] * 150
        assert len(one.settled) + len(other.settled) == 150
    assert receiver.event_ids() == dict.fromkeys(ids(sent), 1)


async def test_a_claim_passes_by_what_another_is_claiming(
    database: Database, tenant: UUID, receiver: Receiver
) -> None:
    """Without waiting for it to commit, and without taking the same."""
    endpoint_id = await add_endpoint(database, tenant, receiver.url)
    async with engine(database) as ours:
        await record_many(ours.pool, tenant, 5)
        await ours.leave_waiting()
        async with ours.pool.acquire() as one, ours.pool.acquire() as other:
            first = one.transaction()
            await first.start()
            here = await deliveries.claim(one, [(endpoint_id, 3)], 1, 1)
            async with asyncio.timeout(5):
                there = await deliveries.claim(other, [(endpoint_id, 5)], 2, 2)
            await first.commit()
        assert (len(here), len(there)) == (3, 2)
        assert len({claim.id for claim in (*here, *there)}) == 5


# What an endpoint is by the time of the attempt


async def test_what_waits_for_an_endpoint_that_is_disabled_is_skipped(
    database: Database, tenant: UUID, receiver: Receiver
) -> None:
    endpoint_id = await add_endpoint(database, tenant, receiver.url)
    async with engine(database) as ours:
        await record_many(ours.pool, tenant, 5)
        await ours.leave_waiting()
        shown = await endpoints.show(database.core, endpoint_id)
        await endpoints.disable(ours.pool, shown, "asked for")
        async with running(ours.settler, ours.dispatcher):
            await ours.settled.count(5)
        assert await statuses(ours) == ["skipped"] * 5
        assert await ours.attempts() == []
    assert len(receiver.requests) == 0


async def test_a_retry_goes_to_the_current_url_with_the_current_secret(
    database: Database, tenant: UUID, receiver: Receiver
) -> None:
    old, new = generate_secret(), generate_secret()
    endpoint_id = await add_endpoint(database, tenant, receiver.url + "/old", secret=old)
    receiver.answer = lambda request: Answer(500) if request.path == "/old" else OK
    async with engine(database, policy=AT_ONCE) as ours:
        await record(ours.pool, tenant)
        async with running(ours.settler):
            await ours.hand_over()
            await ours.settled.count(1)
            await endpoints.update(
                database.core, endpoint_id, EndpointChanges(receiver.url + "/new", None, None, None)
            )
            await rotate(database, endpoint_id, new, timedelta(0))
            assert await ours.dispatcher.claim() == 1
            await ours.settled.count(2)

    first, second = receiver.requests
    assert (first.path, second.path) == ("/old", "/new")
    assert first.event_id == second.event_id
    standardwebhooks.Webhook(old).verify(first.body, dict(first.headers))
    standardwebhooks.Webhook(new).verify(second.body, dict(second.headers))
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        standardwebhooks.Webhook(old).verify(second.body, dict(second.headers))


async def test_a_secret_that_does_not_open_is_a_failed_attempt_and_not_tried_again_at_once(
    database: Database, tenant: UUID, receiver: Receiver
) -> None:
    """A worker with the wrong DURO_SECRET_KEY neither loses a delivery nor spins on it; one with the right key sends it."""
    await add_endpoint(database, tenant, receiver.url)
    async with engine(database, key=bytes(32)) as wrong:
        await record(wrong.pool, tenant)
        async with running(*everything(wrong)):
            await wrong.settled.count(1)
            assert await wrong.dispatcher.claim() == 0
        (row,) = await wrong.rows()
        assert (row["status"], row["tries"], row["lease"]) == ("pending", 1, None)
        assert row["due_at"] > datetime.now(UTC) + timedelta(minutes=50)
        (told,) = await wrong.attempts()
        assert (told["outcome"], told["error"]) == ("protocol", "the request could not be prepared")
        assert wrong.dispatcher.in_flight == 0
        await wrong.pool.execute("UPDATE webhook_deliveries SET due_at = now()")
    async with engine(database) as right, running(right.settler, right.dispatcher):
        await receiver.requests.count(1)
        await right.settled.count(1)


# Commits that fail, and commits of unknown fate


@pytest.mark.parametrize("where", Cut)
async def test_a_claim_whose_commit_fails_gives_its_places_back_and_loses_nothing(
    far_database: Database, proxy: TcpProxy, tenant: UUID, receiver: Receiver, where: Cut, soon_lost: None
) -> None:
    """AFTER: the claim was committed without our knowledge, and the audit finds it."""
    await add_endpoint(far_database, tenant, receiver.url)
    limits = DispatchLimits(places(per_endpoint=4), audit_every=timedelta(milliseconds=50))
    async with engine(far_database, limits=limits) as ours:
        sent = await record_many(ours.pool, tenant, 4)
        await ours.leave_waiting()
        proxy.cut_at(b"COMMIT", where)
        with pytest.raises(BaseException) as failed:
            await ours.dispatcher.claim()
        assert is_transient(failed.value)
        assert proxy.was_cut.is_set()
        assert ours.dispatcher.in_flight == 0
        assert await ours.leased() == (4 if where is Cut.AFTER else 0)

        async with running(ours.settler, ours.dispatcher):
            await ours.settled.count(4)
        assert await statuses(ours) == ["delivered"] * 4
    assert receiver.event_ids() == dict.fromkeys(ids(sent), 1)


@pytest.mark.parametrize("where", Cut)
async def test_a_fan_out_whose_commit_fails_gives_its_places_back_and_loses_nothing(
    far_database: Database, proxy: TcpProxy, tenant: UUID, receiver: Receiver, where: Cut, soon_lost: None
) -> None:
    await add_endpoint(far_database, tenant, receiver.url)
    limits = DispatchLimits(places(per_endpoint=4), audit_every=timedelta(milliseconds=50))
    async with engine(far_database, limits=limits) as ours:
        sent = await record_many(ours.pool, tenant, 4)
        await ours.sequencer.step()
        proxy.cut_at(b"COMMIT", where)
        with pytest.raises(BaseException) as failed:
            await ours.fanout.step()
        assert is_transient(failed.value)
        assert ours.dispatcher.in_flight == 0
        assert await ours.leased() == (4 if where is Cut.AFTER else 0)

        async with running(*everything(ours)):
            await ours.settled.count(4)
        assert await statuses(ours) == ["delivered"] * 4
    assert receiver.event_ids() == dict.fromkeys(ids(sent), 1)


async def test_connections_cut_at_every_kind_of_commit_lose_nothing(
    far_database: Database,
    database: Database,
    proxy: TcpProxy,
    tenant: UUID,
    receiver: Receiver,
    soon_lost: None,
) -> None:
    """Eight commits of whatever is committing are cut off, before and after the server has heard of them."""
    await add_endpoint(database, tenant, receiver.url)
    limits = DispatchLimits(places(per_endpoint=4), audit_every=timedelta(milliseconds=50))
    async with engine(far_database, limits=limits, policy=AT_ONCE) as ours:
        sent: list[UUID] = []
        async with running(*everything(ours)):
            for cut in list(Cut) * 4:
                proxy.cut_at(b"COMMIT", cut)
                sent += await record_many(database.data(Mode.TEST), tenant, 10)
                await proxy.was_cut.wait()
            await receiver.requests.until(lambda _all: receiver.event_ids().keys() == set(ids(sent)))
            await ours.settled.until(
                lambda settled: len({result.settlement.claim.id for result in settled}) == len(sent)
            )
            assert ours.dispatcher.in_flight == 0
        assert await statuses(ours) == ["delivered"] * len(sent)


# Stopping, and failing


async def test_a_stop_waits_for_the_attempts_under_way(
    database: Database, tenant: UUID, receiver: Receiver
) -> None:
    await add_endpoint(database, tenant, receiver.url)
    held = asyncio.Event()
    receiver.answer = lambda _request: Answer(held_by=held)
    async with engine(database) as ours:
        await record_many(ours.pool, tenant, 3)
        stop = asyncio.Event()
        async with running(ours.settler):
            draining = asyncio.create_task(ours.dispatcher.run(stop))
            await ours.hand_over()
            await receiver.requests.count(3)
            stop.set()
            done, _ = await asyncio.wait([draining], timeout=0.6)  # longer than a poll of the idle dispatcher
            assert not done
            assert not ours.dispatcher.reserve(tenant, UUID(int=1), 0), "no place is given while draining"
            held.set()
            await draining
        assert await statuses(ours) == ["delivered"] * 3
        assert await ours.leased() == 0


async def test_a_stop_cuts_off_attempts_that_take_too_long(
    database: Database, tenant: UUID, receiver: Receiver
) -> None:
    """Their leases stay, for the worker gives them back as the last thing it does."""
    await add_endpoint(database, tenant, receiver.url)
    held = asyncio.Event()
    receiver.answer = lambda _request: Answer(held_by=held)
    async with engine(database, limits=DispatchLimits(drain_for=timedelta(milliseconds=50))) as ours:
        await record_many(ours.pool, tenant, 3)
        async with running(ours.settler, ours.dispatcher):
            await ours.hand_over()
            await receiver.requests.count(3)
        assert ours.dispatcher.in_flight == 0
        assert await ours.leased() == 3
        assert await statuses(ours) == ["pending"] * 3


async def test_run_again_after_a_stop_it_gives_places_again(
    database: Database, tenant: UUID, receiver: Receiver
) -> None:
    endpoint_id = await add_endpoint(database, tenant, receiver.url)
    async with engine(database) as ours:
        async with running(ours.dispatcher):
            pass
        assert not ours.dispatcher.reserve(tenant, endpoint_id, 0)
        async with running(ours.dispatcher):
            await asyncio.sleep(0)
            assert ours.dispatcher.reserve(tenant, endpoint_id, 0)


async def test_a_failure_of_the_loop_leaves_attempts_and_places_as_they_are(
    database: Database, tenant: UUID, receiver: Receiver
) -> None:
    """The supervisor runs it again, and fan-out hands over as before."""
    endpoint_id = await add_endpoint(database, tenant, receiver.url)
    held = asyncio.Event()
    receiver.answer = lambda _request: Answer(held_by=held)
    trouble = [RuntimeError("a defect")]

    def worker_id() -> int:
        if trouble and receiver.requests:
            raise trouble.pop()
        return 1

    limits = DispatchLimits(audit_every=timedelta(0))
    async with engine(database, worker_id=worker_id, limits=limits) as ours:
        await record_many(ours.pool, tenant, 3)
        await ours.hand_over()
        await receiver.requests.count(3)
        with pytest.raises(RuntimeError, match="a defect"):
            await ours.dispatcher.run(asyncio.Event())
        assert ours.dispatcher.in_flight == 3
        async with running(ours.settler, ours.dispatcher):
            held.set()
            await ours.settled.count(3)
            assert ours.dispatcher.reserve(tenant, endpoint_id, 0)
            ours.dispatcher.give_back(tenant, endpoint_id, 0)
        assert await statuses(ours) == ["delivered"] * 3


# Replays


async def test_a_replay_asked_for_during_an_attempt_makes_one_more_with_the_same_event_id(
    database: Database, tenant: UUID, receiver: Receiver
) -> None:
    await add_endpoint(database, tenant, receiver.url)
    held = asyncio.Event()
    receiver.answer = lambda _request: Answer(held_by=held)
    async with engine(database) as ours:
        await record(ours.pool, tenant)
        async with running(ours.settler, ours.dispatcher):
            await ours.hand_over()
            await receiver.requests.count(1)
            (row,) = await ours.rows()
            assert await delivery_history.replay(ours.pool, tenant, row["id"]) == "pending"
            held.set()
            first, second = await receiver.requests.count(2)
            await ours.settled.count(2)
        assert first.event_id == second.event_id
        (row,) = await ours.rows()
        assert (row["status"], row["attempts"], row["replays"]) == ("delivered", 2, 0)


async def test_a_replay_that_fails_leaves_the_schedule_as_it_was(
    database: Database, tenant: UUID, receiver: Receiver
) -> None:
    await add_endpoint(database, tenant, receiver.url)
    receiver.answer = lambda _request: Answer(500)
    async with engine(database) as ours:
        await record(ours.pool, tenant)
        async with running(ours.settler):
            await ours.hand_over()
            await ours.settled.count(1)
            (before,) = await ours.rows()
            await delivery_history.replay(ours.pool, tenant, before["id"])
            assert await ours.dispatcher.claim() == 1
            await ours.settled.count(2)
        (after,) = await ours.rows()
        assert (after["retry_at"], after["tries"]) == (before["retry_at"], 1)
        assert after["due_at"] == after["retry_at"] > datetime.now(UTC) + timedelta(minutes=50)
        assert [attempt["replay"] for attempt in await ours.attempts()] == [False, True]
