"""A billing row belongs to one tenant in one mode, and the database refuses whatever would cross: by foreign keys, which
carry the tenant, and by roles, whose rights end at their mode.
"""

import re
from collections.abc import Awaitable, Callable
from importlib.resources import files
from uuid import UUID

import asyncpg
import pytest

from schema.billing.catalog_repositories import PaymentLinks, Plans, PromoCodes
from schema.billing.customer_repository import Customers
from schema.billing.repository import Repository
from schema.billing.subscription_repositories import (
    CheckoutSessions,
    DunningSchedules,
    Invoices,
    Payments,
    Subscriptions,
)
from schema.connections.database import Database
from schema.errors import NotFound
from schema.ids import new_id
from schema.modes import Mode
from schema.pages import After
from tests.support.billing.billing_rows import TABLES, insert, insert_all, refused_by, rows_of
from tests.support.database_catalog import columns, foreign_keys
from tests.support.servers.connections import LIVE, SANDBOX, Connect

REFUSED = asyncpg.InsufficientPrivilegeError
ELSEWHERE = {("subscriptions", "payment_method_id")}
"""Of the wallet, which is core's and no tenant's."""
REPOSITORIES: list[type[Repository]] = [
    *(Plans, PromoCodes, PaymentLinks, Customers),
    *(Subscriptions, Invoices, Payments, DunningSchedules, CheckoutSessions),
]


@pytest.fixture
async def theirs(new_tenant: Callable[[], Awaitable[UUID]]) -> UUID:
    return await new_tenant()


def test_these_are_all_billing_tables() -> None:
    folder = files("schema").joinpath("migrations", "data")
    later = [file for file in folder.iterdir() if "0012" <= file.name < "0015"]
    made = {
        name for file in later for name in re.findall(r"^CREATE TABLE (\w+)", file.read_text(), re.MULTILINE)
    }
    assert made == set(TABLES)


@pytest.mark.parametrize("mode", Mode)
async def test_every_table_is_keyed_by_its_tenant_and_has_no_mode(
    owner: asyncpg.Connection, mode: Mode
) -> None:
    rows = await owner.fetch(
        """
        SELECT c.relname AS table, array_agg(attname) AS columns,
               bool_or(attname = 'tenant_id' AND atttypid = 'uuid'::regtype AND attnotnull) AS has_tenant,
               (SELECT attname FROM pg_index i JOIN pg_attribute k ON k.attrelid = i.indrelid AND k.attnum = i.indkey[0]
                 WHERE i.indrelid = c.oid AND i.indisprimary) AS key_leads_with
          FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND attnum > 0 AND NOT attisdropped
         WHERE c.relnamespace = $1::regnamespace AND c.relname = ANY($2)
         GROUP BY c.oid, c.relname
        """,
        mode.schema,
        TABLES,
    )
    assert {row["table"] for row in rows} == set(TABLES)
    for row in rows:
        assert row["has_tenant"], row["table"]
        assert row["key_leads_with"] == "tenant_id", row["table"]
        assert not {"mode", "is_test", "livemode", "environment"} & set(row["columns"]), row["table"]


@pytest.mark.parametrize("mode", Mode)
async def test_every_reference_carries_the_tenant_on_both_sides(
    owner: asyncpg.Connection, mode: Mode
) -> None:
    """But for the one to the tenant itself, which is core's; no reference leaves the mode otherwise. And every column that
    names another row is a reference."""
    keys = await foreign_keys(owner, mode.schema, *TABLES)
    assert len(keys) >= 20
    for key in keys:
        if key["parent_schema"] == "core":
            assert (key["parent"], key["columns"], key["parent_columns"]) == (
                "tenants",
                ["tenant_id"],
                ["id"],
            )
        else:
            assert key["parent_schema"] == mode.schema, key["name"]
            pairs = list(zip(key["columns"], key["parent_columns"], strict=True))
            assert ("tenant_id", "tenant_id") in pairs, key["name"]
            assert len(pairs) == 2, key["name"]
    named = {(key["table"], column) for key in keys for column in key["columns"]}
    for column in await columns(owner, mode.schema):
        if column["table"] in TABLES and (column["name"].endswith("_id") or column["name"] == "refund_of"):
            assert (column["table"], column["name"]) in named | ELSEWHERE
    within = {key["table"] for key in keys if key["parent_schema"] != "core"}
    rooted = {key["table"] for key in keys if key["parent_schema"] == "core"}
    assert within | rooted == set(TABLES), "every table refers to its tenant, or to what does"


async def test_a_row_cannot_point_to_another_tenants_row(
    connect: Connect, owner: asyncpg.Connection, tenant: UUID, theirs: UUID
) -> None:
    """Neither when it is written first nor when it is changed; each reference of each table is tried, by the role itself."""
    data = await connect(SANDBOX)
    ours, others = rows_of(tenant), rows_of(theirs)
    await insert_all(data, ours)
    await insert_all(data, others)
    keys = [key for key in await foreign_keys(owner, "sandbox", *TABLES) if key["parent_schema"] != "core"]
    for key in keys:
        table, (_, column), target = key["table"], key["columns"], others[key["parent"]]["id"]
        refund = {"kind": "refund"} if column == "refund_of" else {}
        with refused_by(key["name"]):
            async with data.transaction():
                fresh = rows_of(tenant)
                await insert_all(data, fresh, until=table)
                await insert(data, table, fresh[table] | refund | {column: target})
        with refused_by(key["name"]):
            assigned = ", ".join(
                [f"{column} = $3", *(f"{name} = '{value}'" for name, value in refund.items())]
            )
            await data.execute(
                f"UPDATE {table} SET {assigned} WHERE tenant_id = $1 AND id = $2",
                tenant,
                ours[table]["id"],
                target,
            )


async def test_a_row_cannot_point_into_the_other_mode(
    connect: Connect, owner: asyncpg.Connection, tenant: UUID
) -> None:
    """The tenant is the same in both; its rows are not."""
    sandbox, live = await connect(SANDBOX), await connect(LIVE)
    in_live = rows_of(tenant)
    await insert_all(live, in_live)
    for key in await foreign_keys(owner, "sandbox", *TABLES):
        if key["parent_schema"] == "core":
            continue
        table, (_, column) = key["table"], key["columns"]
        refund = {"kind": "refund"} if column == "refund_of" else {}
        with refused_by(key["name"]):
            async with sandbox.transaction():
                fresh = rows_of(tenant)
                await insert_all(sandbox, fresh, until=table)
                await insert(sandbox, table, fresh[table] | refund | {column: in_live[key["parent"]]["id"]})


async def test_a_row_needs_a_tenant_that_exists(connect: Connect) -> None:
    data = await connect(SANDBOX)
    nobodys = rows_of(new_id())
    for table, row in nobodys.items():
        with pytest.raises(asyncpg.ForeignKeyViolationError):
            await insert(data, table, row)


async def test_a_row_with_references_cannot_move_to_another_tenant(
    connect: Connect, tenant: UUID, theirs: UUID
) -> None:
    data = await connect(SANDBOX)
    await insert_all(data, rows_of(tenant))
    for table in TABLES:
        if table not in {"store_settings", "idempotency_keys"}:
            with pytest.raises(asyncpg.ForeignKeyViolationError):
                await data.execute(f"UPDATE {table} SET tenant_id = $1 WHERE tenant_id = $2", theirs, tenant)


async def test_an_id_means_nothing_to_another_tenant(
    database: Database, connect: Connect, tenant: UUID, theirs: UUID
) -> None:
    """Nor to the same one in the other mode: it is not found, and no list shows it."""
    rows = rows_of(tenant)
    await insert_all(await connect(SANDBOX), rows)
    for repository in REPOSITORIES:
        id_ = rows[repository.ROW.TABLE]["id"]
        assert (await repository(database.data(Mode.TEST), tenant).get(id_)).id == id_
        for mode, stranger in ((Mode.TEST, theirs), (Mode.LIVE, tenant)):
            with pytest.raises(NotFound):
                await repository(database.data(mode), stranger).get(id_)
            assert (await repository(database.data(mode), stranger).list(After(), 10)).items == []


async def test_the_same_ids_in_two_tenants_are_different_rows(
    connect: Connect, tenant: UUID, theirs: UUID
) -> None:
    """None of them is in the other's way: no rule reaches across tenants."""
    data = await connect(SANDBOX)
    ours = rows_of(tenant)
    await insert_all(data, ours)
    await insert_all(data, {table: row | {"tenant_id": theirs} for table, row in ours.items()})


@pytest.mark.parametrize(("role", "other"), [(SANDBOX, "live"), (LIVE, "sandbox")])
async def test_a_role_cannot_reach_the_other_mode(connect: Connect, role: str, other: str) -> None:
    connection, own = await connect(role), role.removeprefix("duro_")
    for table in TABLES:
        for statement in (
            f"SELECT count(*) FROM {other}.{table}",
            f"TABLE {other}.{table}",
            f"SELECT * FROM {own}.{table} JOIN {other}.{table} AS theirs USING (tenant_id)",
            f"SELECT EXISTS (SELECT FROM {other}.{table})",
            f"WITH gone AS (DELETE FROM {other}.{table} RETURNING *) SELECT count(*) FROM gone",
            f"INSERT INTO {own}.{table} SELECT * FROM {other}.{table}",
            f"INSERT INTO {other}.{table} SELECT * FROM {own}.{table}",
            f"UPDATE {other}.{table} SET tenant_id = tenant_id",
            f"UPDATE {own}.{table} SET tenant_id = o.tenant_id FROM {other}.{table} AS o",
            f"EXPLAIN SELECT * FROM {other}.{table}",
            f"DO $$ BEGIN LOCK TABLE {other}.{table} IN ACCESS SHARE MODE; END $$",
            f"COPY {other}.{table} TO STDOUT",
            f"SELECT NULL::{other}.{table}",
            f"SELECT '{other}.{table}'::regclass",
            f"CREATE TEMPORARY TABLE copy (LIKE {other}.{table})",
            f"CREATE TEMPORARY TABLE copy AS TABLE {other}.{table}",
            f"CREATE TEMPORARY VIEW copy AS TABLE {other}.{table}",
            f"CREATE TEMPORARY TABLE child (id uuid REFERENCES {other}.{table})",
            f"ALTER TABLE {own}.{table} ADD FOREIGN KEY (tenant_id) REFERENCES {other}.{table}",
        ):
            with pytest.raises(REFUSED):
                await connection.execute(statement)
