"""`duro activity`."""

from datetime import UTC, datetime
from uuid import UUID

import pytest

from schema.connections.database import Database
from schema.event_catalog import catalog
from schema.event_log import events
from schema.ids import ENDPOINT, format_id
from schema.modes import Mode
from service.worker.projection_consumers import projecting
from tests.service.cli.duro_command import Duro
from tests.service.cli.log_work import fan_out, settle_all
from tests.support.engine import add_endpoint
from tests.support.events import sequence_all

ULID = "01HKBZ4PQ9Z3K7T8V9X2Y1B5C6"


async def project(database: Database, mode: Mode = Mode.TEST) -> None:
    pool = database.data(mode)
    await sequence_all(pool)
    for consumer in projecting(pool, lambda: False).values():
        while await consumer.step():
            pass


@pytest.fixture
async def recorded_events(database: Database, tenant: UUID) -> None:
    """One event of each type."""
    for name, found in catalog().items():
        await events.record(database.data(Mode.TEST), tenant, name, found.example)
    await project(database)


def listing(ten: str, *options: str) -> tuple[str, ...]:
    return ("activity", "list", "--tenant", ten, "--mode", "test", *options)


@pytest.mark.usefixtures("recorded_events")
async def test_json_has_every_field(duro: Duro, ten: str) -> None:
    feed = await duro.json(*listing(ten, "--type", "subscription_payment_failed"))
    assert set(feed) == {"items", "nextCursor", "hasMore", "asOf"}
    (entry,) = feed["items"]
    assert entry["id"].startswith("evt_")
    assert datetime.fromisoformat(entry["createdAt"]) <= datetime.now(UTC)
    assert {key: value for key, value in entry.items() if key not in ("id", "createdAt")} == {
        "type": "subscription_payment_failed",
        "position": list(catalog()).index("subscription_payment_failed") + 1,
        "summary": "Payment of ₦5,000.00 by card failed: insufficient funds; "
        "will be retried on payday, 30 Jun 2026, 09:00 UTC",
        "subject": f"pay_{ULID}",
        "customer": f"cus_{ULID}",
        "amount": 500_000,
        "currency": "NGN",
        "links": {
            "subscription": f"sub_{ULID}",
            "invoice": f"inv_{ULID}",
            "payment": f"pay_{ULID}",
            "customer": f"cus_{ULID}",
            "plan": f"plan_{ULID}",
        },
        "deliveries": {
            "total": 0,
            "failed": 0,
            "skipped": 0,
            "retrying": 0,
            "allCounted": True,
            "endpoints": [],
            "problem": None,
        },
    }


@pytest.mark.usefixtures("recorded_events")
@pytest.mark.parametrize(
    ("options", "types"),
    [
        ((), set(catalog())),
        (("--type", "webhook_*", "--type", "invoice_created"), {"invoice_created", *(t for t in catalog() if t.startswith("webhook"))}),
        (("--subject", f"pay_{ULID}"), {t for t in catalog() if t.startswith("subscription_payment") and "action" not in t}),
        (("--subject", f"we_{ULID}"), {t for t in catalog() if t.startswith("webhook")}),
        (("--customer", f"cus_{ULID}"), {t for t in catalog() if not t.startswith("webhook")}),
        (("--customer", f"cus_{ULID}", "--subject", f"we_{ULID}"), set()),
        (("--from", "1h"), set(catalog())),
        (("--until", "1h"), set()),
        (("--from", "2020-01-01T00:00:00Z", "--until", "2020-02-01T00:00:00Z"), set()),
    ],
)  # fmt: skip
async def test_options_filter_the_feed(
    duro: Duro, ten: str, options: tuple[str, ...], types: set[str]
) -> None:
    found = (await duro.json(*listing(ten, "--limit", "100", *options)))["items"]
    assert {entry["type"] for entry in found} == types


@pytest.mark.usefixtures("recorded_events")
async def test_a_subject_finds_every_related_entry(duro: Duro, ten: str) -> None:
    for kind, key in (("sub", "subscriptionId"), ("inv", "invoiceId")):
        found = (await duro.json(*listing(ten, "--limit", "100", "--subject", f"{kind}_{ULID}")))["items"]
        assert {entry["type"] for entry in found} == {
            name for name, t in catalog().items() if key in t.example
        }


@pytest.mark.usefixtures("recorded_events")
async def test_pages_follow_one_another(duro: Duro, ten: str) -> None:
    first = await duro.json(*listing(ten, "--limit", "15"))
    second = await duro.json(*listing(ten, "--limit", "15", "--cursor", first["nextCursor"]))
    assert [entry["position"] for entry in first["items"] + second["items"]] == list(
        range(len(catalog()), 0, -1)
    )
    assert (first["hasMore"], second["hasMore"]) == (True, False)


async def test_the_table_shows_failed_deliveries(
    duro: Duro, ten: str, database: Database, tenant: UUID
) -> None:
    names = [format_id(ENDPOINT, await add_endpoint(database, tenant, f"https://{n}.example")) for n in "abc"]
    await events.record(database.data(Mode.TEST), tenant, "subscription_paused", {})
    await project(database)
    assert "!" not in (await duro(*listing(ten))).stdout
    await fan_out(database)
    await settle_all(database, "failed")
    shown = (await duro(*listing(ten))).stdout
    assert "Subscription paused" in shown
    assert f"! 3 of 3 deliveries failed ({', '.join(sorted(names))})" in shown
    await settle_all(database, "delivered")
    assert "!" not in (await duro(*listing(ten))).stdout


async def test_untrusted_text_cannot_move_the_terminal_cursor(
    duro: Duro, ten: str, database: Database, tenant: UUID
) -> None:
    hostile = {"reason": "\x1b[2J\x07gone\u202e", "failureCode": "\x1b]0;owned\x07"}
    await events.record(database.data(Mode.TEST), tenant, "subscription_unpaid", hostile)
    await project(database)
    shown = (await duro(*listing(ten))).stdout
    assert "gone" in shown
    assert not set(shown) & {"\x1b", "\x07", "\u202e"}


async def test_an_empty_feed_shows_as_of(duro: Duro, ten: str) -> None:
    shown = (await duro(*listing(ten))).stdout
    assert "No matching events." in shown
    assert f"As of {datetime.now(UTC):%Y-%m-%d}" in shown


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--subject", f"evt_{ULID}"), "is not the id of a subject: use one of sub_…, inv_…, pay_…, we_…"),
        (("--subject", "sub_1"), "'sub_1' is not an id of the form sub_ followed by 26 letters and digits"),
        (("--subject", ULID), "is not the id of a subject"),
        (("--customer", f"sub_{ULID}"), "is not an id of the form cus_"),
        (("--type", "invoice_crated"), "did you mean invoice_created"),
        (("--from", "yesterday"), "is neither a duration"),
        (("--until", "2026-06-28T09:00:00"), "has no time zone"),
        (("--cursor", "x"), "Invalid cursor"),
    ],
)
async def test_bad_input_gets_one_sentence(
    duro: Duro, ten: str, options: tuple[str, ...], sentence: str
) -> None:
    assert sentence in (await duro(*listing(ten, *options))).refusal
