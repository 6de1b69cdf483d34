"""`duro event`, `duro delivery`."""

from pathlib import Path
from uuid import UUID

import pytest

from schema.connections.database import Database
from schema.ids import ENDPOINT, format_id
from schema.modes import Mode
from tests.service.cli.duro_command import Duro
from tests.service.cli.log_work import fan_out, settle_all
from tests.support.engine import add_endpoint
from tests.support.events import record, record_many

URL = "https://shop.example/hooks"


@pytest.fixture
async def endpoint(database: Database, tenant: UUID) -> str:
    return format_id(ENDPOINT, await add_endpoint(database, tenant, URL))


async def deliveries(duro: Duro, ten: str, *options: str) -> list[dict[str, object]]:
    found = await duro.json("delivery", "list", "--tenant", ten, "--mode", "test", *options)
    return list(found["items"])


@pytest.mark.parametrize("way", ["argument", "file", "standard input"])
async def test_record_takes_data_three_ways_and_keeps_its_numbers(
    way: str, duro: Duro, ten: str, tmp_path: Path
) -> None:
    data = '{"amount": 1.10, "id": 12345678901234567890123}'
    (tmp_path / "data.json").write_text(data)
    given = {"argument": data, "file": f"@{tmp_path}/data.json", "standard input": "-"}[way]
    arguments = ("--tenant", ten, "--mode", "test", "--type", "invoice_created", "--data", given)
    recorded = await duro.process("event", "record", *arguments, "--json", stdin=data)
    assert recorded.status == 0, recorded
    assert set(recorded.json) == {"id"}
    shown = await duro("event", "show", recorded.json["id"], "--json")
    assert '"data":{"id": 12345678901234567890123, "amount": 1.10}' in shown.stdout


async def test_an_event_is_found_by_its_id_in_either_mode(duro: Duro, ten: str, database: Database) -> None:
    for mode in Mode:
        arguments = ("--tenant", ten, "--mode", mode.value, "--type", "invoice_created", "--data", "{}")
        event = (await duro.json("event", "record", *arguments))["id"]
        shown = await duro.json("event", "show", event)
        assert (shown["id"], shown["mode"], shown["tenantId"]) == (event, mode.value, ten)
        assert (shown["position"], shown["deliveries"]) == (None, [])
        await fan_out(database, mode)
        assert (await duro.json("event", "show", event))["position"] == 1


async def test_events_are_listed_in_pages_and_by_type(
    duro: Duro, ten: str, tenant: UUID, database: Database
) -> None:
    pool = database.data(Mode.TEST)
    await record_many(pool, tenant, 4)
    await record(pool, tenant, "subscription_created")
    arguments = ("event", "list", "--tenant", ten, "--mode", "test")
    first = await duro.json(*arguments, "--limit", "3")
    second = await duro.json(*arguments, "--limit", "3", "--cursor", first["nextCursor"])
    ids = [event["id"] for event in first["items"] + second["items"]]
    assert len(set(ids)) == 5
    assert first["items"][0]["type"] == "subscription_created"
    assert (first["hasMore"], second["hasMore"]) == (True, False)
    assert len((await duro.json(*arguments, "--type", "invoice_created"))["items"]) == 4


async def test_a_delivery_is_listed_and_shown_from_its_id_alone(
    duro: Duro, ten: str, tenant: UUID, endpoint: str, database: Database
) -> None:
    await record(database.data(Mode.TEST), tenant)
    await fan_out(database)
    [listed] = await deliveries(duro, ten, "--status", "pending", "--endpoint", endpoint)
    assert set(listed) == {
        "id", "endpointId", "eventId", "eventType", "status", "attempts", "createdAt", "dueAt", "settledAt",
    }  # fmt: skip
    shown = await duro.json("delivery", "show", str(listed["id"]))
    assert (shown["status"], shown["attempts"], shown["mode"]) == ("pending", [], "test")
    assert (shown["endpointId"], shown["eventId"]) == (endpoint, listed["eventId"])
    event = await duro.json("event", "show", shown["eventId"])
    assert [delivery["id"] for delivery in event["deliveries"]] == [listed["id"]]
    assert "No attempts yet" in (await duro("delivery", "show", shown["id"])).stdout


async def test_an_endpoint_of_the_other_mode_is_refused(duro: Duro, ten: str, endpoint: str) -> None:
    arguments = ("delivery", "list", "--tenant", ten, "--mode", "live", "--endpoint", endpoint)
    assert f"belongs to {ten} in mode test" in (await duro(*arguments)).refusal


async def test_one_delivery_is_replayed_by_its_id(
    duro: Duro, ten: str, tenant: UUID, endpoint: str, database: Database
) -> None:
    await record(database.data(Mode.TEST), tenant)
    await fan_out(database)
    await settle_all(database, "failed")
    [failed] = await deliveries(duro, ten)
    replayed = await duro.json("delivery", "replay", str(failed["id"]))
    assert replayed == {"id": failed["id"], "was": "failed", "status": "pending"}
    [pending] = await deliveries(duro, ten)
    assert (pending["status"], pending["eventId"]) == ("pending", failed["eventId"])


async def test_a_disabled_endpoint_s_delivery_is_not_replayed(
    duro: Duro, ten: str, tenant: UUID, endpoint: str, database: Database
) -> None:
    await record(database.data(Mode.TEST), tenant)
    await fan_out(database)
    await settle_all(database, "failed")
    await duro.json("endpoint", "disable", endpoint)
    [failed] = await deliveries(duro, ten)
    assert f"duro endpoint enable {endpoint}" in (await duro("delivery", "replay", str(failed["id"]))).refusal
    many = ("delivery", "replay", "--tenant", ten, "--mode", "test", "--since", "1h")
    assert f"duro endpoint enable {endpoint}" in (await duro(*many, "--endpoint", endpoint)).refusal
    assert (await duro.json(*many))["replayed"] == 0
    assert {delivery["status"] for delivery in await deliveries(duro, ten)} == {"failed"}
