"""Replay jobs: only the selected deliveries, each once, whatever dies or runs at the same time."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from random import Random
from uuid import UUID

import asyncpg
import pytest

from schema.connections.database import Database
from schema.core import endpoints
from schema.deliveries import replay_steps, replays
from schema.deliveries.deliveries import Lane, Verdict
from schema.deliveries.replay_steps import step
from schema.deliveries.replays import UNDELIVERED, PositionRange, Replay, ReplayKind, TimeRange
from schema.errors import Conflict
from schema.event_log import log
from schema.ids import new_id
from schema.modes import Mode
from schema.pages import After
from tests.support.deliveries import Queue, new_endpoint
from tests.support.events import record, record_many, sequence_all
from tests.support.servers.connections import Connect

HOUR = timedelta(hours=1)
EVERYTHING = TimeRange(datetime(2020, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC))
ENDS = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
WHOLE_LOG = PositionRange(0, None)
TYPES = ("invoice_created",)


@pytest.fixture
async def queue(database: Database, tenant: UUID) -> Queue:
    return Queue(database.data(Mode.TEST), tenant, await new_endpoint(database, tenant))


async def settled(queue: Queue, verdict: Verdict, count: int = 1) -> list[UUID]:
    ids = await queue.add(count)
    for claim in await queue.claim():
        await queue.settle(claim, verdict)
    return ids


async def begin(
    queue: Queue,
    *statuses: str,
    endpoint: UUID | None = None,
    events: TimeRange | PositionRange = EVERYTHING,
    kind: ReplayKind = ReplayKind.REPLAY,
) -> Replay:
    chosen = () if kind is ReplayKind.BACKFILL else statuses or UNDELIVERED
    return await replays.begin(queue.data, new_id(), queue.tenant, kind, endpoint, chosen, events)


async def finish(queue: Queue, job: Replay, size: int = 1000, types: Sequence[str] = TYPES) -> Replay:
    while job.finished_at is None:
        job = await step(queue.data, job.id, types, size)
    return job


async def replay(queue: Queue, *statuses: str, **asked: object) -> Replay:
    return await finish(queue, await begin(queue, *statuses, **asked))  # type: ignore[arg-type]


async def claimable(queue: Queue) -> set[UUID]:
    return {claim.id for claim in await queue.claim(room=1000)}


SPANS = pytest.mark.parametrize("events", [EVERYTHING, WHOLE_LOG], ids=["by time", "by position"])


@SPANS
async def test_only_deliveries_with_the_given_statuses_are_replayed(
    queue: Queue, events: TimeRange | PositionRange
) -> None:
    by_verdict = {
        verdict: await settled(queue, verdict)
        for verdict in (Verdict.DELIVERED, Verdict.FAILED, Verdict.SKIPPED)
    }
    assert (await replay(queue, "failed", events=events)).replayed == 1
    assert await claimable(queue) == set(by_verdict[Verdict.FAILED])
    assert (await replay(queue, "skipped", "delivered", events=events)).replayed == 2
    assert await claimable(queue) == {*by_verdict[Verdict.SKIPPED], *by_verdict[Verdict.DELIVERED]}


@SPANS
async def test_a_pending_delivery_keeps_its_schedule(queue: Queue, events: TimeRange | PositionRange) -> None:
    (delivery,) = await queue.add()
    await queue.settle(await queue.claim_one(), Verdict.RETRY, retry_in=HOUR)
    before = await queue.show(delivery)
    for statuses in (UNDELIVERED, replays.SETTLED):
        assert (await replay(queue, *statuses, events=events)).replayed == 0
    assert await queue.show(delivery) == before
    with pytest.raises(asyncpg.CheckViolationError):
        await begin(queue, "pending", events=events)


@SPANS
async def test_replayed_deliveries_get_a_full_schedule_in_the_retry_lane(
    queue: Queue, events: TimeRange | PositionRange
) -> None:
    (failed,) = await settled(queue, Verdict.FAILED)
    (never_tried,) = await queue.add(enabled=False)
    await replay(queue, events=events)
    assert await queue.claim(lanes=(Lane.FIRST,)) == []
    claims = await queue.claim(lanes=(Lane.RETRY,))
    assert {(claim.id, claim.schedule_attempts, claim.replay) for claim in claims} == {
        (failed, 0, False),
        (never_tried, 0, False),
    }


async def test_a_single_replay_waits_in_the_retry_lane_too(queue: Queue) -> None:
    (skipped,) = await queue.add(enabled=False)
    (fresh,) = await queue.add()
    for delivery in (skipped, fresh):
        await queue.replay(delivery)
    assert [claim.id for claim in await queue.claim(lanes=(Lane.FIRST,))] == [fresh]
    assert [claim.id for claim in await queue.claim(lanes=(Lane.RETRY,))] == [skipped]


@SPANS
async def test_a_second_replay_works_like_the_first(queue: Queue, events: TimeRange | PositionRange) -> None:
    ids = await settled(queue, Verdict.FAILED, 3)
    for _ in range(3):
        assert (await replay(queue, events=events)).replayed == 3
        claims = await queue.claim()
        assert {claim.id for claim in claims} == set(ids)
        for claim in claims:
            await queue.settle(claim, Verdict.FAILED)


@SPANS
async def test_a_replay_is_limited_to_its_endpoint_and_tenant(
    database: Database, queue: Queue, events: TimeRange | PositionRange
) -> None:
    other = Queue(queue.data, queue.tenant, await new_endpoint(database, queue.tenant))
    ours, theirs = await settled(queue, Verdict.FAILED), await settled(other, Verdict.FAILED)
    stranger = Queue(queue.data, UUID(int=1), queue.endpoint)
    assert (await replay(stranger, events=events)).examined == 0
    assert (await replay(stranger, events=events, endpoint=queue.endpoint)).examined == 0
    assert (await replay(queue, events=events, endpoint=other.endpoint)).replayed == 1
    assert (await claimable(queue), await claimable(other)) == (set(), set(theirs))
    assert (await replay(queue, events=events)).replayed == 1
    assert await claimable(queue) == set(ours)


@pytest.mark.parametrize("statuses", [("failed",), ("failed", "delivered")])
async def test_times_select_events_from_since_to_before_until(queue: Queue, statuses: Sequence[str]) -> None:
    ids = await settled(queue, Verdict.FAILED, 4)
    moments = [(await queue.show(id_)).created_at for id_ in ids]
    job = await replay(queue, *statuses, events=TimeRange(moments[1], moments[3]))
    assert (job.replayed, job.examined) == (2, 2)
    assert await claimable(queue) == set(ids[1:3])


async def test_positions_select_events_after_the_first_to_the_last(queue: Queue) -> None:
    ids = await settled(queue, Verdict.FAILED, 5)
    assert (await replay(queue, events=PositionRange(1, 3))).replayed == 2
    assert await claimable(queue) == set(ids[1:3])
    job = await replay(queue, events=PositionRange(3, None))
    assert (job.until_pos, job.replayed) == (5, 2)
    assert await claimable(queue) == set(ids[3:])


async def test_an_event_that_was_committed_late_counts_by_its_position(
    queue: Queue, connect: Connect
) -> None:
    """It was recorded before the event at the position, and committed after it."""
    slow = await connect()
    async with slow.transaction():
        early = await record(slow, queue.tenant)
        await record(queue.data, queue.tenant)
        await sequence_all(queue.data)
        position = await queue.data.fetchval("SELECT max(pos) FROM event_log")
    await sequence_all(queue.data)
    job = await begin(
        queue, kind=ReplayKind.BACKFILL, endpoint=queue.endpoint, events=PositionRange(position, None)
    )
    assert (await finish(queue, job)).replayed == 1
    assert [claim.event_id for claim in await queue.claim()] == [early]


@SPANS
async def test_deliveries_of_disabled_endpoints_are_skipped_and_counted(
    database: Database, queue: Queue, events: TimeRange | PositionRange
) -> None:
    off = Queue(queue.data, queue.tenant, await new_endpoint(database, queue.tenant))
    left = await settled(off, Verdict.FAILED, 2)
    await settled(off, Verdict.DELIVERED)
    await settled(queue, Verdict.FAILED)
    await endpoints.disable(queue.data, await endpoints.show(database.core, off.endpoint), "asked for")
    job = await replay(queue, events=events)
    assert (job.replayed, job.skipped) == (1, 2)
    assert [(await off.show(id_)).status for id_ in left] == ["failed", "failed"]


async def test_replayed_deliveries_of_a_paused_endpoint_wait(database: Database, queue: Queue) -> None:
    (delivery,) = await settled(queue, Verdict.FAILED)
    await endpoints.pause(database.core, await endpoints.show(database.core, queue.endpoint))
    job = await replay(queue)
    assert (job.replayed, job.skipped) == (1, 0)
    assert (await queue.show(delivery)).status == "pending"


@SPANS
async def test_steps_are_bounded_and_come_to_an_end(
    database: Database,
    queue: Queue,
    new_tenant: Callable[[], Awaitable[UUID]],
    events: TimeRange | PositionRange,
) -> None:
    """Each event of this tenant has three deliveries, and most of the log is another's."""
    others = [Queue(queue.data, queue.tenant, await new_endpoint(database, queue.tenant)) for _ in range(2)]
    stranger = await new_tenant()
    for _ in range(3):
        await record_many(queue.data, stranger, 60)
        await settled(queue, Verdict.FAILED, 2)
    for other in others:
        await backfill(other, events=EVERYTHING)
        for claim in await other.claim():
            await other.settle(claim, Verdict.FAILED)
    job = await begin(queue, *replays.SETTLED, events=events)
    changed: list[int] = []
    while job.finished_at is None:
        before, job = job, await step(queue.data, job.id, TYPES, 4)
        changed.append(job.replayed - before.replayed)
        assert 0 <= before.progress <= job.progress <= 1
    assert sum(changed) == job.replayed == job.examined == 18
    assert max(changed) <= 4


FAIL_AT_COMMIT = """
CREATE FUNCTION public.fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not today'; END $$;
CREATE CONSTRAINT TRIGGER fail AFTER UPDATE ON sandbox.webhook_replays
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION public.fail();
"""


@pytest.mark.parametrize("kind", ReplayKind)
@SPANS
async def test_each_delivery_is_replayed_once_even_if_steps_die(
    database: Database,
    queue: Queue,
    owner: asyncpg.Connection,
    kind: ReplayKind,
    events: TimeRange | PositionRange,
) -> None:
    ids = await settled(queue, Verdict.FAILED, 40)
    endpoint = queue.endpoint if kind is ReplayKind.REPLAY else await new_endpoint(database, queue.tenant)
    rng = Random(f"{kind} {events}")
    job = await begin(queue, kind=kind, endpoint=endpoint, events=events)
    await owner.execute(FAIL_AT_COMMIT)
    while job.finished_at is None:
        size, dies = rng.randint(1, 9), rng.random() < 0.5
        await owner.execute(f"ALTER TABLE webhook_replays {'ENABLE' if dies else 'DISABLE'} TRIGGER fail")
        if dies:
            with pytest.raises(asyncpg.RaiseError):
                await step(queue.data, job.id, TYPES, size)
            assert await replays.find(queue.data, job.id) == job
        else:
            job = await step(queue.data, job.id, TYPES, size)
    assert job.replayed == len(ids)
    claimed = await Queue(queue.data, queue.tenant, endpoint).claim()
    assert len(claimed) == len(ids)
    if kind is ReplayKind.REPLAY:
        assert {claim.id for claim in claimed} == set(ids)


@pytest.mark.parametrize("kind", ReplayKind)
@SPANS
async def test_two_processes_at_one_job_take_turns(
    database: Database, queue: Queue, kind: ReplayKind, events: TimeRange | PositionRange
) -> None:
    ids = await settled(queue, Verdict.FAILED, 30)
    endpoint = queue.endpoint if kind is ReplayKind.REPLAY else await new_endpoint(database, queue.tenant)
    job = await begin(queue, kind=kind, endpoint=endpoint, events=events)
    finished = await asyncio.gather(*(finish(queue, job, size=3) for _ in range(3)))
    assert {(job.replayed, job.examined) for job in finished} == {(len(ids), len(ids))}
    assert len(await Queue(queue.data, queue.tenant, endpoint).claim()) == len(ids)


async def test_a_process_that_hangs_in_a_step_is_reported(
    queue: Queue, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    sql = {**replay_steps._SQL, "set_lock_timeout": "SET LOCAL lock_timeout = '50ms'"}
    monkeypatch.setattr(replay_steps, "_SQL", sql)
    job = await begin(queue)
    holder = await connect()
    async with holder.transaction():
        await holder.execute("SELECT FROM webhook_replays WHERE id = $1 FOR UPDATE", job.id)
        with pytest.raises(Conflict, match="hangs in a step"):
            await step(queue.data, job.id, TYPES)
    assert (await finish(queue, job)).finished_at


async def test_a_finished_job_does_not_change(queue: Queue) -> None:
    await settled(queue, Verdict.FAILED)
    job = await replay(queue)
    await queue.settle(await queue.claim_one(), Verdict.FAILED)
    assert await step(queue.data, job.id, TYPES) == job
    assert await queue.claim() == []


async def backfill(queue: Queue, events: TimeRange | PositionRange = WHOLE_LOG) -> Replay:
    job = await begin(queue, kind=ReplayKind.BACKFILL, endpoint=queue.endpoint, events=events)
    return await finish(queue, job)


@SPANS
async def test_a_backfill_adds_only_missing_deliveries(
    database: Database, queue: Queue, events: TimeRange | PositionRange
) -> None:
    first, second = await settled(queue, Verdict.DELIVERED), await queue.add()
    new = Queue(queue.data, queue.tenant, await new_endpoint(database, queue.tenant))
    assert (await backfill(new, events)).replayed == 2
    claims = await new.claim()
    assert {claim.event_id for claim in claims} == {
        (await queue.show(id_)).event_id for id_ in (*first, *second)
    }
    assert {(claim.lane, claim.schedule_attempts, claim.replay) for claim in claims} == {
        (Lane.RETRY, 0, False)
    }
    for claim in claims:
        await new.settle(claim, Verdict.DELIVERED)

    (third,) = await settled(queue, Verdict.DELIVERED)
    again = await backfill(new, events)
    assert (again.replayed, again.examined) == (1, 3)
    assert (await new.claim_one()).event_id == (await queue.show(third)).event_id


@SPANS
async def test_a_backfill_adds_only_the_tenants_events_of_its_types(
    queue: Queue, new_tenant: Callable[[], Awaitable[UUID]], events: TimeRange | PositionRange
) -> None:
    wanted = await record(queue.data, queue.tenant, "invoice_created")
    await record(queue.data, queue.tenant, "subscription_created")
    await record(queue.data, await new_tenant(), "invoice_created")
    await sequence_all(queue.data)
    job = await backfill(queue, events)
    assert (job.examined, job.replayed) == (2, 1)
    assert [claim.event_id for claim in await queue.claim()] == [wanted]


@SPANS
async def test_a_backfill_stops_for_a_disabled_endpoint_and_resumes_later(
    database: Database, queue: Queue, events: TimeRange | PositionRange
) -> None:
    await record_many(queue.data, queue.tenant, 4)
    await sequence_all(queue.data)
    job = await begin(queue, kind=ReplayKind.BACKFILL, endpoint=queue.endpoint, events=events)
    job = await step(queue.data, job.id, TYPES, 3)
    endpoint = await endpoints.show(database.core, queue.endpoint)
    await endpoints.disable(queue.data, endpoint, "asked for")
    with pytest.raises(Conflict, match="duro endpoint enable"):
        await step(queue.data, job.id, TYPES, 3)
    await endpoints.enable(queue.data, endpoint)
    assert (await finish(queue, job)).replayed == 4


async def test_a_tenants_jobs_are_listed_newest_first(database: Database, queue: Queue) -> None:
    jobs = [await begin(queue) for _ in range(3)]
    first = await replays.list_replays(queue.data, queue.tenant, After(), 2)
    rest = await replays.list_replays(queue.data, queue.tenant, After.read(first.next_cursor), 2)
    assert [job.id for job in (*first.items, *rest.items)] == [job.id for job in reversed(jobs)]
    assert not (await replays.list_replays(queue.data, UUID(int=1), After(), 2)).items
    assert await replays.find(database.data(Mode.LIVE), jobs[0].id) is None


async def test_skipped_deliveries_are_counted_with_their_earliest_time(queue: Queue) -> None:
    await settled(queue, Verdict.SKIPPED)
    await queue.data.execute("UPDATE webhook_deliveries SET settled_at = settled_at - interval '1 hour'")
    ids = await settled(queue, Verdict.SKIPPED, 3)
    await settled(queue, Verdict.FAILED, 2)
    moment = datetime.now(UTC) - timedelta(minutes=10)
    skipped = await replays.skipped_since(queue.data, queue.tenant, queue.endpoint, moment)
    assert skipped == replays.SkippedCount(3, (await queue.show(ids[0])).created_at, more=False)
    assert not (await replays.skipped_since(queue.data, queue.tenant, queue.endpoint, moment, 6)).more
    assert (await replays.skipped_since(queue.data, queue.tenant, UUID(int=1), moment)).count == 0
    assert (await replays.skipped_since(queue.data, UUID(int=1), queue.endpoint, moment)).count == 0


async def test_a_count_at_its_limit_starts_the_replay_at_the_oldest(queue: Queue) -> None:
    oldest, *_ = [*await settled(queue, Verdict.FAILED), *await settled(queue, Verdict.SKIPPED, 4)]
    await settled(queue, Verdict.FAILED, 2)
    moment = datetime.now(UTC) - timedelta(minutes=10)
    since = (await queue.show(oldest)).created_at
    for most, counted in ((3, 2), (1, 0)):
        skipped = await replays.skipped_since(queue.data, queue.tenant, queue.endpoint, moment, most)
        assert skipped == replays.SkippedCount(counted, since, more=True)
    job = await replay(queue, "skipped", endpoint=queue.endpoint, events=TimeRange(since, None))
    assert job.replayed == 4


@pytest.mark.parametrize(
    "times", [TimeRange(ENDS[0], None), TimeRange(EVERYTHING.since, ENDS[1])], ids=["since", "until"]
)
async def test_no_job_has_a_time_that_is_infinity_to_the_database(queue: Queue, times: TimeRange) -> None:
    with pytest.raises(asyncpg.CheckViolationError):
        await begin(queue, events=times)
    assert not (await replays.list_replays(queue.data, queue.tenant, After(), 2)).items


async def test_now_is_by_the_databases_clock(queue: Queue) -> None:
    before = await replays.now(queue.data)
    job = await begin(queue, events=TimeRange(EVERYTHING.since, None))
    assert job.until is not None
    assert before < job.until < await replays.now(queue.data)


@SPANS
async def test_a_replay_for_one_endpoint_reads_only_its_deliveries(
    database: Database, queue: Queue, events: TimeRange | PositionRange
) -> None:
    other = Queue(queue.data, queue.tenant, await new_endpoint(database, queue.tenant))
    await settled(queue, Verdict.DELIVERED, 3)
    await settled(other, Verdict.DELIVERED, 2)
    job = await replay(queue, "delivered", endpoint=other.endpoint, events=events)
    assert (job.examined, job.replayed) == (2, 2)
    assert (await replay(queue, "delivered", events=events)).examined == 5


async def test_a_later_fan_out_adds_no_second_delivery(database: Database, queue: Queue) -> None:
    from consumers.consumer import Consumer
    from consumers.fanout import FanOut, NoSlots

    await record_many(queue.data, queue.tenant, 3)
    await sequence_all(queue.data)
    assert (await backfill(queue)).replayed == 3
    await Consumer(queue.data, FanOut(NoSlots(), lambda: 0)).step()
    assert await log.backlog(queue.data, "fanout") == 0
    assert len(await queue.claim()) == 3
