"""The health row that all workers share: failures, the breaker's state, and disabling."""

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from schema.connections.database import Database, Pool
from schema.core import endpoints
from schema.deliveries import deliveries, endpoint_health
from schema.deliveries.endpoint_health import BreakerChange, HealthNote
from schema.errors import Conflict
from schema.ids import new_id
from schema.modes import Mode
from schema.read_models import metrics
from schema.read_models.metrics import UnhealthyEndpoints
from tests.support.engine import add_endpoint

FIVE_DAYS = timedelta(days=5)


@pytest.fixture
def data(database: Database) -> Pool:
    return database.data(Mode.TEST)


@pytest.fixture
async def endpoint(database: Database, tenant: UUID) -> UUID:
    return await add_endpoint(database, tenant, "https://example.com/")


class Row:
    def __init__(self, data: Pool, tenant: UUID, endpoint: UUID) -> None:
        self._data = data
        self._of = (endpoint, tenant)

    async def note(
        self, *, ok: bool = False, failures: int = 0, breaker: BreakerChange | None = None
    ) -> None:
        note = HealthNote(*self._of, ok, failures, "HTTP status 500" if failures else None, breaker)
        async with self._data.acquire() as tx, tx.transaction():
            await endpoint_health.note_health(tx, [note])

    async def open(self, openings: int, seconds: float = 60, *, follows: int = 0) -> None:
        await self.note(failures=1, breaker=BreakerChange(openings, timedelta(seconds=seconds), follows))

    async def close(self, openings: int) -> None:
        await self.note(breaker=BreakerChange(openings, None))

    async def read(self) -> dict[str, Any]:
        row = await self._data.fetchrow("SELECT * FROM endpoint_health WHERE endpoint_id = $1", self._of[0])
        assert row is not None
        return dict(row)

    async def breaker(self) -> tuple[int, datetime | None]:
        """(openings, open until)"""
        row = await self.read()
        return row["openings"], row["open_until"]


@pytest.fixture
def row(data: Pool, tenant: UUID, endpoint: UUID) -> Row:
    return Row(data, tenant, endpoint)


async def test_failures_add_up_and_a_success_clears_them(row: Row, owner: asyncpg.Connection) -> None:
    await row.note(failures=2)
    await row.note(failures=3)
    await owner.execute("UPDATE sandbox.endpoint_health SET warned = 70")
    failing = await row.read()
    assert (failing["consecutive_failures"], failing["warned"]) == (5, 70)
    assert failing["failing_since"] < failing["last_failure_at"]
    await row.note(ok=True)
    healthy = await row.read()
    assert (healthy["consecutive_failures"], healthy["warned"], healthy["failing_since"]) == (0, 0, None)
    assert healthy["last_error"] is None


async def test_failures_after_a_success_in_one_batch_start_from_zero(row: Row) -> None:
    await row.note(failures=7)
    before = await row.read()
    await row.note(ok=True, failures=2)
    after = await row.read()
    assert (after["consecutive_failures"], after["last_error"]) == (2, "HTTP status 500")
    assert after["failing_since"] > before["failing_since"]


async def test_a_breaker_change_leaves_the_failures(row: Row) -> None:
    await row.note(failures=4)
    before = await row.read()
    await row.note(breaker=BreakerChange(1, timedelta(seconds=2)))
    after = await row.read()
    assert {name for name in before if before[name] != after[name]} == {
        "open_until",
        "openings",
        "updated_at",
    }


# Of several workers


async def test_two_workers_open_a_breaker_once_for_one_outage(row: Row) -> None:
    await row.open(1, seconds=2)
    opened = await row.breaker()
    await row.open(1, seconds=60)
    assert await row.breaker() == opened


async def test_a_first_opening_does_not_shorten_a_later_one(row: Row) -> None:
    await row.open(5, seconds=32)
    _, until = opened = await row.breaker()
    await row.open(1, seconds=2)
    assert await row.breaker() == opened
    await row.open(6, seconds=64)
    openings, later = await row.breaker()
    assert openings == 6
    assert until is not None
    assert later is not None
    assert later > until


async def test_a_recovery_does_not_close_a_later_opening(row: Row) -> None:
    await row.open(2)
    await row.close(1)
    assert (await row.breaker())[0] == 2
    await row.close(2)
    assert await row.breaker() == (0, None)
    await row.open(1)
    assert (await row.breaker())[0] == 1, "the next outage counts from one"


async def test_a_late_failure_does_not_reopen_a_recovered_breaker(row: Row) -> None:
    """Another worker's probe of the same half-open phase, at the end of a long outage: it would block the endpoint for
    minutes. It does not lengthen the next outage's first opening either."""
    await row.open(8)
    await row.close(8)
    await row.open(9, follows=8)
    assert await row.breaker() == (0, None)
    await row.open(1, seconds=2)
    opened = await row.breaker()
    await row.open(9, follows=8)
    assert await row.breaker() == opened


async def test_a_failed_probe_reopens_a_half_open_breaker(row: Row) -> None:
    await row.open(3)
    await row.open(4, follows=3)
    await row.open(5, follows=2)
    assert (await row.breaker())[0] == 5


async def test_targets_show_whether_the_endpoint_is_failing(
    data: Pool, row: Row, tenant: UUID, endpoint: UUID
) -> None:
    async def failing() -> set[bool]:
        async with data.acquire() as tx:
            routes = await deliveries.endpoints_of_tenants(tx, [tenant])
            by_id = await deliveries.endpoints_by_id(tx, [endpoint])
        return {target.failing for target in (*routes.targets, *by_id.values())}

    assert await failing() == {False}, "nothing is known of it"
    await row.note(failures=1)
    assert await failing() == {True}
    await row.note(ok=True)
    assert await failing() == {False}


async def test_a_clock_set_back_counts_an_open_breaker_as_half_open(data: Pool, row: Row) -> None:
    await row.open(1, seconds=300)
    async with data.acquire() as connection:
        assert await metrics.unhealthy_endpoints(connection) == UnhealthyEndpoints(
            failing=1, open=1, half_open=0
        )
        await row.open(2, seconds=3600)
        assert await metrics.unhealthy_endpoints(connection) == UnhealthyEndpoints(
            failing=1, open=0, half_open=1
        )


# Disabled, enabled, asked about


@pytest.fixture
async def in_trouble(row: Row, owner: asyncpg.Connection) -> None:
    await row.open(3)
    await owner.execute("UPDATE sandbox.endpoint_health SET warned = 90")


def is_fresh(row: dict[str, Any]) -> bool:
    nothing = ("consecutive_failures", "failing_since", "warned", "open_until", "openings")
    return not any(row[name] for name in nothing)


async def test_disabling_resets_health(data: Pool, row: Row, endpoint: UUID, in_trouble: None) -> None:
    async with data.acquire() as tx, tx.transaction():
        assert await endpoint_health.disable(tx, endpoint, "gone")
        assert not is_fresh(await row.read()), "not before it is committed"
    assert is_fresh(await row.read())
    assert (await row.read())["last_error"] == "HTTP status 500", "what went wrong last can still be seen"


async def test_disabling_at_an_old_url_changes_nothing(
    data: Pool, row: Row, endpoint: UUID, in_trouble: None
) -> None:
    async with data.acquire() as tx, tx.transaction():
        assert not await endpoint_health.disable(tx, endpoint, "gone", "https://old.example/")
    assert not is_fresh(await row.read())


async def test_enabling_resets_results_from_while_it_was_disabled(
    database: Database, data: Pool, row: Row, endpoint: UUID
) -> None:
    shown = await endpoints.show(database.core, endpoint)
    await endpoints.disable(data, shown, "moving")
    await row.open(1)
    await endpoints.enable(data, shown)
    assert is_fresh(await row.read())


async def test_enabling_an_enabled_endpoint_changes_nothing(
    database: Database, data: Pool, row: Row, endpoint: UUID, in_trouble: None
) -> None:
    with pytest.raises(Conflict):
        await endpoints.enable(data, await endpoints.show(database.core, endpoint))
    assert not is_fresh(await row.read())


async def test_health_is_shown_only_to_its_tenant(
    data: Pool, row: Row, tenant: UUID, endpoint: UUID, in_trouble: None
) -> None:
    shown = await endpoint_health.show(data, tenant, [endpoint, new_id()], FIVE_DAYS)
    assert list(shown) == [endpoint]
    assert (shown[endpoint].consecutive_failures, shown[endpoint].last_error) == (1, "HTTP status 500")
    since = shown[endpoint].failing_since
    assert since is not None
    assert shown[endpoint].disables_at == since + FIVE_DAYS
    assert await endpoint_health.show(data, new_id(), [endpoint], FIVE_DAYS) == {}
