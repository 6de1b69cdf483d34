"""`duro consumers`."""

from uuid import UUID

import asyncpg
import pytest

from schema.connections.database import Database
from schema.event_log import log
from schema.modes import Mode
from service.worker.projection_consumers import PROJECTIONS
from tests.service.cli.duro_command import Duro
from tests.service.cli.log_work import fan_out
from tests.support.engine import add_endpoint
from tests.support.events import sequenced


async def status_of(duro: Duro, mode: Mode, consumer: str = "fanout") -> dict[str, object]:
    rows = (await duro.json("consumers", "status"))["consumers"]
    return next(row for row in rows if (row["mode"], row["consumer"]) == (mode.value, consumer))


@pytest.fixture
async def dead(database: Database, tenant: UUID) -> list[int]:
    """Two positions of the test mode's log, dead-lettered by the fan-out; nothing was fanned out for them."""
    await add_endpoint(database, tenant, "https://shop.example/hooks")
    pool = database.data(Mode.TEST)
    events = await sequenced(pool, tenant, 2)
    async with pool.acquire() as tx, tx.transaction():
        cursor = await log.take_cursor(tx, "fanout")
        assert cursor is not None
        for event in events:
            await log.dead_letter(tx, "fanout", event, "poison")
        await log.move_cursor(tx, cursor, events[-1].pos)
    return [event.pos for event in events]


async def deliveries(database: Database) -> int:
    return int(await database.data(Mode.TEST).fetchval("SELECT count(*) FROM webhook_deliveries"))


async def test_status_shows_position_and_lag_of_each_mode(
    duro: Duro, database: Database, tenant: UUID
) -> None:
    await sequenced(database.data(Mode.TEST), tenant, 3)
    behind = await status_of(duro, Mode.TEST)
    assert (behind["position"], behind["end"], behind["lagEvents"], behind["dead"]) == (0, 3, 3, 0)
    assert float(str(behind["lagSeconds"])) > 0
    assert (await status_of(duro, Mode.LIVE))["end"] == 0
    await fan_out(database)
    caught_up = await status_of(duro, Mode.TEST)
    assert (caught_up["position"], caught_up["lagEvents"], caught_up["lagSeconds"]) == (3, 0, 0)


async def test_dead_lettered_events_are_applied_once_and_leave_the_list(
    duro: Duro, database: Database, dead: list[int]
) -> None:
    assert (await status_of(duro, Mode.TEST))["dead"] == 2
    retried = await duro.json("consumers", "retry-dead")
    assert [(row["position"], row["result"]) for row in retried["items"]] == [
        (pos, "applied") for pos in dead
    ]
    assert (await status_of(duro, Mode.TEST))["dead"] == 0
    assert await deliveries(database) == 2
    assert (await duro.json("consumers", "retry-dead"))["items"] == []


async def test_each_consumer_has_its_status_and_its_dead_lettered_events(
    duro: Duro, database: Database, dead: list[int]
) -> None:
    """Without --consumer all of them are tried again."""
    pool = database.data(Mode.TEST)
    (event,) = (await log.read_after(pool, 0, 1)).events
    async with pool.acquire() as tx, tx.transaction():
        await log.dead_letter(tx, "activity", event, "poison")
    rows = (await duro.json("consumers", "status"))["consumers"]
    assert {row["consumer"]: row["dead"] for row in rows if row["mode"] == "test"} == {
        "fanout": 2,
        **{projection.name: 0 for projection in PROJECTIONS},
        "activity": 1,
    }
    assert (await duro.json("consumers", "retry-dead", "--consumer", "activity", "--mode", "live"))[
        "items"
    ] == []
    retried = (await duro.json("consumers", "retry-dead"))["items"]
    assert [(row["consumer"], row["position"], row["result"]) for row in retried] == [
        *(("fanout", pos, "applied") for pos in dead),
        ("activity", event.pos, "applied"),
    ]
    assert [row["id"] for row in await pool.fetch("SELECT id FROM activity")] == [event.id]


async def test_one_position_can_be_retried_alone(duro: Duro, database: Database, dead: list[int]) -> None:
    first, second = dead
    one = ("consumers", "retry-dead", "--mode", "test", "--pos")
    for found in ([first], []):
        retried = await duro.json(*one, str(first))
        assert [row["position"] for row in retried["items"]] == found
    assert (await duro.json(*one, str(second + 1)))["items"] == []
    assert (await status_of(duro, Mode.TEST))["dead"] == 1
    assert await deliveries(database) == 1


async def test_events_that_fail_again_stay_dead_lettered(
    duro: Duro, dead: list[int], owner: asyncpg.Connection
) -> None:
    await owner.execute("ALTER TABLE webhook_deliveries ADD CHECK (false) NOT VALID")
    outcome = await duro("consumers", "retry-dead")
    assert outcome.status == 1
    assert outcome.stdout.count("failed") == 2
    assert "2 of 2 dead-lettered events failed again" in outcome.stderr
    assert (await status_of(duro, Mode.TEST))["dead"] == len(dead)
