"""Each comparison with the database's clock, at the exact moment and one microsecond on either side of it.

In a transaction now() stands still, so a row can lie exactly on the edge.
"""

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import asyncpg
import pytest

from schema.connections.database import Connection, Database
from schema.deliveries import deliveries, endpoint_health
from schema.deliveries.deliveries import Lane
from schema.ids import new_id
from schema.modes import Mode
from schema.queries import load
from schema.read_models import metrics
from schema.retention.retention_rules import Month, facts_of
from tests.support.billing.wallets import new_phone
from tests.support.deliveries import LEASE_FOR, WORKER, Queue, new_endpoint

STEP: Final = timedelta(microseconds=1)
MOMENTS: Final = (-STEP, timedelta(0), STEP)
AGE: Final = timedelta(minutes=5)
LONGEST_OPENING: Final = timedelta(seconds=330)
OTHER: Final = 4711


@pytest.fixture
async def tx(database: Database) -> AsyncIterator[Connection]:
    """A transaction of test mode that is undone."""
    async with database.data(Mode.TEST).acquire() as tx:
        transaction = tx.transaction()
        await transaction.start()
        yield tx
        await transaction.rollback()


@pytest.fixture
async def core_tx(database: Database) -> AsyncIterator[Connection]:
    async with database.core.acquire() as tx:
        transaction = tx.transaction()
        await transaction.start()
        yield tx
        await transaction.rollback()


@pytest.fixture
async def queue(database: Database, tenant: UUID) -> Queue:
    return Queue(database.data(Mode.TEST), tenant, await new_endpoint(database, tenant))


async def due_from_now(tx: Connection, after: timedelta) -> None:
    await tx.execute("UPDATE webhook_deliveries SET due_at = now() + $1::interval", after)


async def test_a_delivery_can_be_claimed_from_the_moment_when_it_is_due(queue: Queue, tx: Connection) -> None:
    await queue.add()
    found = []
    for after in reversed(MOMENTS):
        await due_from_now(tx, after)
        (waiting,) = await deliveries.endpoints_waiting(tx, Lane.FIRST, UUID(int=0), 10)
        claimed = await deliveries.claim(tx, Lane.FIRST, [(queue.endpoint, 1)], 1, WORKER)
        await tx.execute("UPDATE webhook_deliveries SET lease = NULL, leased_by = NULL, leased_until = NULL")
        assert waiting.claimable == bool(claimed)
        found.append(len(claimed))
    assert found == [0, 1, 1]


async def test_a_delivery_is_skipped_from_the_moment_when_it_is_due(queue: Queue, tx: Connection) -> None:
    await queue.add()
    await tx.execute("SELECT disable_endpoint($1, 'asked for', NULL)", queue.endpoint)
    await due_from_now(tx, STEP)
    assert await deliveries.skip_waiting(tx, Lane.FIRST, queue.endpoint, 10) == 0
    await due_from_now(tx, timedelta(0))
    assert await deliveries.skip_waiting(tx, Lane.FIRST, queue.endpoint, 10) == 1


async def test_an_enabled_endpoints_deliveries_are_never_skipped(queue: Queue, tx: Connection) -> None:
    """It may have been enabled since it was seen disabled."""
    await queue.add()
    await due_from_now(tx, timedelta(0))
    assert await deliveries.skip_waiting(tx, Lane.FIRST, queue.endpoint, 10) == 0


async def test_a_breaker_is_half_open_from_the_end_of_its_opening(
    queue: Queue, tx: Connection, tenant: UUID
) -> None:
    """And when it seems to be open for longer than any breaker opens: then the clock was set back."""
    await queue.add()
    await due_from_now(tx, timedelta(0))
    await tx.execute(
        "INSERT INTO endpoint_health (endpoint_id, tenant_id, openings) VALUES ($1, $2, 1)",
        queue.endpoint,
        tenant,
    )
    found = []
    for until in (*MOMENTS, LONGEST_OPENING, LONGEST_OPENING + STEP):
        await tx.execute("UPDATE endpoint_health SET open_until = now() + $1::interval", until)
        (waiting,) = await deliveries.endpoints_waiting(tx, Lane.FIRST, UUID(int=0), 10)
        counted = await metrics.unhealthy_endpoints(tx)
        assert (counted.open, counted.half_open) == (not waiting.claimable, waiting.claimable)
        found.append(waiting.claimable)
    assert found == [True, True, False, False, True]


async def test_waiting_deliveries_are_due_and_overdue_from_the_exact_moment(
    queue: Queue, tx: Connection
) -> None:
    await queue.add()
    found = []
    for after in (*MOMENTS, *(moment - metrics.OVERDUE_AFTER for moment in MOMENTS)):
        await due_from_now(tx, after)
        counted = await metrics.waiting(tx, Lane.FIRST)
        found.append((counted.due, counted.overdue))
    assert found == [(1, 0), (1, 0), (0, 0), (1, 1), (1, 1), (1, 0)]


async def lease(tx: Connection, queue: Queue, until: timedelta) -> None:
    await queue.add()
    await tx.execute(
        "UPDATE webhook_deliveries SET lease = 1, leased_by = $1, leased_until = now() + $2::interval",
        OTHER,
        until,
    )


@pytest.mark.parametrize(("beyond", "released"), [(-STEP, 1), (timedelta(0), 0), (STEP, 0)])
async def test_a_lease_is_given_back_when_it_is_older_than_an_attempt_may_take(
    queue: Queue, tx: Connection, beyond: timedelta, released: int
) -> None:
    """Of this worker without its knowledge, and of a worker that is not registered."""
    await lease(tx, queue, LEASE_FOR - AGE + beyond)
    of_nobody = await deliveries.release_orphans(tx, [], LEASE_FOR, AGE)
    await tx.execute(
        "UPDATE webhook_deliveries SET lease = 1, leased_by = $1, leased_until = now() + $2::interval",
        OTHER,
        LEASE_FOR - AGE + beyond,
    )
    unknown = await deliveries.release_unknown_leases(tx, OTHER, [2], LEASE_FOR, AGE)
    assert (of_nobody, unknown) == (released, released)


async def test_a_lease_that_is_known_is_never_given_back(queue: Queue, tx: Connection) -> None:
    await lease(tx, queue, -LEASE_FOR)
    assert await deliveries.release_unknown_leases(tx, OTHER, [2, 1], LEASE_FOR, AGE) == 0
    assert await deliveries.release_unknown_leases(tx, OTHER + 1, [], LEASE_FOR, AGE) == 0
    assert await deliveries.release_leases(tx, [OTHER], [2]) == 0
    assert await deliveries.release_leases(tx, [OTHER + 1], [1]) == 0
    assert await deliveries.release_leases(tx, [OTHER], [1]) == 1


@pytest.mark.parametrize(("beyond", "released"), [(-STEP, 1), (timedelta(0), 0), (STEP, 0)])
async def test_a_living_workers_lease_ends_after_twice_its_duration(
    queue: Queue, tx: Connection, beyond: timedelta, released: int
) -> None:
    await lease(tx, queue, -LEASE_FOR + beyond)
    assert await deliveries.release_orphans(tx, [OTHER], LEASE_FOR, AGE) == released


async def test_an_endpoint_is_looked_at_from_the_moment_when_it_has_failed_for_long_enough(
    queue: Queue, tx: Connection, tenant: UUID
) -> None:
    await tx.execute(
        "INSERT INTO endpoint_health (endpoint_id, tenant_id, last_failure_at) VALUES ($1, $2, now())",
        queue.endpoint,
        tenant,
    )
    found = []
    for moment in MOMENTS:
        await tx.execute("UPDATE endpoint_health SET failing_since = now() - $1::interval", AGE - moment)
        found.append(len(await endpoint_health.failing(tx, AGE, None, 10)))
    assert found == [1, 1, 0]


async def test_a_warning_is_given_once_and_of_the_present_failing_alone(
    queue: Queue, tx: Connection, tenant: UUID
) -> None:
    await tx.execute(
        "INSERT INTO endpoint_health (endpoint_id, tenant_id, failing_since, last_failure_at) VALUES ($1, $2, now(), now())",
        queue.endpoint,
        tenant,
    )
    warn, reset = load("endpoint_health")["warn"], load("endpoint_health")["reset_health"]
    since: datetime = await tx.fetchval("SELECT failing_since FROM endpoint_health")
    assert await tx.fetchrow(warn, queue.endpoint, since - STEP, 50) is None
    assert await tx.fetchrow(warn, queue.endpoint, since + STEP, 50) is None
    assert await tx.fetchrow(warn, queue.endpoint, since, 50) is not None
    assert await tx.fetchrow(warn, queue.endpoint, since, 50) is None
    assert await tx.fetchrow(reset, queue.endpoint, since - STEP) is None
    assert await tx.fetchrow(reset, queue.endpoint, since + STEP) is None
    assert await tx.fetchrow(reset, queue.endpoint, since) is not None


async def test_a_secret_signs_until_its_end_and_not_at_it(database: Database, tenant: UUID) -> None:
    """In core, and as each mode sees it."""
    endpoint = await new_endpoint(database, tenant)
    found = []
    async with database.core.acquire() as tx, tx.transaction():
        for moment in MOMENTS:
            await tx.execute("UPDATE webhook_endpoint_secrets SET expires_at = now() + $1::interval", moment)
            shown = await tx.fetchrow(load("endpoints")["show"], endpoint)
            (listed,) = await tx.fetch(load("endpoints")["list"], tenant, "test", None, UUID(int=0), 10)
            assert shown["secrets"] == listed["secrets"]
            found.append(shown["secrets"])
        for moment in reversed(MOMENTS):
            await tx.execute("UPDATE webhook_endpoint_secrets SET expires_at = now() + $1::interval", moment)
            await tx.execute(load("endpoints")["drop_expired_secrets"], endpoint)
            found.append(await tx.fetchval("SELECT count(*) FROM webhook_endpoint_secrets"))
            if not found[-1]:
                break
    assert found == [0, 0, 1, 1, 0]


async def test_a_mode_signs_with_a_secret_until_its_end_and_not_at_it(
    database: Database, tenant: UUID, owner: asyncpg.Connection
) -> None:
    await new_endpoint(database, tenant)
    found = []
    async with owner.transaction():
        for moment in MOMENTS:
            await owner.execute(
                "UPDATE core.webhook_endpoint_secrets SET expires_at = now() + $1::interval", moment
            )
            found.append(
                await owner.fetchval("SELECT cardinality(sealed_secrets) FROM sandbox.webhook_endpoints")
            )
    assert found == [0, 0, 1]


async def start_challenge(core_tx: Connection, phone: str, expires_in: timedelta) -> UUID:
    challenge = new_id()
    await core_tx.execute(
        "INSERT INTO otp_challenges (id, phone, code_hash, created_at, expires_at)"
        " VALUES ($1, $2, $3, now() - interval '10 min', now() + $4::interval)",
        challenge,
        phone,
        bytes(32),
        expires_in,
    )
    return challenge


@pytest.mark.parametrize(("left", "taken"), [(-STEP, False), (timedelta(0), False), (STEP, True)])
async def test_a_code_is_taken_until_its_end_and_not_at_it(
    core_tx: Connection, left: timedelta, *, taken: bool
) -> None:
    phone = new_phone()
    challenge = await start_challenge(core_tx, phone, left)
    tried = await core_tx.fetchrow(load("wallet")["count_attempt"], phone, 5)
    accepted = await core_tx.fetchrow(load("wallet")["accept"], challenge, new_id())
    assert (tried is not None, accepted is not None) == (taken, taken)


async def test_a_code_has_as_many_tries_as_it_may_and_ends_once(core_tx: Connection) -> None:
    phone = new_phone()
    challenge = await start_challenge(core_tx, phone, AGE)
    tries = [await core_tx.fetchval(load("wallet")["count_attempt"], phone, 3) for _ in range(4)]
    assert tries == [challenge] * 3 + [None]
    accepted = [await core_tx.fetchval(load("wallet")["accept"], challenge, new_id()) for _ in range(2)]
    assert accepted[0] is not None
    assert accepted[1] is None


async def test_a_challenge_leaves_the_window_at_its_end(core_tx: Connection) -> None:
    phone = new_phone()
    await start_challenge(core_tx, phone, AGE)
    found = []
    for moment in MOMENTS:
        await core_tx.execute("UPDATE otp_challenges SET created_at = now() - $1::interval", AGE - moment)
        found.append(await core_tx.fetchval(load("wallet")["recent_challenges"], phone, AGE))
    assert found == [0, 0, 1]


async def test_what_was_skipped_at_the_moment_asked_for_counts(queue: Queue, tx: Connection) -> None:
    await queue.add(enabled=False)
    settled_at = await tx.fetchval("SELECT settled_at FROM webhook_deliveries")
    found = []
    for moment in MOMENTS:
        row = await tx.fetchrow(
            load("replays")["skipped_since"], queue.tenant, queue.endpoint, settled_at + moment, 10
        )
        found.append(row["count"])
    assert found == [1, 1, 0]


async def test_a_month_may_go_one_hour_after_its_last_delivery_was_settled(
    queue: Queue, owner: asyncpg.Connection
) -> None:
    await queue.add(enabled=False)
    found = []
    async with owner.transaction():
        month = Month((await owner.fetchval("SELECT now()")).date().replace(day=1))
        for moment in MOMENTS:
            await owner.execute(
                "UPDATE webhook_deliveries SET settled_at = now() - interval '1 hour' + $1::interval", moment
            )
            found.append((await facts_of(owner, month)).just_settled)
    assert found == [0, 0, 1]
