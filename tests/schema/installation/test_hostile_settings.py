"""Settings of the database or of roles do not change what is created, recorded or delivered."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from schema.connections.database import Database, Executor, connect_as_owner, connect_to_core
from schema.connections.session_settings import PINNED, VERSION_DEPENDENT
from schema.core import tenants
from schema.installation.migrate import migrate
from schema.installation.roles import LOGIN_ROLES
from schema.modes import Mode
from schema.secret_box import derive_role_password
from service.analytics.export import reading
from tests.support.database_catalog import SCHEMAS, describe
from tests.support.engine import add_endpoint, engine, running
from tests.support.servers.connections import SANDBOX, SUPERUSER, connections
from tests.support.servers.databases import OWNER, Cluster
from tests.support.servers.receiver import receiving

# A value for each pinned setting that differs from the pinned one, and others that must not matter.
HOSTILE = {
    "default_transaction_isolation": "serializable",
    "default_transaction_read_only": "on",
    "default_transaction_deferrable": "on",
    "standard_conforming_strings": "off",
    "transform_null_equals": "on",
    "array_nulls": "off",
    "quote_all_identifiers": "on",
    "DateStyle": "German",
    "IntervalStyle": "sql_standard",
    "TimeZone": "Pacific/Apia",
    "bytea_output": "escape",
    "extra_float_digits": "-15",
    "xmloption": "document",
    "default_tablespace": "pg_default",
    "default_table_access_method": "another_heap",
    "check_function_bodies": "off",
    "plpgsql.extra_errors": "all",
    "row_security": "off",
    "createrole_self_grant": "set, inherit",
    "statement_timeout": "1ms",
    "lock_timeout": "1ms",
    "idle_in_transaction_session_timeout": "1ms",
    "idle_session_timeout": "1ms",
    "transaction_timeout": "1ms",
    "restrict_nonsystem_relation_kind": "view",
    "exit_on_error": "on",
    "client_min_messages": "debug1",
    "enable_indexscan": "off",
    "enable_indexonlyscan": "off",
    "enable_nestloop": "off",
    "enable_sort": "off",
    "enable_partition_pruning": "off",
    "debug_parallel_query": "regress",
    "from_collapse_limit": "1",
    "join_collapse_limit": "1",
    "geqo_threshold": "2",
    # Not pinned:
    "search_path": "nowhere, public, pg_catalog",
    "backslash_quote": "off",
    "client_encoding": "LATIN1",
    "constraint_exclusion": "on",
    "lc_messages": "C",
    "lc_numeric": "C",
    "lc_time": "C",
    "plan_cache_mode": "force_custom_plan",
    "plpgsql.variable_conflict": "use_column",
    "synchronous_commit": "off",
    "work_mem": "64kB",
}
# What a product has to set right for its own session: these end it, or forbid it to write.
OF_THE_PRODUCT = {
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_session_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "default_transaction_read_only": "off",
    "restrict_nonsystem_relation_kind": "",
}


def test_every_pinned_setting_has_a_hostile_value() -> None:
    assert set(PINNED) <= set(HOSTILE)
    assert not [name for name, value in PINNED.items() if HOSTILE[name] == value]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def friendly(cluster: Cluster, template: str) -> set[tuple[Any, ...]]:
    async with cluster.empty_database() as name:
        return await migrated(cluster, name)


async def migrated(cluster: Cluster, name: str) -> set[tuple[Any, ...]]:
    """All objects that migrations create, read by a session with default settings."""
    owner = await connect_as_owner(cluster.url(name))
    try:
        await migrate(owner, cluster.key)
        return {entry for schema in SCHEMAS for entry in await describe(owner, schema)}
    finally:
        await owner.close()


@asynccontextmanager
async def hostile_database(cluster: Cluster, where: str) -> AsyncIterator[str]:
    async with cluster.empty_database() as name, connections(cluster, name) as connect:
        superuser = await connect(SUPERUSER)
        await superuser.execute("CREATE ACCESS METHOD another_heap TYPE TABLE HANDLER heap_tableam_handler")
        targets = {
            "database": [f"DATABASE {name}"],
            "roles": [f"ROLE {role} IN DATABASE {name}" for role in (OWNER, *LOGIN_ROLES)],
        }[where]
        unknown = [
            setting
            for setting in VERSION_DEPENDENT
            if await superuser.fetchval("SELECT current_setting($1, true)", setting) is None
        ]
        for target in targets:
            for setting, value in HOSTILE.items():
                if setting in unknown:
                    continue
                listed = setting == "search_path"
                await superuser.execute(f"ALTER {target} SET {setting} = {value if listed else repr(value)}")
        yield name


@pytest.mark.parametrize("where", ["database", "roles"])
async def test_database_and_role_settings_have_no_effect(
    cluster: Cluster, template: str, friendly: set[tuple[Any, ...]], where: str
) -> None:
    async with hostile_database(cluster, where) as name:
        assert await migrated(cluster, name) == friendly
        async with (
            Database.open(cluster.url(name), cluster.key) as database,
            receiving() as receiver,
            engine(database) as made,
        ):
            tenant, _api_keys = await tenants.create(database.core, "Lagos Gym")
            await add_endpoint(database, tenant, f"{receiver.url}/hook")
            product = await asyncpg.connect(
                cluster.url(name),
                user=SANDBOX,
                password=derive_role_password(cluster.key, SANDBOX),
                server_settings=OF_THE_PRODUCT,
            )
            assert await product.fetchval("SELECT current_setting('transaction_isolation')") == "serializable"
            event = await product.fetchval(
                "SELECT sandbox.record_event($1::text, 'invoice_created', '{\"n\": 0.1}')", str(tenant)
            )
            async with running(*made.everything()):
                await made.settled.count(1)
            await product.close()
            assert list(receiver.event_ids()) == [event]
            assert await made.statuses() == ["delivered"]


async def test_every_kind_of_session_pins_settings(cluster: Cluster, template: str) -> None:
    limits = {
        "statement_timeout",
        "lock_timeout",
        "idle_in_transaction_session_timeout",
        "idle_session_timeout",
    }
    async with hostile_database(cluster, "database") as name:
        owner = await connect_as_owner(cluster.url(name))
        assert differences(await pinned(owner)) == set()
        await migrate(owner, cluster.key)
        async with Database.open(cluster.url(name), cluster.key) as database:
            guard = await connect_to_core(database, "guard")
            for session in (database.core, *(database.data(mode) for mode in Mode), guard):
                assert differences(await pinned(session)) <= limits
            async with reading(database, Mode.LIVE) as export:
                assert differences(await pinned(export)) <= {
                    "statement_timeout",
                    "default_transaction_read_only",
                }
            await guard.close()
        await owner.close()


async def pinned(session: Executor) -> dict[str, str | None]:
    """The settings in effect; None for those that this server does not have."""
    return {name: await session.fetchval("SELECT current_setting($1, true)", name) for name in PINNED}


def differences(found: dict[str, str | None]) -> set[str]:
    unknown = {name for name, value in found.items() if value is None}
    assert unknown <= VERSION_DEPENDENT
    return {name for name, value in found.items() if value != PINNED[name]} - unknown
