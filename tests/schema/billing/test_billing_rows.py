"""The classes of rows.py mirror the tables: a row is read and written whole, so each has its table's columns in their order."""

import re
from dataclasses import fields
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from types import NoneType
from typing import Any, TypeAlias, get_args, get_type_hints
from uuid import UUID

import asyncpg
import pytest

from schema.billing.rows import CURRENCIES, MOST_KOBO, Rail, Row
from service.billing.decisions.dunning import DunningAction
from tests.support.billing.billing_rows import TABLES
from tests.support.database_catalog import columns

CLASSES = Row.__subclasses__()
TYPES = {
    "uuid": UUID,
    "text": str,
    "currency": str,
    "minor_units": int,
    "int4": int,
    "bool": bool,
    "timestamptz": datetime,
    "numeric": Decimal,
}


Tables: TypeAlias = dict[str, list[asyncpg.Record]]


@pytest.fixture
async def tables(owner: asyncpg.Connection) -> Tables:
    """The columns of each, in their order."""
    rows = await columns(owner, "sandbox")
    return {table: [row for row in rows if row["table"] == table] for table in TABLES}


@pytest.fixture
async def checks(owner: asyncpg.Connection) -> dict[str, str]:
    """By table.column; of those that have one column."""
    rows = await owner.fetch(
        """
        SELECT conrelid::regclass || '.' || attname AS column, pg_get_constraintdef(k.oid) AS text
          FROM pg_constraint k JOIN pg_attribute ON attrelid = conrelid AND attnum = conkey[1]
         WHERE contype = 'c' AND cardinality(conkey) = 1 AND conrelid = ANY($1::regclass[])
        """,
        TABLES,
    )
    return dict(rows)


def listed(text: str) -> set[str]:
    """The words that a CHECK allows."""
    return set(re.findall(r"'(\w+)'::text", text)) or set(
        re.findall(r"\w+", text.partition("'{")[2].partition("}")[0])
    )


def test_every_table_except_the_apis_has_a_class() -> None:
    assert {kind.TABLE for kind in CLASSES} == set(TABLES) - {"idempotency_keys"}


async def test_each_class_has_its_tables_columns_in_order(tables: Tables) -> None:
    """And their types, and None for those that may be null."""
    for kind in CLASSES:
        assert [field.name for field in fields(kind)] == [column["name"] for column in tables[kind.TABLE]]  # type: ignore[arg-type]  # all are dataclasses
        hints = get_type_hints(kind)
        for column in tables[kind.TABLE]:
            where, hint = f"{kind.TABLE}.{column['name']}", hints[column["name"]]
            assert (NoneType in get_args(hint)) == (not column["given"]), where
            if column["type"] in TYPES:
                assert issubclass(plain(hint), TYPES[column["type"]]), where
            else:
                assert where == "store_settings.rails"


def plain(hint: Any) -> type:
    """Without None."""
    (only,) = (kind for kind in get_args(hint) or (hint,) if kind is not NoneType)
    return only


async def test_each_class_says_which_columns_are_amounts(tables: Tables) -> None:
    for kind in CLASSES:
        amounts = [column["name"] for column in tables[kind.TABLE] if column["type"] == "minor_units"]
        assert list(kind.KOBO) == amounts, kind.TABLE


async def test_enumerations_and_checks_have_the_same_words(tables: Tables, checks: dict[str, str]) -> None:
    """In every column that is one of a list of words."""
    unread: dict[str, type[StrEnum]] = {
        "store_settings.rails": Rail,
        "dunning_schedules.last_action": DunningAction,
    }
    for kind in CLASSES:
        for column in tables[kind.TABLE]:
            where = f"{kind.TABLE}.{column['name']}"
            words = kind.WORDS.get(column["name"]) or unread.get(where)
            if words:
                assert listed(checks[where]) == set(words), where
            else:
                assert "ANY (ARRAY[" not in checks.get(where, ""), where


async def test_currencies_and_maximum_equal_the_domains(owner: asyncpg.Connection) -> None:
    domains = dict(
        await owner.fetch(
            "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE contypid IN ('minor_units'::regtype, 'currency'::regtype)"
        )
    )
    assert listed(domains["currency_check"]) == set(CURRENCIES)
    assert [
        int(number) for number in re.findall(r"\d+", domains["minor_units_check"].replace("bigint", ""))
    ] == [
        0,
        MOST_KOBO,
    ]
