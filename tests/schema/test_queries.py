"""Every statement in queries/ is one that the real schema takes from the role that sends it."""

import re
from importlib.resources import files
from pathlib import Path

import asyncpg
import pytest

from schema.installation.roles import CORE_ROLE
from schema.queries import load
from tests.support.servers.connections import LIVE, SANDBOX, Connect
from tests.support.servers.databases import OWNER

SENDERS = {
    "activity": (SANDBOX, LIVE),
    "analysts": (CORE_ROLE,),
    "analytics": (SANDBOX, LIVE),
    "audit": (SANDBOX, LIVE),
    "plans": (SANDBOX, LIVE),
    "customers": (SANDBOX, LIVE),
    "promo_codes": (SANDBOX, LIVE),
    "payment_links": (SANDBOX, LIVE),
    "subscriptions": (SANDBOX, LIVE),
    "invoices": (SANDBOX, LIVE),
    "payment_attempts": (SANDBOX, LIVE),
    "dunning_schedules": (SANDBOX, LIVE),
    "checkout_sessions": (SANDBOX, LIVE),
    "store_settings": (SANDBOX, LIVE),
    "billing_cases": (SANDBOX, LIVE),
    "bench": (OWNER,),
    "deliveries": (SANDBOX, LIVE),
    "delivery_history": (SANDBOX, LIVE),
    "delivery_hours": (SANDBOX, LIVE),
    "endpoint_health": (SANDBOX, LIVE),
    "endpoints": (CORE_ROLE,),
    "events": (SANDBOX, LIVE),
    "log": (SANDBOX, LIVE),
    "metrics": (SANDBOX, LIVE),
    "metrics_core": (CORE_ROLE,),
    "indexes": (OWNER,),
    "migrations": (OWNER,),
    "rights": (OWNER, CORE_ROLE, SANDBOX, LIVE),
    "partitions": (SANDBOX, LIVE),
    "projections": (SANDBOX, LIVE),
    "positions": (SANDBOX, LIVE),
    "replays": (SANDBOX, LIVE),
    "preconditions": (OWNER, CORE_ROLE),
    "session_state": (SANDBOX, LIVE),
    "sessions": (OWNER, CORE_ROLE, SANDBOX, LIVE),
    "retention": (OWNER,),
    "rollups": (SANDBOX, LIVE),
    "switches": (SANDBOX, LIVE),
    "tenants": (CORE_ROLE,),
    "wallet": (CORE_ROLE,),
    "workers": (CORE_ROLE,),
}
DDL = {"roles", "retention_ddl"}  # takes no parameters, runs in every migration and in retention
SEVERAL_STATEMENTS = {("migrations", "prepare")}
NEITHER_EXPLAINED = ("SET", "LOCK")

STATEMENTS = [
    (file, name, role)
    for file, roles in SENDERS.items()
    for name in load(file)
    for role in roles
    if (file, name) not in SEVERAL_STATEMENTS
]


def test_every_file_has_a_sender() -> None:
    present = {file.name.removesuffix(".sql") for file in files("schema").joinpath("queries").iterdir()}
    assert present == {*SENDERS, *DDL}


async def test_every_statement_can_be_prepared_and_run_by_its_sender(connect: Connect) -> None:
    """EXPLAIN goes as far as checking the role's rights to each table and function, which preparing does not."""
    opened = {role: await connect(role) for role in {role for _, _, role in STATEMENTS}}
    for file, name, role in STATEMENTS:
        connection, statement = opened[role], load(file)[name]
        try:
            await connection.prepare(statement)
            if not any(f"\n{word} " in statement for word in NEITHER_EXPLAINED):
                await connection.execute(f"EXPLAIN (GENERIC_PLAN) {statement}")
        except asyncpg.PostgresError as error:
            pytest.fail(f"{file}.{name} as {role}: {error}")


async def test_core_may_read_the_book_of_migrations(connect: Connect) -> None:
    assert await (await connect(CORE_ROLE)).fetch(load("migrations")["applied"])


def test_every_statement_explains_its_parameters() -> None:
    for file, name in {(file, name) for file, name, _ in STATEMENTS}:
        lines = load(file)[name].splitlines()
        prose = " ".join(line for line in lines if line.startswith("--"))
        sql = " ".join(line for line in lines if not line.startswith("--"))
        unexplained = parameters(sql) - parameters(prose)
        assert not unexplained or "…" in prose, f"{file}.{name}: {unexplained}"


def parameters(text: str) -> set[str]:
    return set(re.findall(r"\$\d+", text))


def test_no_statement_skips_rows_to_reach_a_page() -> None:
    """Page 500 must cost what page 1 costs, so a page begins at a key. OFFSET 0 skips nothing: it keeps the planner off."""
    folders = [files("schema").joinpath("queries"), *files("schema").joinpath("migrations").iterdir()]
    found = [
        file
        for folder in folders
        if folder.is_dir()
        for file in folder.iterdir()
        if file.name.endswith(".sql")
    ]
    assert len(found) > len(SENDERS)
    for file in found:
        text = re.sub(r"--.*", "", file.read_text(encoding="utf-8"))
        assert not re.search(r"\bOFFSET (?!0\b)", text, re.IGNORECASE), file.name


def test_lines_of_sql_have_at_most_110_columns() -> None:
    root = Path(__file__).resolve().parents[2]
    scripts = [file for folder in ("schema", "tests") for file in (root / folder).rglob("*.sql")]
    assert scripts
    assert [
        f"{file.relative_to(root)}:{number}"
        for file in scripts
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1)
        if len(line) > 110
    ] == []
