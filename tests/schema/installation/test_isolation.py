"""A role's rights end at its schema: whatever it types, the database refuses what is another mode's or
core's.
"""

from collections.abc import Iterator
from uuid import UUID

import asyncpg
import pytest

from schema.connections.database import Database
from schema.core import endpoints
from schema.ids import new_id
from schema.installation.migrate import migrations
from schema.installation.roles import ANALYST_ROLES, CORE_ROLE, LOGIN_ROLES, PRODUCER_ROLES
from schema.modes import Mode
from tests.support.database_catalog import SCHEMAS, columns, describe, functions, granted_to_public, relations
from tests.support.servers.connections import LIVE, SANDBOX, Connect

REFUSED = asyncpg.InsufficientPrivilegeError
ALL_ROLES = (*LOGIN_ROLES, *ANALYST_ROLES, *PRODUCER_ROLES)


def attempts(relation: asyncpg.Record) -> Iterator[str]:
    name, column = f"{relation['schema']}.{relation['name']}", relation["first_column"]
    yield f"SELECT * FROM {name}"
    if relation["kind"] == "S":
        yield f"SELECT nextval('{name}')"
        return
    yield f"SELECT FROM {name}"
    yield f"COPY {name} TO STDOUT"
    if not relation["writable"]:  # by nobody at all, which is another error
        return
    yield f"INSERT INTO {name} DEFAULT VALUES"
    if column:
        yield f"UPDATE {name} SET {column} = DEFAULT"
    yield f"DELETE FROM {name} WHERE false"
    if relation["kind"] != "v":
        yield f"TRUNCATE {name}"


async def assert_refused(connection: asyncpg.Connection, statement: str) -> None:
    try:
        await connection.execute(statement)
    except REFUSED:
        return
    except asyncpg.PostgresError as error:
        pytest.fail(f"{statement}: not refused, but {error!r}")
    pytest.fail(f"{statement}: not refused")


@pytest.mark.parametrize("role", LOGIN_ROLES)
async def test_a_role_has_no_access_to_tables_of_other_schemas(
    connect: Connect, owner: asyncpg.Connection, role: str
) -> None:
    outside = [s for s in SCHEMAS if s != role.removeprefix("duro_")]
    foreign = await relations(owner, *outside)
    assert {relation["schema"] for relation in foreign} == set(outside)
    connection = await connect(role)
    for relation in foreign:
        for statement in attempts(relation):
            await assert_refused(connection, statement)


@pytest.mark.parametrize("role", LOGIN_ROLES)
async def test_a_role_cannot_call_functions_of_other_schemas(
    connect: Connect, owner: asyncpg.Connection, role: str
) -> None:
    outside = [s for s in SCHEMAS if s != role.removeprefix("duro_")]
    foreign = await functions(owner, *outside)
    assert foreign
    connection = await connect(role)
    for function in foreign:
        arguments = ", ".join(f"NULL::{type_}" for type_ in function["argument_types"])
        await assert_refused(connection, f"SELECT {function['schema']}.{function['name']}({arguments})")


@pytest.mark.parametrize("role", LOGIN_ROLES)
async def test_a_role_cannot_become_another(connect: Connect, role: str) -> None:
    connection = await connect(role)
    others = {*ALL_ROLES, "duro_owner", "postgres"} - {role}
    for other in others:
        await assert_refused(connection, f"SET ROLE {other}")
        await assert_refused(connection, f"SET SESSION AUTHORIZATION {other}")
        await assert_refused(connection, f"GRANT {other} TO {role}")


async def test_a_search_path_gives_no_access(connect: Connect) -> None:
    connection = await connect(SANDBOX)
    await connection.execute("SET search_path = live, core")
    for table in ("events", "tenants", "webhook_deliveries", "api_keys"):
        with pytest.raises(asyncpg.UndefinedTableError):
            await connection.execute(f"SELECT * FROM {table}")
    await assert_refused(connection, "SELECT * FROM live.events")


@pytest.mark.parametrize("role", LOGIN_ROLES)
async def test_a_role_cannot_create_objects(connect: Connect, role: str) -> None:
    connection = await connect(role)
    schema = role.removeprefix("duro_")
    for statement in (
        f"CREATE TABLE {schema}.events_too (id uuid)",
        "CREATE TABLE public.events (id uuid)",
        "CREATE SCHEMA mine",
        f"CREATE FUNCTION {schema}.peek() RETURNS int LANGUAGE sql RETURN 1",
        "CREATE ROLE friend",
        "CREATE DATABASE mine",
    ):
        await assert_refused(connection, statement)


async def test_a_temporary_table_does_not_replace_a_duro_table(connect: Connect, tenant: UUID) -> None:
    """Whoever may connect may make one, and by default it comes first wherever a function names a table."""
    connection = await connect(SANDBOX)
    for table in ("tenants", "event_types", "events", "event_log", "sequencer", "sequencer_lock"):
        await connection.execute(f"CREATE TEMPORARY TABLE {table} (id uuid, name text)")
        await connection.execute(f"GRANT ALL ON {table} TO PUBLIC")
    await connection.fetchval("SELECT record_event($1::uuid, 'invoice_created', '{}')", tenant)
    assert await connection.fetchval("SELECT sequence_events()") == 1
    assert await connection.fetchval("SELECT count(*) FROM sandbox.event_log") == 1
    with pytest.raises(asyncpg.ForeignKeyViolationError):
        await connection.fetchval("SELECT record_event($1::uuid, 'made_up', '{}')", tenant)


async def test_a_product_role_can_only_record_events(
    owner: asyncpg.Connection, superuser: asyncpg.Connection, tenant: UUID
) -> None:
    everything = await relations(owner)
    await superuser.execute(
        f"CREATE ROLE shop; GRANT {PRODUCER_ROLES[0]} TO shop; SET SESSION AUTHORIZATION shop"
    )
    try:
        await superuser.fetchval("SELECT record_event($1::uuid, 'invoice_created', '{}')", tenant)
        await superuser.fetchval("SELECT record_event($1::text, 'invoice_created', '{}')", str(tenant))
        for relation in everything:
            for statement in attempts(relation):
                await assert_refused(superuser, statement)
        await assert_refused(superuser, "SELECT sequence_events()")
        await assert_refused(superuser, "SELECT live.record_event(NULL::uuid, NULL, NULL)")
    finally:
        await superuser.execute("RESET SESSION AUTHORIZATION; DROP ROLE shop")


async def test_roles_have_no_cluster_wide_rights(owner: asyncpg.Connection) -> None:
    roles = await owner.fetch(
        "SELECT rolname, rolsuper OR rolcreatedb OR rolcreaterole OR rolreplication OR rolbypassrls AS powers,"
        "       EXISTS (SELECT FROM pg_auth_members m WHERE m.member = r.oid) AS belongs"
        "  FROM pg_roles r WHERE rolname = ANY($1)",
        ALL_ROLES,
    )
    assert {row["rolname"] for row in roles} == set(ALL_ROLES)
    assert not any(row["powers"] or row["belongs"] for row in roles)


PUBLISHED = {
    *("hourly_events", "daily_revenue", "hourly_payments", "daily_payments"),
    *("recovery", "subscription_movements", "mrr", "delivery_health", "hourly_delivery_health"),
}
CALLED_BY_VIEWS = {
    *("format_id", "as_of", "attempts_as_of", "to_bigint", "time_zone_or_lagos"),
    *("latency_quantile", "histogram_sum"),
}


@pytest.mark.parametrize("mode", Mode)
async def test_an_analyst_reads_only_the_views_of_one_mode(
    owner: asyncpg.Connection, superuser: asyncpg.Connection, mode: Mode
) -> None:
    everything = await relations(owner)
    callable_ = await owner.fetch(
        "SELECT pronamespace::regnamespace::text AS schema, proname FROM pg_proc"
        " WHERE pronamespace::regnamespace::text = ANY($1) AND proowner <> 10"
        "   AND has_function_privilege($2, oid, 'EXECUTE')",
        SCHEMAS,
        f"{mode.role}_analyst",
    )
    assert {tuple(row) for row in callable_} == {(mode.schema, name) for name in CALLED_BY_VIEWS}
    await superuser.execute(f"SET SESSION AUTHORIZATION {mode.role}_analyst")
    for relation in everything:
        name, *others = attempts(relation)
        if relation["schema"] == mode.schema and relation["name"] in PUBLISHED:
            await superuser.execute(name)
            others = [statement for statement in others if not statement.startswith(("SELECT", "COPY"))]
        else:
            others.append(name)
        for statement in others:
            await assert_refused(superuser, statement)
    for statement in (f"CREATE VIEW {mode.schema}.mine AS SELECT 1", f"SET ROLE {mode.role}"):
        await assert_refused(superuser, statement)
    await superuser.execute("RESET SESSION AUTHORIZATION")


async def test_every_published_column_is_documented(owner: asyncpg.Connection) -> None:
    for mode in Mode:
        rows = await owner.fetch(
            "SELECT relname, attname, obj_description(c.oid, 'pg_class') AS about, col_description(c.oid, attnum) AS says"
            "  FROM pg_class c JOIN pg_attribute ON attrelid = c.oid AND attnum > 0"
            " WHERE relnamespace = $1::regnamespace AND has_table_privilege($2, c.oid, 'SELECT')",
            mode.schema,
            f"{mode.role}_analyst",
        )
        assert {row["relname"] for row in rows} == PUBLISHED
        assert [row for row in rows if not row["about"] or not row["says"]] == []


async def test_public_has_no_rights(owner: asyncpg.Connection) -> None:
    assert await granted_to_public(owner) == []


async def test_a_data_role_has_only_its_declared_write_rights(owner: asyncpg.Connection) -> None:
    rows = await owner.fetch(
        "SELECT table_name, string_agg(privilege_type, ' ' ORDER BY privilege_type) AS may"
        "  FROM information_schema.table_privileges"
        " WHERE grantee = 'duro_sandbox' AND privilege_type <> 'SELECT' GROUP BY 1"
    )
    assert {row["table_name"]: row["may"] for row in rows} == {
        "activity": "INSERT",
        "consumers": "UPDATE",
        "cursors": "DELETE INSERT",
        "dead_events": "DELETE INSERT",
        "webhook_deliveries": "INSERT UPDATE",
        "webhook_attempts": "INSERT",
        "event_hours": "INSERT UPDATE",
        "movement_hours": "INSERT UPDATE",
        "recovery_hours": "INSERT UPDATE",
        "subscription_states": "INSERT UPDATE",
        "delivery_switches": "UPDATE",
        "endpoint_health": "INSERT UPDATE",
        "endpoint_rate_limits": "DELETE INSERT UPDATE",
        "webhook_replays": "INSERT UPDATE",
        "store_settings": "INSERT UPDATE",
        "plans": "DELETE INSERT UPDATE",
        "customers": "INSERT UPDATE",
        "promo_codes": "INSERT UPDATE",
        "payment_links": "DELETE INSERT UPDATE",
        "idempotency_keys": "DELETE INSERT UPDATE",
        "subscriptions": "INSERT UPDATE",
        "invoices": "INSERT UPDATE",
        "payment_attempts": "INSERT UPDATE",
        "dunning_schedules": "INSERT UPDATE",
        "checkout_sessions": "INSERT UPDATE",
    }


async def endpoint_of(database: Database, tenant: UUID, mode: Mode) -> UUID:
    new = endpoints.NewEndpoint(new_id(), tenant, mode, f"https://{mode}.example", "", (), None, b"sealed")
    await endpoints.create(database.core, new)
    return new.id


async def test_endpoints_of_the_other_mode_are_not_accessible(database: Database, tenant: UUID) -> None:
    ours, theirs = [await endpoint_of(database, tenant, mode) for mode in Mode]
    sandbox = database.data(Mode.TEST)

    assert [row["id"] for row in await sandbox.fetch("SELECT id FROM webhook_endpoints")] == [ours]
    assert not await sandbox.fetchval("SELECT disable_endpoint($1, 'gone', NULL)", theirs)
    assert not await sandbox.fetchval("SELECT enable_endpoint($1)", theirs)
    assert (await endpoints.show(database.core, theirs)).enabled


async def test_a_leaking_condition_sees_no_rows_of_the_other_mode(database: Database, tenant: UUID) -> None:
    """A failing cast quotes its argument; the view's own condition comes first."""
    await endpoint_of(database, tenant, Mode.LIVE)
    leak = "SELECT id FROM webhook_endpoints WHERE url::integer > 0"
    assert await database.data(Mode.TEST).fetch(leak) == []
    with pytest.raises(asyncpg.InvalidTextRepresentationError, match=r"https://live\.example"):
        await database.data(Mode.LIVE).fetch(leak)


async def test_core_and_data_roles_have_no_rights_on_each_other(connect: Connect) -> None:
    for role, statement in (
        (CORE_ROLE, "SELECT live.record_event(NULL::uuid, NULL, NULL)"),
        (LIVE, "SELECT key_hash FROM core.api_keys"),
        (SANDBOX, "UPDATE core.webhook_endpoints SET url = url"),
    ):
        await assert_refused(await connect(role), statement)


async def differences(owner: asyncpg.Connection) -> set[tuple[str, str]]:
    sandbox, live = [await describe(owner, mode.schema) for mode in Mode]
    return {(kind, name) for kind, name, _text in sandbox ^ live}


async def test_the_catalogs_of_sandbox_and_live_are_equal(owner: asyncpg.Connection) -> None:
    """But for the one function that says which mode this is."""
    assert len(await describe(owner, "live")) > 300
    assert await differences(owner) == {("function", "MODE.this_mode()")}


@pytest.mark.parametrize(
    ("change", "seen"),
    [
        ("ALTER TABLE live.cursors ADD note text", ("column", "cursors.note")),
        ("ALTER TABLE live.cursors ALTER moved_at DROP DEFAULT", ("column", "cursors.moved_at")),
        ("DROP INDEX live.events_by_tenant", ("index", "events_by_tenant")),
        ("ALTER TABLE live.events DISABLE TRIGGER append_only", ("trigger", "events.append_only")),
        ("GRANT DELETE ON live.events TO duro_live", ("grant", "events")),
        ("ALTER FUNCTION live.new_ulid() SECURITY DEFINER", ("function", "MODE.new_ulid()")),
        ("ALTER VIEW live.tenants SET (security_barrier = false)", ("relation", "tenants")),
        (
            "ALTER TABLE live.dead_events DROP CONSTRAINT dead_events_pkey",
            ("constraint", "dead_events.dead_events_pkey"),
        ),
    ],
)
async def test_the_catalog_comparison_detects_differences(
    owner: asyncpg.Connection, change: str, seen: tuple[str, str]
) -> None:
    await owner.execute(change)
    assert seen in await differences(owner)


async def test_security_definer_functions_set_their_search_path(
    owner: asyncpg.Connection,
) -> None:
    """pg_temp comes last, or else a caller's temporary table stands in for ours."""
    rows = await owner.fetch(
        "SELECT pronamespace::regnamespace::text AS schema, oid::regprocedure::text AS name, proconfig FROM pg_proc"
        " WHERE prosecdef AND pronamespace::regnamespace::text = ANY($1)",
        SCHEMAS,
    )
    assert {row["schema"] for row in rows} == set(SCHEMAS)
    assert [
        row for row in rows if f"search_path={row['schema']}, pg_temp" not in (row["proconfig"] or ())
    ] == []
    assert not [m.name for m in migrations() if "FROM CURRENT" in m.text]
    assert (
        await owner.fetch(
            "SELECT oid::regprocedure FROM pg_proc WHERE pronamespace::regnamespace::text = ANY($1)"
            r" AND prosrc LIKE '%\\%'",
            SCHEMAS,
        )
        == []
    ), "A backslash in a body means another thing to a caller with standard_conforming_strings off."


async def test_all_objects_are_in_three_schemas(owner: asyncpg.Connection) -> None:
    everything = await relations(owner, *SCHEMAS, "public")
    assert {relation["schema"] for relation in everything} == {"core", "sandbox", "live"}


async def test_rows_have_a_tenant_and_no_mode(owner: asyncpg.Connection) -> None:
    """The schema says the mode, so that no query can forget to. For the billing tables see
    test_billing_tenancy.py.
    """
    rows = await columns(owner, "sandbox", "live")
    assert [row["table"] for row in rows if row["name"] == "mode"] == []
    carrying = {(row["schema"], row["table"]) for row in rows if row["name"] == "tenant_id" and row["given"]}
    tables = ("events", "event_log", "webhook_deliveries", "webhook_attempts")
    assert carrying >= {(mode.schema, table) for mode in Mode for table in tables}


async def test_each_pool_logs_in_as_the_role_of_its_schema(database: Database) -> None:
    pools = {"core": database.core, **{mode.schema: database.data(mode) for mode in Mode}}
    for schema, pool in pools.items():
        row = await pool.fetchrow("SELECT current_user, current_schemas(false) AS path")
        assert row["current_user"] == f"duro_{schema}"
        assert row["path"] == [schema]
