"""The feed: pages newest first, narrowed by what is asked for, one tenant's alone, with how its webhooks fare just now."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

import orjson
import pytest

from consumers.activity import Activity
from consumers.consumer import Consumer
from consumers.projecting import Serving
from schema import activity, log
from schema.activity import ACTIVITY, Feed, FeedPage, Line, Sought, Subject
from schema.database import Database, Pool
from schema.ids import CUSTOMER, INVOICE, PAYMENT, SUBSCRIPTION, format_id, new_id
from schema.modes import Mode
from schema.pages import After
from schema.projections import begin_rebuild, finish_rebuild
from tests.service.cli.log_work import fan_out
from tests.support.engine import add_endpoint
from tests.support.events import record_many, sequence_all

NOW = datetime.now(UTC).replace(microsecond=0)


@pytest.fixture
def data(database: Database) -> Pool:
    return database.data(Mode.TEST)


class Story:
    """Two customers with a subscription each; events three to a moment, so that pages end between equals."""

    def __init__(self) -> None:
        self.customers = [new_id(), new_id()]
        self.subscriptions = [new_id(), new_id()]
        self.invoices = [new_id(), new_id()]
        self.payments = [new_id(), new_id()]

    async def record(self, data: Pool, tenant: UUID, rounds: int = 10) -> None:
        for number in range(rounds):
            at = NOW - timedelta(minutes=rounds - number)
            for who in (0, 1):
                told: dict[str, str] = {
                    "subscriptionId": format_id(SUBSCRIPTION, self.subscriptions[who]),
                    "customerId": format_id(CUSTOMER, self.customers[who]),
                }
                await record_at(data, tenant, "subscription_resumed", told, at)
                told["invoiceId"] = format_id(INVOICE, self.invoices[who])
                await record_at(data, tenant, "invoice_created", told, at)
                told["paymentId"] = format_id(PAYMENT, self.payments[who])
                await record_at(data, tenant, "subscription_payment_success", told, at)


async def record_at(data: Pool, tenant: UUID, type_: str, told: dict[str, str], at: datetime) -> None:
    text = orjson.dumps(told).decode()
    await data.execute("SELECT record_event($1::uuid, $2, $3, $4)", tenant, type_, text, at)


async def project(data: Pool) -> None:
    await sequence_all(data)
    consumer = Consumer(data, Serving(Activity()))
    while await consumer.step():
        pass


@pytest.fixture
async def story(data: Pool, tenant: UUID) -> Story:
    story = Story()
    await story.record(data, tenant)
    await project(data)
    return story


async def read(data: Pool, tenant: UUID, sought: Sought = Sought(), limit: int = 100) -> FeedPage:  # noqa: B008  frozen
    return await Feed(data, tenant).read(sought, After(), limit)


async def lines(data: Pool, tenant: UUID, sought: Sought = Sought()) -> Sequence[Line]:  # noqa: B008  frozen
    return (await read(data, tenant, sought)).page.items


async def in_pages(data: Pool, tenant: UUID, sought: Sought, limit: int) -> list[Line]:
    feed, after, found = Feed(data, tenant), After(), list[Line]()
    while True:
        page = (await feed.read(sought, after, limit)).page
        found += page.items
        assert len(page.items) == limit or not page.has_more
        if not page.has_more:
            return found
        after = After.read(page.next_cursor)


def narrowed(story: Story) -> dict[str, tuple[Sought, int]]:
    """What is asked for, and how many lines of ten rounds that is."""
    customer, subscription = story.customers[0], Subject(SUBSCRIPTION, story.subscriptions[0])
    invoice, payment = Subject(INVOICE, story.invoices[0]), Subject(PAYMENT, story.payments[0])
    created = ("invoice_created",)
    later = NOW - timedelta(minutes=5)
    return {
        "nothing": (Sought(), 60),
        "a type": (Sought(created), 20),
        "two types": (Sought((*created, "subscription_payment_success")), 40),
        "no type": (Sought(()), 0),
        "a customer": (Sought(customer_id=customer), 30),
        "a customer and a type": (Sought(created, customer_id=customer), 10),
        "a subscription": (Sought(subject=subscription), 30),
        "a subscription and another's customer": (
            Sought(subject=subscription, customer_id=story.customers[1]),
            0,
        ),
        "an invoice": (Sought(subject=invoice), 20),
        "an invoice and a type": (Sought(created, invoice), 10),
        "a payment": (Sought(subject=payment), 10),
        "a payment and its customer": (Sought(subject=payment, customer_id=customer), 10),
        "what nobody knows": (Sought(subject=Subject("we", new_id())), 0),
        "since": (Sought(since=later), 30),
        "until": (Sought(until=later), 30),
        "a span of a customer's": (
            Sought(customer_id=customer, since=later, until=later + timedelta(minutes=1)),
            3,
        ),
        "a span of a type": (Sought(created, since=later, until=later + timedelta(minutes=2)), 4),
    }


async def test_a_feed_is_narrowed_by_type_subject_customer_and_time(
    data: Pool, tenant: UUID, story: Story
) -> None:
    for name, (sought, count) in narrowed(story).items():
        found = await lines(data, tenant, sought)
        assert len(found) == count, name
        for line in found:
            assert sought.types is None or line.type in sought.types, name
            assert sought.customer_id in (None, line.customer_id), name
            assert sought.since is None or line.created_at >= sought.since, name
            assert sought.until is None or line.created_at < sought.until, name


@pytest.mark.parametrize("limit", [1, 2, 7, 100])
async def test_pages_of_any_size_are_the_whole_in_order(
    data: Pool, tenant: UUID, story: Story, limit: int
) -> None:
    for name, (sought, _) in narrowed(story).items():
        whole = await lines(data, tenant, sought)
        keys = [(line.created_at, line.id) for line in whole]
        assert keys == sorted(keys, reverse=True), name
        assert await in_pages(data, tenant, sought, limit) == whole, name


async def test_what_is_new_does_not_move_the_pages_that_follow(
    data: Pool, tenant: UUID, story: Story
) -> None:
    whole = await lines(data, tenant)
    first = (await read(data, tenant, limit=10)).page
    await record_many(data, tenant, 5)
    await project(data)
    second = (await Feed(data, tenant).read(Sought(), After.read(first.next_cursor), 10)).page
    assert [*first.items, *second.items] == whole[:20]


async def test_a_tenant_sees_its_own_even_where_another_names_the_same_ids(
    database: Database, data: Pool, tenant: UUID, story: Story, new_tenant: object
) -> None:
    other = await new_tenant()  # type: ignore[operator]
    await story.record(data, other, rounds=2)
    await project(data)
    for name, (sought, count) in narrowed(story).items():
        assert len(await lines(data, tenant, sought)) == count, name
        assert len(await lines(data, other, sought)) <= 12, name
    assert not await lines(database.data(Mode.LIVE), tenant)


async def test_as_of_is_the_moment_up_to_which_all_is_told(data: Pool, tenant: UUID, story: Story) -> None:
    before = await data.fetchval("SELECT now()")
    assert (await read(data, tenant)).as_of >= before
    await record_many(data, tenant, 3)
    waiting = await data.fetchval("SELECT min(created_at) FROM events WHERE data ? 'n'")
    assert (await read(data, tenant)).as_of == waiting, "committed, without a position"
    await sequence_all(data)
    assert (await read(data, tenant)).as_of == waiting, "and with one"
    await project(data)
    assert (await read(data, tenant)).as_of > waiting


async def test_each_line_tells_how_its_deliveries_fare_at_the_moment(
    database: Database, data: Pool, tenant: UUID, story: Story
) -> None:
    assert {line.fares for line in await lines(data, tenant)} == {activity.Fares()}
    ids = sorted(
        [
            await add_endpoint(database, tenant, f"https://{name}.example", event_types=["invoice_created"])
            for name in "abcd"
        ]
    )
    await fan_out(database)
    sought = Sought(("invoice_created",), story_subject(story))
    (fares,) = {line.fares.deliveries for line in await lines(data, tenant, sought)}
    assert fares == 4

    newest, *others = await lines(data, tenant, sought)
    assert newest.fares.troubled == 0, "what waits for its first attempt is no trouble"
    for endpoint, change in zip(
        ids,
        (
            "status = 'failed', due_at = NULL, attempts = 7, tries = 7",
            "status = 'skipped', due_at = NULL",
            "attempts = 2, tries = 2",
            "status = 'delivered', due_at = NULL, attempts = 1, tries = 1",
        ),
        strict=True,
    ):
        await data.execute(
            f"UPDATE webhook_deliveries SET {change} WHERE event_id = $1 AND endpoint_id = $2",
            newest.id,
            endpoint,
        )
    newest, *same = await lines(data, tenant, sought)
    assert newest.fares == activity.Fares(4, 1, 1, 1, tuple(ids[:3]))
    assert [line.fares.troubled for line in same] == [0] * len(others)

    await data.execute("UPDATE webhook_deliveries SET status = 'delivered', due_at = NULL")
    newest, *_ = await lines(data, tenant, sought)
    assert newest.fares == activity.Fares(4)


def story_subject(story: Story) -> Subject:
    return Subject(INVOICE, story.invoices[0])


async def test_of_an_event_with_very_many_deliveries_the_first_are_looked_at(
    data: Pool, tenant: UUID, story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(activity, "DELIVERIES_SEEN", 5)
    await data.execute(
        "INSERT INTO webhook_deliveries (id, tenant_id, endpoint_id, event_id, event_type, created_at, status, due_at,"
        " retry_at) SELECT gen_random_uuid(), tenant_id, gen_random_uuid(), id, type, created_at, 'failed', NULL, NULL"
        "  FROM activity, generate_series(1, 8)"
    )
    for line in await lines(data, tenant):
        assert (line.fares.failed, len(line.fares.endpoints)) == (5, activity.ENDPOINTS_NAMED)
        assert not line.fares.all_seen


async def test_the_generation_that_serves_is_the_one_that_is_read(
    data: Pool, tenant: UUID, story: Story
) -> None:
    before = await lines(data, tenant)
    await begin_rebuild(data, ACTIVITY)
    await data.execute(
        'INSERT INTO activity SELECT (json_populate_record(a, \'{"generation": 2, "line": "told anew"}\')).* FROM activity a'
    )
    assert await lines(data, tenant) == before
    async with data.acquire() as tx, tx.transaction():
        cursor = await log.take_cursor(tx, f"{ACTIVITY}_rebuild")
        assert cursor
        await log.move_cursor(tx, cursor, 60)
    assert await finish_rebuild(data, ACTIVITY)
    after = await lines(data, tenant)
    assert [line.id for line in after] == [line.id for line in before]
    assert {line.line for line in after} == {"told anew"}
