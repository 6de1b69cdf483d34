"""`duro endpoint show` and `list` report an endpoint's health."""

from datetime import datetime, timedelta
from uuid import UUID

import asyncpg
import pytest

from schema.connections.database import Database
from schema.deliveries import endpoint_health
from schema.deliveries.endpoint_health import BreakerChange, HealthNote
from schema.ids import ENDPOINT, parse_id
from schema.modes import Mode
from tests.service.cli.duro_command import Duro

NOTHING = {
    "state": "healthy",
    "consecutiveFailures": 0,
    "failingSince": None,
    "lastSuccessAt": None,
    "lastFailureAt": None,
    "lastError": None,
    "breakerOpenUntil": None,
    "disablesAt": None,
}


@pytest.fixture
async def endpoint(duro: Duro, ten: str) -> str:
    created = await duro.json(
        "endpoint", "create", "--tenant", ten, "--mode", "test", "--url", "https://shop.example/hooks"
    )
    return str(created["id"])


async def trip(database: Database, tenant: UUID, endpoint: str) -> None:
    opened = BreakerChange(2, timedelta(minutes=4))
    note = HealthNote(parse_id(ENDPOINT, endpoint), tenant, False, 12, "HTTP status 503", opened)
    async with database.data(Mode.TEST).acquire() as tx, tx.transaction():
        await endpoint_health.note_health(tx, [note])


async def test_an_endpoint_without_attempts_is_healthy(duro: Duro, endpoint: str) -> None:
    assert (await duro.json("endpoint", "show", endpoint))["health"] == NOTHING


async def test_show_and_list_report_health_and_the_disabling_time(
    duro: Duro, database: Database, tenant: UUID, ten: str, endpoint: str
) -> None:
    await trip(database, tenant, endpoint)
    written_by = await database.core.fetchval("SELECT clock_timestamp()")
    health = (await duro.json("endpoint", "show", endpoint))["health"]
    assert (health["state"], health["consecutiveFailures"]) == ("open", 12)
    assert health["lastError"] == "HTTP status 503"
    failing_since = datetime.fromisoformat(health["failingSince"])
    assert datetime.fromisoformat(health["disablesAt"]) == failing_since + timedelta(days=5)
    opened_at = datetime.fromisoformat(health["breakerOpenUntil"]) - timedelta(minutes=4)
    assert failing_since <= opened_at <= written_by, "it opens from the time of the write"
    sooner = await duro.set(DURO_DISABLE_AFTER="2h").json("endpoint", "show", endpoint)
    assert datetime.fromisoformat(sooner["health"]["disablesAt"]) == failing_since + timedelta(hours=2)
    listed = await duro.json("endpoint", "list", "--tenant", ten, "--mode", "test")
    assert [item["health"] for item in listed["items"]] == [health]


async def test_enabling_resets_the_health(
    duro: Duro, database: Database, tenant: UUID, endpoint: str, owner: asyncpg.Connection
) -> None:
    await trip(database, tenant, endpoint)
    disabled = await duro.json("endpoint", "disable", endpoint)
    assert (disabled["health"]["state"], disabled["health"]["disablesAt"]) == ("disabled", None)
    await duro.json("endpoint", "enable", endpoint)
    shown = await duro.json("endpoint", "show", endpoint)
    assert (shown["health"]["state"], shown["health"]["breakerOpenUntil"]) == ("healthy", None)
    assert shown["health"]["lastError"] == "HTTP status 503"
