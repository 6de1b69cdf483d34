"""The activity feed: filtered keyset pages of one tenant, newest first, with delivery summaries."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

import orjson
import pytest

from consumers.activity.activity_consumer import Activity
from consumers.consumer import Consumer
from consumers.projection_handlers import ProjectionHandler
from schema.connections.database import Database, Pool
from schema.event_log import log
from schema.ids import CUSTOMER, INVOICE, PAYMENT, SUBSCRIPTION, format_id, new_id
from schema.modes import Mode
from schema.pages import After
from schema.read_models import activity_feed
from schema.read_models.activity_feed import ACTIVITY, Entry, Feed, FeedFilter, FeedPage, Subject
from schema.read_models.projections import begin_rebuild, finish_rebuild
from tests.service.cli.log_work import fan_out
from tests.support.engine import add_endpoint
from tests.support.events import record_many, sequence_all

NOW = datetime.now(UTC).replace(microsecond=0)


@pytest.fixture
def data(database: Database) -> Pool:
    return database.data(Mode.TEST)


class Story:
    """Two customers with a subscription each; three events at each time, so that a page can end between equal keys."""

    def __init__(self) -> None:
        self.customers = [new_id(), new_id()]
        self.subscriptions = [new_id(), new_id()]
        self.invoices = [new_id(), new_id()]
        self.payments = [new_id(), new_id()]

    async def record(self, data: Pool, tenant: UUID, rounds: int = 10) -> None:
        for number in range(rounds):
            at = NOW - timedelta(minutes=rounds - number)
            for who in (0, 1):
                recorded: dict[str, str] = {
                    "subscriptionId": format_id(SUBSCRIPTION, self.subscriptions[who]),
                    "customerId": format_id(CUSTOMER, self.customers[who]),
                }
                await record_at(data, tenant, "subscription_resumed", recorded, at)
                recorded["invoiceId"] = format_id(INVOICE, self.invoices[who])
                await record_at(data, tenant, "invoice_created", recorded, at)
                recorded["paymentId"] = format_id(PAYMENT, self.payments[who])
                await record_at(data, tenant, "subscription_payment_success", recorded, at)


async def record_at(data: Pool, tenant: UUID, type_: str, recorded: dict[str, str], at: datetime) -> None:
    text = orjson.dumps(recorded).decode()
    await data.execute("SELECT record_event($1::uuid, $2, $3, $4)", tenant, type_, text, at)


async def project(data: Pool) -> None:
    await sequence_all(data)
    consumer = Consumer(data, ProjectionHandler(Activity()))
    while await consumer.step():
        pass


@pytest.fixture
async def story(data: Pool, tenant: UUID) -> Story:
    story = Story()
    await story.record(data, tenant)
    await project(data)
    return story


async def read(
    data: Pool,
    tenant: UUID,
    feed_filter: FeedFilter = FeedFilter(),  # noqa: B008  frozen
    limit: int = 100,
) -> FeedPage:
    return await Feed(data, tenant).read(feed_filter, After(), limit)


async def entries(data: Pool, tenant: UUID, feed_filter: FeedFilter = FeedFilter()) -> Sequence[Entry]:  # noqa: B008  frozen
    return (await read(data, tenant, feed_filter)).page.items


async def in_pages(data: Pool, tenant: UUID, feed_filter: FeedFilter, limit: int) -> list[Entry]:
    feed, after, found = Feed(data, tenant), After(), list[Entry]()
    while True:
        page = (await feed.read(feed_filter, after, limit)).page
        found += page.items
        assert len(page.items) == limit or not page.has_more
        if not page.has_more:
            return found
        after = After.read(page.next_cursor)


def narrowed(story: Story) -> dict[str, tuple[FeedFilter, int]]:
    """Filters by name, each with the number of entries that ten rounds yield."""
    customer, subscription = story.customers[0], Subject(SUBSCRIPTION, story.subscriptions[0])
    invoice, payment = Subject(INVOICE, story.invoices[0]), Subject(PAYMENT, story.payments[0])
    created = ("invoice_created",)
    later = NOW - timedelta(minutes=5)
    return {
        "nothing": (FeedFilter(), 60),
        "a type": (FeedFilter(created), 20),
        "two types": (FeedFilter((*created, "subscription_payment_success")), 40),
        "no type": (FeedFilter(()), 0),
        "a customer": (FeedFilter(customer_id=customer), 30),
        "a customer and a type": (FeedFilter(created, customer_id=customer), 10),
        "a subscription": (FeedFilter(subject=subscription), 30),
        "a subscription and another's customer": (
            FeedFilter(subject=subscription, customer_id=story.customers[1]),
            0,
        ),
        "an invoice": (FeedFilter(subject=invoice), 20),
        "an invoice and a type": (FeedFilter(created, invoice), 10),
        "a payment": (FeedFilter(subject=payment), 10),
        "a payment and its customer": (FeedFilter(subject=payment, customer_id=customer), 10),
        "what nobody knows": (FeedFilter(subject=Subject("we", new_id())), 0),
        "since": (FeedFilter(since=later), 30),
        "until": (FeedFilter(until=later), 30),
        "a span of a customer's": (
            FeedFilter(customer_id=customer, since=later, until=later + timedelta(minutes=1)),
            3,
        ),
        "a span of a type": (FeedFilter(created, since=later, until=later + timedelta(minutes=2)), 4),
    }


async def test_filters_by_type_subject_customer_and_time(data: Pool, tenant: UUID, story: Story) -> None:
    for name, (feed_filter, count) in narrowed(story).items():
        found = await entries(data, tenant, feed_filter)
        assert len(found) == count, name
        for entry in found:
            assert feed_filter.types is None or entry.type in feed_filter.types, name
            assert feed_filter.customer_id in (None, entry.customer_id), name
            assert feed_filter.since is None or entry.created_at >= feed_filter.since, name
            assert feed_filter.until is None or entry.created_at < feed_filter.until, name


@pytest.mark.parametrize("limit", [1, 2, 7, 100])
async def test_pages_of_any_size_add_up_to_the_feed_in_order(
    data: Pool, tenant: UUID, story: Story, limit: int
) -> None:
    for name, (feed_filter, _) in narrowed(story).items():
        whole = await entries(data, tenant, feed_filter)
        keys = [(entry.created_at, entry.id) for entry in whole]
        assert keys == sorted(keys, reverse=True), name
        assert await in_pages(data, tenant, feed_filter, limit) == whole, name


async def test_new_entries_do_not_shift_later_pages(data: Pool, tenant: UUID, story: Story) -> None:
    whole = await entries(data, tenant)
    first = (await read(data, tenant, limit=10)).page
    await record_many(data, tenant, 5)
    await project(data)
    second = (await Feed(data, tenant).read(FeedFilter(), After.read(first.next_cursor), 10)).page
    assert [*first.items, *second.items] == whole[:20]


async def test_tenants_do_not_see_each_other_even_with_equal_ids(
    database: Database, data: Pool, tenant: UUID, story: Story, new_tenant: object
) -> None:
    other = await new_tenant()  # type: ignore[operator]
    await story.record(data, other, rounds=2)
    await project(data)
    for name, (feed_filter, count) in narrowed(story).items():
        assert len(await entries(data, tenant, feed_filter)) == count, name
        assert len(await entries(data, other, feed_filter)) <= 12, name
    assert not await entries(database.data(Mode.LIVE), tenant)


async def test_the_feed_is_complete_up_to_as_of(data: Pool, tenant: UUID, story: Story) -> None:
    before = await data.fetchval("SELECT now()")
    assert (await read(data, tenant)).as_of >= before
    await record_many(data, tenant, 3)
    waiting = await data.fetchval("SELECT min(created_at) FROM events WHERE data ? 'n'")
    assert (await read(data, tenant)).as_of == waiting, "committed, without a position"
    await sequence_all(data)
    assert (await read(data, tenant)).as_of == waiting, "and with one"
    await project(data)
    assert (await read(data, tenant)).as_of > waiting


async def test_an_entry_counts_its_deliveries_by_outcome(
    database: Database, data: Pool, tenant: UUID, story: Story
) -> None:
    assert {entry.deliveries for entry in await entries(data, tenant)} == {activity_feed.DeliverySummary()}
    ids = sorted(
        [
            await add_endpoint(database, tenant, f"https://{name}.example", event_types=["invoice_created"])
            for name in "abcd"
        ]
    )
    await fan_out(database)
    feed_filter = FeedFilter(("invoice_created",), story_subject(story))
    (deliveries,) = {entry.deliveries.total for entry in await entries(data, tenant, feed_filter)}
    assert deliveries == 4

    newest, *others = await entries(data, tenant, feed_filter)
    assert newest.deliveries.not_delivered == 0, "what waits for its first attempt is no problem"
    for endpoint, change in zip(
        ids,
        (
            "status = 'failed', due_at = NULL, attempts = 7, schedule_attempts = 7",
            "status = 'skipped', due_at = NULL",
            "attempts = 2, schedule_attempts = 2",
            "status = 'delivered', due_at = NULL, attempts = 1, schedule_attempts = 1",
        ),
        strict=True,
    ):
        await data.execute(
            f"UPDATE webhook_deliveries SET {change} WHERE event_id = $1 AND endpoint_id = $2",
            newest.id,
            endpoint,
        )
    newest, *same = await entries(data, tenant, feed_filter)
    assert newest.deliveries == activity_feed.DeliverySummary(4, 1, 1, 1, tuple(ids[:3]))
    assert [entry.deliveries.not_delivered for entry in same] == [0] * len(others)

    await data.execute("UPDATE webhook_deliveries SET status = 'delivered', due_at = NULL")
    newest, *_ = await entries(data, tenant, feed_filter)
    assert newest.deliveries == activity_feed.DeliverySummary(4)


def story_subject(story: Story) -> Subject:
    return Subject(INVOICE, story.invoices[0])


async def test_only_the_first_deliveries_of_an_event_are_counted(
    data: Pool, tenant: UUID, story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(activity_feed, "DELIVERIES_COUNTED", 5)
    await data.execute(
        "INSERT INTO webhook_deliveries (id, tenant_id, endpoint_id, event_id, event_type, created_at, status, due_at,"
        " retry_at) SELECT gen_random_uuid(), tenant_id, gen_random_uuid(), id, type, created_at, 'failed', NULL, NULL"
        "  FROM activity, generate_series(1, 8)"
    )
    for entry in await entries(data, tenant):
        assert (entry.deliveries.failed, len(entry.deliveries.endpoints)) == (
            5,
            activity_feed.ENDPOINTS_LISTED,
        )
        assert not entry.deliveries.all_counted


async def test_only_the_serving_generation_is_read(data: Pool, tenant: UUID, story: Story) -> None:
    before = await entries(data, tenant)
    await begin_rebuild(data, ACTIVITY)
    await data.execute(
        'INSERT INTO activity SELECT (json_populate_record(a, \'{"generation": 2, "summary": "rebuilt"}\')).* FROM activity a'
    )
    assert await entries(data, tenant) == before
    async with data.acquire() as tx, tx.transaction():
        cursor = await log.take_cursor(tx, f"{ACTIVITY}_rebuild")
        assert cursor
        await log.move_cursor(tx, cursor, 60)
    assert await finish_rebuild(data, ACTIVITY)
    after = await entries(data, tenant)
    assert [entry.id for entry in after] == [entry.id for entry in before]
    assert {entry.summary for entry in after} == {"rebuilt"}
