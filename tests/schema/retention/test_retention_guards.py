"""What retention leaves alone, at exact positions, and which of its locks keep whom out."""

from uuid import UUID

import asyncpg
import pytest

from schema.connections.database import Pool
from schema.ids import new_id
from schema.queries import load
from schema.retention.retention_rules import facts_of
from schema.retention.retention_run import unseal_leftovers
from tests.support.retention_history import OLD, OLDER, finished, past
from tests.support.servers.connections import Connect
from tests.support.servers.databases import OWNER

EVENTS = f"events_{OLD.suffix}"
SOON = "SET LOCAL lock_timeout = '200ms'"


async def note(owner: asyncpg.Connection, *, is_over: bool) -> None:
    """The month was deleted, or is being deleted."""
    await owner.execute(
        "INSERT INTO retired_months (month, last_pos, events, tables, finished_at)"
        " VALUES ($1, 0, 0, '{}', CASE WHEN $2 THEN now() END)",
        OLD.first,
        is_over,
    )


async def seal(owner: asyncpg.Connection, partition: str = EVENTS) -> None:
    await owner.execute(load("retention")["seal"], partition)


@pytest.mark.parametrize(("is_over", "may_wait"), [(True, "retiring"), (False, "retired")])
async def test_a_producer_may_wait_unless_the_month_is_being_deleted(
    data: Pool, owner: asyncpg.Connection, tenant: UUID, may_wait: str, *, is_over: bool
) -> None:
    """A month that was deleted once can be written again, and sealed again."""
    await note(owner, is_over=is_over)
    await seal(owner)
    with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError) as refused:
        await past(data, tenant, OLD)
    assert refused.value.constraint_name == may_wait


@pytest.mark.parametrize(("is_over", "opened"), [(True, 1), (False, 0)])
async def test_a_worker_unseals_a_month_unless_it_is_being_deleted(
    data: Pool, owner: asyncpg.Connection, opened: int, *, is_over: bool
) -> None:
    await note(owner, is_over=is_over)
    await seal(owner)
    assert await unseal_leftovers(data) == opened
    assert await unseal_leftovers(data) == 0


@pytest.mark.parametrize("lock", ["lock", "lock_retired_months"])
async def test_no_worker_unseals_while_a_run_decides(
    data: Pool, owner: asyncpg.Connection, connect: Connect, lock: str
) -> None:
    await seal(owner)
    run = await connect(OWNER)
    await run.execute("BEGIN")
    await run.execute(load("retention")[lock])
    assert await unseal_leftovers(data) == 0
    await run.execute("ROLLBACK")
    assert await unseal_leftovers(data) == 1


async def test_a_rebuild_and_the_decision_to_delete_exclude_each_other(
    owner: asyncpg.Connection, connect: Connect
) -> None:
    run, worker = await connect(OWNER), await connect()
    begin, decide = load("projections")["begin_rebuild"], load("retention")["lock_retired_months"]
    await run.execute("BEGIN")
    await run.execute(decide)
    await worker.execute(f"BEGIN; {SOON}")
    with pytest.raises(asyncpg.LockNotAvailableError):
        await worker.fetch(begin, "activity")
    await worker.execute("ROLLBACK")
    await run.execute("ROLLBACK")
    await worker.execute("BEGIN")
    assert len(await worker.fetch(begin, "activity")) == 1
    await run.execute(f"BEGIN; {SOON}")
    with pytest.raises(asyncpg.LockNotAvailableError):
        await run.execute(decide)


async def test_a_delivery_that_is_leased_or_waits_keeps_the_month(
    data: Pool, owner: asyncpg.Connection, tenant: UUID
) -> None:
    await past(data, tenant, OLD)
    await finished(data)
    waits = load("retention")["has_pending_delivery"]
    assert await owner.fetchval(waits, OLD.start, OLD.end) is False
    for change in (
        "status = 'pending', due_at = now(), settled_at = NULL",
        "lease = 1, leased_by = 1, leased_until = now()",
    ):
        await owner.execute(f"UPDATE webhook_deliveries SET {change}")
        assert await owner.fetchval(waits, OLD.start, OLD.end) is True
        assert await owner.fetchval(waits, OLDER.start, OLDER.end) is False
        assert await owner.fetchval(waits, OLD.end, OLD.end.replace(year=OLD.end.year + 1)) is False


@pytest.mark.parametrize(
    ("at_pos", "until_pos", "needs_it"),
    [(0, 3, False), (0, 4, True), (3, 9, True), (5, 9, True), (6, 9, False)],
)
async def test_a_replay_needs_a_month_that_has_a_position_before_it(
    data: Pool, owner: asyncpg.Connection, tenant: UUID, at_pos: int, until_pos: int, *, needs_it: bool
) -> None:
    """The month has positions 4 to 6."""
    for month in (OLDER, OLD):
        await past(data, tenant, month)
        await finished(data)
    await data.execute(
        "INSERT INTO webhook_replays (id, tenant_id, kind, statuses, after_pos, until_pos, at_pos)"
        " VALUES ($1, $2, 'replay', '{failed}', 0, $4, $3)",
        new_id(),
        tenant,
        at_pos,
        until_pos,
    )
    facts = await facts_of(owner, OLD)
    assert (facts.first_pos, facts.last_pos, bool(facts.replays)) == (4, 6, needs_it)


async def test_a_consumer_holds_a_month_until_its_last_position(
    data: Pool, owner: asyncpg.Connection, tenant: UUID
) -> None:
    await past(data, tenant, OLD)
    await finished(data)
    for pos, behind in ((3, {}), (2, {"fanout": 1}), (0, {"fanout": 3})):
        await data.execute("INSERT INTO cursors (consumer, pos) VALUES ('fanout', $1)", pos)
        assert (await facts_of(owner, OLD)).behind == behind


async def test_an_emptied_partition_is_append_only_again(owner: asyncpg.Connection) -> None:
    partition = f"webhook_attempts_{OLD.suffix}"
    await owner.execute(load("retention")["truncate"], partition)
    enabled = "SELECT tgenabled FROM pg_trigger WHERE tgrelid = $1::text::regclass AND tgname = 'append_only'"
    assert await owner.fetchval(enabled, partition) == b"A"
