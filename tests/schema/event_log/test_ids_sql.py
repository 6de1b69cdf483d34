"""The database formats and parses ids as schema.ids does."""

from uuid import UUID

import asyncpg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from schema import ids
from schema.errors import InvalidInput
from tests.support.servers.connections import Connect

shared_connection = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


@pytest.fixture
async def connection(connect: Connect) -> asyncpg.Connection:
    return await connect()


@given(st.uuids(), st.sampled_from([ids.EVENT, ids.ENDPOINT, ids.DELIVERY, ids.TENANT]))
@example(UUID(int=0), "ten")
@example(UUID(int=(1 << 128) - 1), "ten")
@shared_connection
async def test_python_and_sql_format_and_parse_ids_alike(
    connection: asyncpg.Connection, value: UUID, prefix: str
) -> None:
    written = await connection.fetchval("SELECT format_id($1, $2)", prefix, value)
    assert written == ids.format_id(prefix, value)
    assert await connection.fetchval("SELECT parse_id($1, $2)", prefix, written) == value
    assert ids.parse_id(prefix, written) == value


@given(st.text(st.sampled_from(CROCKFORD + "ILOU!é"), min_size=24, max_size=28))
@example("7" + "Z" * 25)
@example("8" + "0" * 25)
@shared_connection
async def test_python_and_sql_refuse_the_same_ids(connection: asyncpg.Connection, ulid: str) -> None:
    try:
        expected = ids.parse_id("ten", f"ten_{ulid}")
    except InvalidInput:
        with pytest.raises(asyncpg.InvalidTextRepresentationError):
            await connection.fetchval("SELECT parse_id('ten', $1)", f"ten_{ulid}")
    else:
        assert await connection.fetchval("SELECT parse_id('ten', $1)", f"ten_{ulid}") == expected


async def test_the_database_makes_ulids_that_sort_by_time(connection: asyncpg.Connection) -> None:
    made = [await connection.fetchval("SELECT new_ulid()") for _ in range(20)]
    moment = await connection.fetchval("SELECT extract(epoch FROM clock_timestamp())::float8 * 1000")
    milliseconds = [value.int >> 80 for value in made]
    assert milliseconds == sorted(milliseconds)
    assert abs(milliseconds[-1] - moment) < 1000
    assert len({value.int & (1 << 80) - 1 for value in made}) == len(made)
