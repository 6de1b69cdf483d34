"""A month goes when it is old enough and nobody needs it, and each reason to keep it is told."""

from collections.abc import Awaitable, Callable
from datetime import timedelta
from uuid import UUID

import asyncpg
import pytest

from schema.connections.database import Database, Pool
from schema.connections.error_kinds import is_transient
from schema.errors import InvalidInput
from schema.event_log import log
from schema.event_log.positions import events_after
from schema.ids import new_id
from schema.modes import Mode
from schema.retention.retention_rules import Ages, Deletion, Month, RowKind
from tests.support.events import record, sequence_all
from tests.support.retention_history import (
    OLD,
    OLDER,
    YOUNG,
    attached,
    finished,
    past,
    retire,
    standing,
    summary,
)

Spoil = Callable[[Pool, asyncpg.Connection], Awaitable[object]]
EVENTS = (str(OLD), "events")


async def count(owner: asyncpg.Connection, table: str) -> int:
    return int(await owner.fetchval(f"SELECT count(*) FROM sandbox.{table}"))


async def test_an_unneeded_month_is_deleted_with_all_its_rows(
    data: Pool, owner: asyncpg.Connection, tenant: UUID, old: list[UUID]
) -> None:
    young = [*await past(data, tenant, YOUNG), await record(data, tenant)]
    await finished(data)
    outcomes = await retire(owner)
    assert summary([o for o in outcomes if o.candidate.month == OLD]) == {EVENTS: []}
    assert all(outcome.freed > 0 for outcome in outcomes)
    assert not await attached(owner, OLD)
    assert await attached(owner, YOUNG)
    for table in ("events", "event_log", "webhook_deliveries", "webhook_attempts"):
        assert await count(owner, table) == len(young)
    assert await retire(owner) == []


async def test_a_plan_changes_nothing_and_matches_the_run(
    data: Pool, owner: asyncpg.Connection, tenant: UUID, old: list[UUID]
) -> None:
    await past(data, tenant, OLDER)
    outcomes = await retire(owner, plan=True)
    assert summary(outcomes)[str(OLDER), "events"] != []
    assert summary(outcomes)[EVENTS] == [f"{OLDER} is older and is kept"]
    await finished(data)
    before = await owner.fetch("SELECT relname, relfilenode FROM pg_class ORDER BY oid")
    triggers = await owner.fetch("SELECT tgrelid, tgname, tgenabled FROM pg_trigger ORDER BY oid")
    outcomes = await retire(owner, plan=True)
    assert summary(outcomes)[EVENTS] == []
    assert await owner.fetch("SELECT relname, relfilenode FROM pg_class ORDER BY oid") == before
    assert await owner.fetch("SELECT tgrelid, tgname, tgenabled FROM pg_trigger ORDER BY oid") == triggers
    assert await count(owner, "retired_months") == 0
    assert summary(await retire(owner)) == summary(outcomes)


async def unsequenced(data: Pool, owner: asyncpg.Connection) -> None:
    await past(data, await data.fetchval("SELECT tenant_id FROM events LIMIT 1"), OLD, 2)


async def not_applied(data: Pool, owner: asyncpg.Connection) -> None:
    await data.execute("INSERT INTO cursors (consumer, pos) VALUES ('fanout', 1)")


async def a_new_consumer(data: Pool, owner: asyncpg.Connection) -> None:
    await owner.execute("INSERT INTO sandbox.consumers VALUES ('feed_rebuild')")


async def a_rebuild_under_way(data: Pool, owner: asyncpg.Connection) -> None:
    await data.execute("SELECT begin_rebuild('activity')")


async def dead(data: Pool, owner: asyncpg.Connection) -> None:
    event = await log.read_one(data, 1)
    assert event is not None
    async with data.acquire() as tx:
        await log.dead_letter(tx, "fanout", event, "poison")


async def dead_lettered_by_a_rebuild(data: Pool, owner: asyncpg.Connection) -> None:
    await a_rebuild_under_way(data, owner)
    event = await log.read_one(data, 1)
    assert event is not None
    await data.execute("INSERT INTO cursors (consumer, pos) VALUES ('activity_rebuild', 3)")
    async with data.acquire() as tx:
        await log.dead_letter(tx, "activity_rebuild", event, "poison")


async def pending(data: Pool, owner: asyncpg.Connection) -> None:
    await data.execute("UPDATE webhook_deliveries SET status = 'pending', due_at = now(), retry_at = now()")


async def leased(data: Pool, owner: asyncpg.Connection) -> None:
    await pending(data, owner)
    await data.execute("UPDATE webhook_deliveries SET lease = 1, leased_by = 1, leased_until = now()")


async def just_settled(data: Pool, owner: asyncpg.Connection) -> None:
    await data.execute("UPDATE webhook_deliveries SET settled_at = now()")


async def uncounted(data: Pool, owner: asyncpg.Connection) -> None:
    await data.execute(
        "INSERT INTO webhook_attempts (id, tenant_id, delivery_id, endpoint_id, created_at, replay, started_at,"
        "                              outcome, total_ms, settled)"
        " SELECT gen_random_uuid(), tenant_id, id, endpoint_id, created_at, true, now(), 'ok', 1, false"
        "   FROM webhook_deliveries LIMIT 1"
    )


async def restored(data: Pool, owner: asyncpg.Connection) -> None:
    """The newest fold speaks of another cluster's transactions."""
    await owner.execute("UPDATE attempt_folds SET folded_at = now()")


async def replay_by_time(data: Pool, owner: asyncpg.Connection) -> None:
    await data.execute(
        "INSERT INTO webhook_replays (id, tenant_id, kind, statuses, since, until, at_time, at_id)"
        " VALUES ($1, $1, 'replay', '{failed}', $2, now(), $2, $1)",
        new_id(),
        OLDER.start,
    )


async def replay_by_position(data: Pool, owner: asyncpg.Connection) -> None:
    await data.execute(
        "INSERT INTO webhook_replays (id, tenant_id, kind, statuses, after_pos, until_pos, at_pos)"
        " VALUES ($1, $1, 'replay', '{failed}', 0, 2, 0)",
        new_id(),
    )


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (unsequenced, "2 events without a position"),
        (not_applied, "consumer fanout is 2 events behind"),
        (a_new_consumer, "consumer feed_rebuild is 3 events behind"),
        (a_rebuild_under_way, "consumer activity_rebuild is 3 events behind"),
        (dead, "1 event dead-lettered by consumer fanout: see duro consumers retry-dead"),
        (
            dead_lettered_by_a_rebuild,
            (
                "1 event dead-lettered by consumer activity_rebuild: finish the rebuild with "
                "duro consumers rebuild activity --mode test, or abandon it with "
                "duro consumers rebuild activity --mode test --give-up"
            ),
        ),
        (pending, "3 deliveries pending"),
        (leased, "3 deliveries pending"),
        (uncounted, "1 attempt not yet in the hourly rollups"),
        (restored, "3 attempts not yet in the hourly rollups"),
        (just_settled, "3 deliveries settled within the last hour"),
        (replay_by_time, "1 replay unfinished (rpl_"),
        (replay_by_position, "1 replay unfinished (rpl_"),
    ],
)
async def test_a_month_in_use_is_kept_with_the_reason(
    data: Pool, owner: asyncpg.Connection, old: list[UUID], spoil: Spoil, reason: str
) -> None:
    await spoil(data, owner)
    for plan in (True, False):
        kept = summary(await retire(owner, plan=plan))[EVENTS]
        assert len(kept) == 1
        assert kept[0].startswith(reason)
    assert await attached(owner, OLD)
    assert (
        await events_after(data, await data.fetchval("SELECT tenant_id FROM events LIMIT 1"), 0)
    ).dropped_up_to is None


async def test_an_inactive_rebuild_keeps_nothing(
    data: Pool, owner: asyncpg.Connection, old: list[UUID]
) -> None:
    await a_rebuild_under_way(data, owner)
    await data.execute("SELECT abandon_rebuild('activity')")
    assert summary(await retire(owner))[EVENTS] == []


@pytest.mark.parametrize("finish", ["finished_at = now()", "at_time = '{end}'", "until = '{start}'"])
async def test_a_replay_outside_the_month_keeps_nothing(
    data: Pool, owner: asyncpg.Connection, old: list[UUID], finish: str
) -> None:
    await replay_by_time(data, owner)
    await data.execute(
        f"UPDATE webhook_replays SET {finish.format(start=OLD.start.isoformat(), end=OLD.end.isoformat())}"
    )
    assert summary(await retire(owner))[EVENTS] == []


async def test_a_kept_month_keeps_later_months(
    data: Pool, owner: asyncpg.Connection, tenant: UUID, old: list[UUID]
) -> None:
    """Also a month that was written last: a history that is brought along is like any other."""
    await past(data, tenant, OLDER)
    kept = summary(await retire(owner))
    assert kept[str(OLDER), "events"][0].startswith("3 events without a position")
    assert kept[EVENTS] == [f"{OLDER} is older and is kept"]
    assert await attached(owner, OLD)
    await finished(data)
    assert set(map(tuple, summary(await retire(owner)).values())) == {()}
    assert not await attached(owner, OLDER)
    assert not await attached(owner, OLD)


async def test_age_counts_from_the_months_end(data: Pool, owner: asyncpg.Connection, old: list[UUID]) -> None:
    now = await owner.fetchval("SELECT now()")
    for spare, gone in ((timedelta(hours=1), False), (timedelta(hours=-1), True)):
        age = now - OLD.end + spare
        outcomes = await retire(owner, Ages(age, age, age))
        assert (EVENTS in summary(outcomes)) == gone


# Less than all of it


async def test_attempts_can_be_deleted_first_and_replays_still_insert(
    data: Pool, owner: asyncpg.Connection, old: list[UUID]
) -> None:
    outcomes = await retire(owner, Ages(attempts=timedelta(days=90)))
    assert {outcome.candidate.deletion for outcome in outcomes} == {Deletion.EMPTY}
    assert await count(owner, "webhook_attempts") == 0
    assert await data.fetchval("SELECT sum(attempts) FROM webhook_deliveries") == 3
    assert await attached(owner, OLD)
    await data.execute("UPDATE webhook_deliveries SET settled_at = now()")
    await finished(data)
    assert await count(owner, "webhook_attempts") == 3
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="append-only"):
        await owner.execute(f"DELETE FROM sandbox.webhook_attempts_{OLD.suffix}")
    await retire(owner, Ages(attempts=timedelta(days=90)))
    assert await retire(owner, Ages(attempts=timedelta(days=90))) == [], "what is empty is no work"


async def test_attempts_are_kept_until_counted_and_settled(
    data: Pool, owner: asyncpg.Connection, old: list[UUID]
) -> None:
    ages = Ages(attempts=timedelta(days=90))
    await uncounted(data, owner)
    assert summary(await retire(owner, ages))[str(OLD), "attempts"] == [
        "1 attempt not yet in the hourly rollups: run a worker"
    ]
    await data.execute("SELECT fold_attempts()")
    await not_applied(data, owner)
    await replay_by_time(data, owner)
    await pending(data, owner)
    assert summary(await retire(owner, ages)) == {(str(OLD), "attempts"): ["3 deliveries pending"]}
    await data.execute("UPDATE webhook_deliveries SET status = 'failed', due_at = NULL, settled_at = now()")
    assert summary(await retire(owner, ages)) == {(str(OLD), "attempts"): []}


async def test_events_of_deleted_deliveries_can_be_sent_again(
    data: Pool, owner: asyncpg.Connection, tenant: UUID, old: list[UUID]
) -> None:
    ages = Ages(deliveries=timedelta(days=90), attempts=timedelta(days=90))
    await not_applied(data, owner)
    assert summary(await retire(owner, ages))[str(OLD), "deliveries"] == [
        "consumer fanout is 2 events behind"
    ]
    await finished(data)
    assert summary(await retire(owner, ages))[str(OLD), "deliveries"] == []
    assert await count(owner, "webhook_deliveries") == await count(owner, "webhook_attempts") == 0
    assert await count(owner, "events") == 3
    await finished(data)
    assert await count(owner, "webhook_deliveries") == 3, "there is a place for them"


async def write_entries(owner: asyncpg.Connection) -> None:
    """One for each event."""
    await owner.execute(
        "INSERT INTO activity (generation, id, tenant_id, created_at, pos, type, summary, links)"
        " SELECT 1, event_id, tenant_id, created_at, pos, 'invoice_created', 'Something happened', '{}' FROM event_log"
        " ON CONFLICT DO NOTHING"
    )


async def deletions_of_entries(
    owner: asyncpg.Connection, ages: Ages, *, plan: bool = False
) -> list[Deletion]:
    outcomes = await retire(owner, ages, plan=plan)
    of_old = [o for o in outcomes if o.candidate.month == OLD and o.candidate.kind is RowKind.ACTIVITY]
    return [outcome.candidate.deletion for outcome in of_old if not outcome.kept]


LINES = Ages(activity=timedelta(days=300))
ALL = Ages(*[timedelta(days=300)] * 4)


async def test_the_feed_is_emptied_before_and_dropped_after_its_events(
    data: Pool, owner: asyncpg.Connection, old: list[UUID]
) -> None:
    await write_entries(owner)
    assert await deletions_of_entries(owner, LINES) == [Deletion.EMPTY]
    assert await count(owner, "activity") == 0
    assert await deletions_of_entries(owner, LINES) == [], "what is empty is no work"
    await write_entries(owner)
    await retire(owner)
    assert await count(owner, "activity") == 3, "lines need no events"
    assert await deletions_of_entries(owner, LINES) == [Deletion.DROP]
    assert (await standing(owner, OLD)).attached == set()


async def test_the_feed_is_dropped_with_its_events(
    data: Pool, owner: asyncpg.Connection, old: list[UUID]
) -> None:
    await write_entries(owner)
    await not_applied(data, owner)
    assert await deletions_of_entries(owner, ALL) == []
    assert await count(owner, "activity") == 3
    await finished(data)
    for plan in (True, False):
        assert await deletions_of_entries(owner, ALL, plan=plan) == [Deletion.DROP]
    assert (await standing(owner, OLD)).attached == set()
    assert await retire(owner, ALL) == []


async def test_the_feed_stays_when_only_deliveries_are_deleted(
    data: Pool, owner: asyncpg.Connection, old: list[UUID]
) -> None:
    await write_entries(owner)
    days = timedelta(days=300)
    assert await deletions_of_entries(owner, Ages(deliveries=days, attempts=days, activity=days)) == [
        Deletion.EMPTY
    ]
    await write_entries(owner)


async def test_a_generation_being_built_is_deleted_too(
    data: Pool, owner: asyncpg.Connection, old: list[UUID]
) -> None:
    await data.execute("SELECT begin_rebuild('activity')")
    assert f"activity_g2_{OLD.suffix}" in (await standing(owner, OLD)).attached
    await finished(data)
    await retire(owner, ALL)
    assert (await standing(owner, OLD)).attached == set()


# Rebuilds


async def rebuild(data: Pool, projection: str = "activity") -> None:
    await data.execute("SELECT begin_rebuild($1)", projection)


async def test_a_feed_with_entries_of_dropped_events_cannot_be_rebuilt(
    data: Pool, owner: asyncpg.Connection, old: list[UUID]
) -> None:
    await write_entries(owner)
    await retire(owner)
    with pytest.raises(
        asyncpg.ObjectNotInPrerequisiteStateError, match=f"{OLD} of activity would be lost"
    ) as refused:
        await rebuild(data)
    assert not is_transient(refused.value), "or it would be tried for ever"
    await retire(owner, ALL)
    await rebuild(data)


async def test_figures_of_dropped_events_cannot_be_counted_again(
    data: Pool, owner: asyncpg.Connection, tenant: UUID, old: list[UUID]
) -> None:
    await owner.execute(
        "CREATE TABLE figures (generation int, n int) PARTITION BY LIST (generation);"
        "SELECT add_projection('figures', 'figures'); INSERT INTO figures VALUES (1, 1)"
    )
    await rebuild(data, "figures")
    await data.execute("SELECT abandon_rebuild('figures')")
    await finished(data)
    await retire(owner)
    with pytest.raises(
        asyncpg.ObjectNotInPrerequisiteStateError, match="past months of figures would be lost"
    ):
        await rebuild(data, "figures")


@pytest.mark.parametrize(
    ("ages", "sentence"),
    [
        ({}, "Nothing to delete"),
        ({"events": 400}, "Deliveries cannot be kept longer than events, .* give --deliveries 400d or less"),
        ({"events": 400, "deliveries": 401, "attempts": 1}, "give --deliveries 400d or less"),
        (
            {"deliveries": 90},
            "Attempts cannot be kept longer than deliveries, .* give --attempts 90d or less",
        ),
        ({"deliveries": 90, "attempts": 91}, "give --attempts 90d or less"),
    ],
)
def test_what_cannot_be_kept_without_another_is_refused(ages: dict[str, int], sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        Ages(**{name: timedelta(days=days) for name, days in ages.items()})


# What is left


async def test_deleted_months_are_reported_and_break_nothing(
    data: Pool, owner: asyncpg.Connection, tenant: UUID, old: list[UUID]
) -> None:
    recent = await record(data, tenant)
    await finished(data)
    await retire(owner)
    page = await events_after(data, tenant, 0)
    assert ([event.id for event in page.events], page.dropped_up_to) == ([recent], 3)
    assert (await events_after(data, tenant, 3)).dropped_up_to is None
    assert await log.read_one(data, 1) is None
    assert [event.pos for event in (await log.read_after(data, 0, 10)).events] == [4]


async def test_a_restore_assigns_no_second_position(
    data: Pool, owner: asyncpg.Connection, tenant: UUID, old: list[UUID]
) -> None:
    """With another cluster's transaction ids, what has no position is looked for in what there is."""
    recent = await record(data, tenant)
    await finished(data)
    await retire(owner)
    await owner.execute("UPDATE sandbox.sequencer SET system_identifier = 1")
    late = await record(data, tenant)
    await sequence_all(data)
    assert [(event.pos, event.id) for event in (await log.read_after(data, 0, 10)).events] == [
        (4, recent),
        (5, late),
    ]


async def test_a_deleted_month_can_be_written_and_deleted_again(
    data: Pool, owner: asyncpg.Connection, tenant: UUID, old: list[UUID]
) -> None:
    await retire(owner)
    again = await past(data, tenant, OLD)
    await finished(data)
    page = await events_after(data, tenant, 3)
    assert [event.id for event in page.events] == again
    assert summary(await retire(owner))[EVENTS] == []
    assert (await events_after(data, tenant, 3)).dropped_up_to == 6


async def test_modes_are_retired_apart(
    database: Database, data: Pool, owner: asyncpg.Connection, tenant: UUID, old: list[UUID]
) -> None:
    live = database.data(Mode.LIVE)
    await past(live, tenant, OLD)
    await finished(live)
    await retire(owner)
    assert (await live.fetchval("SELECT count(*) FROM events"), await count(owner, "events")) == (3, 0)


def test_a_month_ends_where_the_next_begins() -> None:
    from datetime import date

    for first, end in ((date(2026, 12, 1), "2027-01-01"), (date(2028, 2, 1), "2028-03-01")):
        assert f"{Month(first).end:%Y-%m-%d}" == end
