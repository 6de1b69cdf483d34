"""`duro endpoint`."""

from pathlib import Path

import orjson
import pytest

from delivery.message.endpoint_secret import generate_secret, parse_secret
from schema.connections.database import Database
from schema.deliveries.deliveries import endpoints_by_id
from schema.ids import ENDPOINT, parse_id
from schema.modes import Mode
from schema.secret_box import SecretBox
from tests.service.cli.duro_command import Duro
from tests.support.event_schemas import assert_conforms

URL = "https://shop.example/hooks"


async def sent_with(database: Database, endpoint: str) -> tuple[list[str], list[list[str]]]:
    """(secrets, custom headers) as the sender finds them."""
    id_ = parse_id(ENDPOINT, endpoint)
    async with database.data(Mode.TEST).acquire() as tx:
        target = (await endpoints_by_id(tx, [id_]))[id_]
    box = SecretBox(database.key)
    headers = orjson.loads(box.open(target.sealed_headers, id_.bytes)) if target.sealed_headers else []
    return [box.open(secret, id_.bytes) for secret in target.sealed_secrets], headers


@pytest.fixture
async def endpoint(duro: Duro, ten: str) -> str:
    created = await duro.json("endpoint", "create", "--tenant", ten, "--mode", "test", "--url", URL)
    return str(created["id"])


async def test_create_prints_the_id_and_the_signing_secret(duro: Duro, ten: str, database: Database) -> None:
    created = await duro.process(
        "endpoint", "create", "--tenant", ten, "--mode", "test", "--url", URL, "--json",
        "--event", "subscription_*", "--event", "invoice_created", "--header", "X-Shop=a=b",
        "--description", "the shop",
    )  # fmt: skip
    assert created.status == 0, created
    assert set(created.json) == {"id", "secret"}
    assert len(parse_secret(created.json["secret"])) == 32
    secrets, headers = await sent_with(database, created.json["id"])
    assert secrets == [created.json["secret"]]
    assert headers == [["X-Shop", "a=b"]]


async def test_show_prints_everything_but_secrets(duro: Duro, ten: str) -> None:
    created = await duro.json(
        "endpoint", "create", "--tenant", ten, "--mode", "live", "--url", URL,
        "--event", "invoice_created", "--header", "X-Token=hunter2", "--description", "the shop",
    )  # fmt: skip
    shown = await duro.json("endpoint", "show", created["id"])
    assert (
        shown.items()
        >= {
            "id": created["id"],
            "tenantId": ten,
            "mode": "live",
            "url": URL,
            "description": "the shop",
            "eventTypes": ["invoice_created"],
            "hasCustomHeaders": True,
            "validSecrets": 1,
            "enabled": True,
            "disabledReason": None,
        }.items()
    )
    for words in (str(shown), (await duro("endpoint", "show", created["id"])).stdout):
        assert created["secret"] not in words
        assert "hunter2" not in words


async def test_an_own_secret_is_read_from_standard_input(duro: Duro, ten: str, database: Database) -> None:
    secret = generate_secret()
    arguments = ("endpoint", "create", "--tenant", ten, "--mode", "test", "--url", URL, "--secret-stdin")
    created = await duro.json(*arguments, stdin=f"{secret}\n")
    assert (await sent_with(database, created["id"]))[0] == [secret]


async def test_headers_may_come_from_a_file(duro: Duro, ten: str, database: Database, tmp_path: Path) -> None:
    (tmp_path / "headers").write_text("X-A: one\nX-B:two\n\n")
    arguments = ("--tenant", ten, "--mode", "test", "--url", URL, "--headers-file", f"{tmp_path}/headers")
    created = await duro.json("endpoint", "create", *arguments, "--header", "X-C=three")
    assert (await sent_with(database, created["id"]))[1] == [["X-A", "one"], ["X-B", "two"], ["X-C", "three"]]


async def test_update_changes_only_the_given_fields(duro: Duro, ten: str, database: Database) -> None:
    arguments = ("--tenant", ten, "--mode", "test", "--url", URL, "--header", "X-A=1", "--description", "old")
    created = (await duro.json("endpoint", "create", *arguments, "--event", "invoice_created"))["id"]
    before = await duro.json("endpoint", "show", created)

    moved = await duro.json("endpoint", "update", created, "--url", "https://shop.example/v2")
    assert moved == {**before, "url": "https://shop.example/v2", "updatedAt": moved["updatedAt"]}
    updated = await duro.json("endpoint", "update", created, "--event", "subscription_*", "--description", "")
    assert (updated["eventTypes"], updated["description"]) == (["subscription_*"], "")
    assert (await duro.json("endpoint", "update", created, "--all-events"))["eventTypes"] == []
    assert (await duro.json("endpoint", "update", created, "--header", "X-B=2"))["hasCustomHeaders"]
    assert (await sent_with(database, created))[1] == [["X-B", "2"]]
    bare = await duro.json("endpoint", "update", created, "--no-headers")
    assert bare["hasCustomHeaders"] is False
    assert (await sent_with(database, created))[1] == []


@pytest.mark.parametrize(
    "change",
    [
        ["--url", "https://127.0.0.1/"],
        ["--event", "nope"],
        ["--header", "Host=x"],
        ["--description", "x" * 501],
    ],
)
async def test_a_refused_update_changes_nothing(change: list[str], duro: Duro, endpoint: str) -> None:
    before = await duro.json("endpoint", "show", endpoint)
    refused = await duro("endpoint", "update", endpoint, "--description", "new", *change)
    assert refused.refusal
    assert await duro.json("endpoint", "show", endpoint) == before


async def test_disable_and_enable_record_events(
    duro: Duro, ten: str, endpoint: str, database: Database
) -> None:
    off = await duro.json("endpoint", "disable", endpoint, "--reason", "moving")
    assert (off["enabled"], off["disabledReason"]) == (False, "moving")
    assert "disabled already" in (await duro("endpoint", "disable", endpoint)).refusal
    on = await duro.json("endpoint", "enable", endpoint)
    assert (on["enabled"], on["disabledReason"]) == (True, None)
    assert "enabled already" in (await duro("endpoint", "enable", endpoint)).refusal
    events = (await duro.json("event", "list", "--tenant", ten, "--mode", "test"))["items"]
    assert [event["type"] for event in events] == ["webhook_endpoint_enabled", "webhook_endpoint_disabled"]
    assert all(event["data"]["endpointId"] == endpoint for event in events)


@pytest.mark.parametrize("reason", [[], ["--reason", "é" * 200], ["--reason", "💥" * 200]])
async def test_disable_and_enable_events_match_the_catalog(
    reason: list[str], duro: Duro, ten: str, endpoint: str
) -> None:
    await duro.json("endpoint", "disable", endpoint, *reason)
    await duro.json("endpoint", "enable", endpoint)
    recorded_events = (await duro.json("event", "list", "--tenant", ten, "--mode", "test"))["items"]
    assert len(recorded_events) == 2
    for event in recorded_events:
        assert_conforms(event["type"], event["data"])


async def test_both_secrets_sign_during_the_grace_period(
    duro: Duro, endpoint: str, database: Database
) -> None:
    [old], _ = await sent_with(database, endpoint)
    rotated = await duro.json("endpoint", "rotate-secret", endpoint, "--grace", "1h")
    assert set(rotated) == {"id", "secret", "oldSecretSignsUntil"}
    assert (await sent_with(database, endpoint))[0] == [rotated["secret"], old]
    assert (await duro.json("endpoint", "show", endpoint))["validSecrets"] == 2


async def test_rotation_without_grace_ends_the_old_secret_immediately(
    duro: Duro, endpoint: str, database: Database
) -> None:
    rotated = await duro.json("endpoint", "rotate-secret", endpoint, "--grace", "0s")
    assert (await sent_with(database, endpoint))[0] == [rotated["secret"]]


async def test_a_refused_rotation_leaves_the_secret(duro: Duro, endpoint: str, database: Database) -> None:
    before = await sent_with(database, endpoint)
    assert (await duro("endpoint", "rotate-secret", endpoint, "--secret-stdin", stdin="whsec_x")).refusal
    assert await sent_with(database, endpoint) == before


async def test_lists_are_of_one_tenant_and_one_mode(duro: Duro, ten: str, endpoint: str) -> None:
    other = (await duro.json("tenant", "create", "another"))["id"]
    mine = await duro.json("endpoint", "list", "--tenant", ten, "--mode", "test")
    assert [item["id"] for item in mine["items"]] == [endpoint]
    assert (await duro.json("endpoint", "list", "--tenant", ten, "--mode", "live"))["items"] == []
    assert (await duro.json("endpoint", "list", "--tenant", other, "--mode", "test"))["items"] == []


async def test_an_allowed_network_may_use_http(duro: Duro, ten: str) -> None:
    arguments = ("endpoint", "create", "--tenant", ten, "--mode", "test", "--url", "http://127.0.0.1:3000/x")
    assert (await duro(*arguments)).refusal
    assert await duro.set(DURO_EGRESS_ALLOW="127.0.0.0/8").json(*arguments)
