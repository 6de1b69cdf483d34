"""record_event() is the only way to append: from SQL in any language, in the producer's own transaction."""

import itertools
import json
import sys
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import asyncpg
import pytest

from schema.connections.database import Database
from schema.errors import InvalidInput
from schema.event_log import events
from schema.event_log.partitions import ensure_past_partitions
from schema.ids import EVENT, TENANT, format_id, parse_id
from schema.modes import Mode
from tests.support.events import in_log, record, sequence_all
from tests.support.servers.connections import Connect

LIMIT = 262_144


@pytest.fixture
async def producer(connect: Connect) -> asyncpg.Connection:
    return await connect()


def json_of_size(size: int) -> str:
    """As Postgres prints it, `{"a": "xxx…"}` with that many bytes."""
    return '{"a": "' + "x" * (size - len('{"a": ""}')) + '"}'


async def stored(producer: asyncpg.Connection) -> list[asyncpg.Record]:
    return await producer.fetch("SELECT id, tenant_id, type, data::text AS data FROM events ORDER BY seq")


async def test_with_a_uuid_it_returns_a_uuid(producer: asyncpg.Connection, tenant: UUID) -> None:
    data = {"invoiceId": "inv_1", "amount": 500_000}
    event = await producer.fetchval(
        "SELECT record_event($1::uuid, 'invoice_created', $2::jsonb)", tenant, json.dumps(data)
    )
    (row,) = await stored(producer)
    assert (row["id"], row["tenant_id"], row["type"]) == (event, tenant, "invoice_created")
    assert json.loads(row["data"]) == data


async def test_with_a_prefixed_id_it_returns_a_prefixed_id(
    producer: asyncpg.Connection, tenant: UUID
) -> None:
    for written in (format_id(TENANT, tenant), format_id(TENANT, tenant).lower(), str(tenant)):
        event = await producer.fetchval("SELECT record_event($1::text, 'invoice_created', '{}')", written)
        assert parse_id(EVENT, event) == (await stored(producer))[-1]["id"]
    assert {row["tenant_id"] for row in await stored(producer)} == {tenant}


async def test_literals_alone_are_not_ambiguous(producer: asyncpg.Connection, tenant: UUID) -> None:
    """A producer in plain SQL writes no casts."""
    event = await producer.fetchval(
        f"SELECT record_event('{format_id(TENANT, tenant)}', 'invoice_created', '{{\"n\": 1}}')"
    )
    assert event.startswith("evt_")


async def test_a_rolled_back_transaction_records_nothing(producer: asyncpg.Connection, tenant: UUID) -> None:
    transaction = producer.transaction()
    await transaction.start()
    await events.record(producer, tenant, "invoice_created", {})
    await transaction.rollback()
    assert await stored(producer) == []


@pytest.mark.parametrize("size", [LIMIT, LIMIT + 1])
async def test_data_is_limited_to_256_kib_exactly(
    producer: asyncpg.Connection, tenant: UUID, size: int
) -> None:
    if size <= LIMIT:
        await events.record(producer, tenant, "invoice_created", json_of_size(size))
        assert len((await stored(producer))[0]["data"]) == LIMIT
        return
    with pytest.raises(InvalidInput, match="262145 bytes"):
        await events.record(producer, tenant, "invoice_created", json_of_size(size))
    assert await stored(producer) == []


@pytest.mark.parametrize(
    "data", ['{"a": "' + "\\u0001" * 45_000 + '"}', f'{{"a": [{", ".join(["1e-16383"] * 16)}]}}']
)
async def test_data_is_measured_as_printed(producer: asyncpg.Connection, tenant: UUID, data: str) -> None:
    """A control character takes 1 byte stored and 6 in JSON; a small number takes a few bytes and 16 KiB."""
    with pytest.raises(InvalidInput, match="more than 262144"):
        await events.record(producer, tenant, "invoice_created", data)


@pytest.mark.parametrize(
    ("type_", "data", "sentence"),
    [
        ("invoice_exploded", "{}", r"Unknown event type 'invoice_exploded'.* duro event types"),
        ("invoice_created", "[]", r"must be a JSON object, not array.* Wrap the value"),
        ("invoice_created", '"text"', "must be a JSON object, not string"),
        ("invoice_created", "null", "must be a JSON object, not null"),
        ("invoice_created", "{", "not JSON that Postgres can hold"),
        ("invoice_created", '{"a": "\\u0000"}', "not JSON that Postgres can hold"),
    ],
)
async def test_invalid_data_is_refused_with_a_sentence(
    producer: asyncpg.Connection, tenant: UUID, type_: str, data: str, sentence: str
) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        await events.record(producer, tenant, type_, data)
    assert await stored(producer) == []


async def test_an_unknown_tenant_is_named_by_its_prefixed_id(producer: asyncpg.Connection) -> None:
    stranger = uuid4()
    with pytest.raises(
        InvalidInput, match=f"Unknown tenant {format_id(TENANT, stranger)}.* duro tenant create"
    ):
        await events.record(producer, stranger, "invoice_created", {})


@pytest.mark.parametrize(
    "written", ["", "ten_", "ten_short", "we_01HKBZ4PQ9Z3K7T8V9X2Y1B5C6", "ten_" + "8" * 26]
)
async def test_an_invalid_tenant_id_is_refused(producer: asyncpg.Connection, written: str) -> None:
    with pytest.raises(asyncpg.InvalidTextRepresentationError, match="ten_ followed by 26"):
        await producer.fetchval("SELECT record_event($1::text, 'invoice_created', '{}')", written)


async def test_a_null_is_refused(producer: asyncpg.Connection, tenant: UUID) -> None:
    for arguments in (
        (None, "invoice_created", "{}"),
        (tenant, None, "{}"),
        (tenant, "invoice_created", None),
    ):
        with pytest.raises(asyncpg.IntegrityConstraintViolationError):
            await producer.fetchval("SELECT record_event($1::uuid, $2, $3::jsonb)", *arguments)


async def test_an_event_belongs_to_the_mode_it_was_recorded_in(database: Database, tenant: UUID) -> None:
    event = await events.record(database.data(Mode.LIVE), tenant, "invoice_created", {})
    assert (await events.show(database.data(Mode.LIVE), tenant, event)).id == event
    assert await events.tenant_of(database.data(Mode.TEST), event) is None


# With another time


async def test_an_earlier_event_keeps_its_time_and_gets_a_position(database: Database, tenant: UUID) -> None:
    pool = database.data(Mode.TEST)
    earlier = datetime.now(UTC) - timedelta(days=100)
    await ensure_past_partitions(pool, earlier)
    recent = await record(pool, tenant)
    past = await pool.fetchval(
        "SELECT record_event($1::uuid, 'invoice_created', '{}'::jsonb, $2::timestamptz)", tenant, earlier
    )
    assert await pool.fetchval("SELECT created_at FROM events WHERE id = $1", past) == earlier
    assert past < recent, "its id is a ULID of that time"
    await sequence_all(pool)
    assert await in_log(pool) == [recent, past]


async def test_an_event_time_in_the_future_or_before_partitions_is_refused(
    database: Database, tenant: UUID
) -> None:
    pool = database.data(Mode.TEST)
    statement = "SELECT record_event($1::uuid, 'invoice_created', '{}'::jsonb, $2::timestamptz)"
    with pytest.raises(asyncpg.InvalidParameterValueError, match="time in the future"):
        await pool.fetchval(statement, tenant, datetime.now(UTC) + timedelta(hours=1))
    with pytest.raises(asyncpg.CheckViolationError, match="no partition"):
        await pool.fetchval(statement, tenant, datetime(2020, 1, 1, tzinfo=UTC))
    with pytest.raises(InvalidInput, match="ten years old"):
        await ensure_past_partitions(pool, datetime(1999, 1, 1, tzinfo=UTC))
    assert await pool.fetchval("SELECT count(*) FROM events") == 0


BOUND = 2**1024 - 2**970  # the least integer that rounds to infinity as an IEEE double
INFINITE = ("1e309", "-1e309", "1e9999", "1.7976931348623159e308", f"{BOUND}", f"-{BOUND}", f"{BOUND}.5")
FINITE = (
    *("1.7976931348623157e308", "-1.7976931348623157e308", "1.7976931348623158e308", "1e308", "1e-400"),
    *(f"{BOUND - 1}", f"-{BOUND - 1}", f"{BOUND - 1}.99", "0e9999"),
    *(f'"{BOUND}"', f'"1{"0" * 400}"', f'{{"1{"0" * 400}": 1}}'),
)


@pytest.mark.parametrize("around", ['{"n": %s}', '{"a": [1, {"b": [[%s]]}]}'])
async def test_a_number_that_becomes_infinity_is_refused(
    producer: asyncpg.Connection, tenant: UUID, around: str
) -> None:
    for number in INFINITE:
        assert abs(float(number)) == float("inf")
        with pytest.raises(InvalidInput, match=r"number that receivers cannot parse.*Send it as a string"):
            await events.record(producer, tenant, "invoice_created", around % number)
    assert await stored(producer) == []


async def test_a_number_that_stays_finite_is_recorded(producer: asyncpg.Connection, tenant: UUID) -> None:
    for value in FINITE:
        await events.record(producer, tenant, "invoice_created", f'{{"a": [{{"n": {value}}}]}}')
    for row in await stored(producer):
        (found,) = json.loads(row["data"], parse_int=float)["a"]
        assert not isinstance(found["n"], float) or abs(found["n"]) <= sys.float_info.max


@pytest.mark.parametrize("number", ["1e131071", "-1e131071", "1e-16383", "-1e-16383"])
async def test_short_numbers_that_print_long_do_not_exhaust_memory(
    producer: asyncpg.Connection, tenant: UUID, number: str
) -> None:
    """As text these would be 1.6 and 13 GB, and a value of PostgreSQL has at most 1 GB."""
    data = f'{{"n": [{", ".join([number] * 100_000)}]}}'
    with pytest.raises(asyncpg.CheckViolationError, match=r"receivers cannot parse|256 KiB"):
        await producer.execute(
            "SELECT record_event($1::uuid, 'invoice_created', $2::text)", tenant, data, timeout=60
        )
    assert await stored(producer) == []


async def test_small_numbers_are_recorded_up_to_the_limit(producer: asyncpg.Connection, tenant: UUID) -> None:
    """Each has 16,385 bytes as text."""
    await events.record(producer, tenant, "invoice_created", f'{{"n": [{", ".join(["1e-16383"] * 15)}]}}')
    assert len(await stored(producer)) == 1


async def test_arguments_may_have_any_type_that_a_driver_sends(
    producer: asyncpg.Connection, tenant: UUID
) -> None:
    """As literals and as parameters of a prepared statement."""
    values = (str(tenant), "invoice_created", '{"n": 1}')
    text = ("text", "varchar", "unknown")
    tried = list(itertools.product(("uuid", *text), text, ("json", "jsonb", *text)))
    for types in tried:
        casts = ["" if given == "unknown" else f"::{given}" for given in types]
        literals = ", ".join(f"'{value}'{cast}" for value, cast in zip(values, casts, strict=True))
        parameters = ", ".join(f"${number}{cast}" for number, cast in enumerate(casts, 1))
        returned, given = (UUID, tenant) if types[0] == "uuid" else (str, str(tenant))
        assert isinstance(await producer.fetchval(f"SELECT record_event({literals})"), returned)
        assert isinstance(
            await producer.fetchval(f"SELECT record_event({parameters})", given, *values[1:]), returned
        )
    rows = await stored(producer)
    assert {(row["tenant_id"], row["type"], row["data"]) for row in rows} == {(tenant, *values[1:])}
    assert len(rows) == 2 * len(tried)


async def test_a_member_of_the_producer_role_may_call_every_form(
    connect: Connect, superuser: asyncpg.Connection, tenant: UUID
) -> None:
    await superuser.execute("SET SESSION AUTHORIZATION duro_sandbox_producer")
    for data in ("json", "jsonb", "text"):
        for tenant_type in ("uuid", "text"):
            assert await superuser.fetchval(
                f"SELECT record_event('{tenant}'::{tenant_type}, 'invoice_created', '{{}}'::{data})"
            )


async def test_no_session_setting_disables_the_checks(superuser: asyncpg.Connection) -> None:
    """Ordinary triggers do not fire in a session that replicates."""
    await superuser.execute("SET session_replication_role = replica")
    with pytest.raises(asyncpg.ForeignKeyViolationError, match="unknown event type"):
        await superuser.execute("SELECT record_event(gen_random_uuid(), 'no_such_type', '{}')")
    await superuser.execute("SELECT ensure_partitions()")
    assert await superuser.fetchval(
        "SELECT bool_and(tgenabled = 'A') FROM pg_trigger t JOIN pg_inherits ON inhrelid = tgrelid"
        " WHERE inhparent = 'events'::regclass AND tgname = 'check_event'"
    )
