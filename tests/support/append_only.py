"""Asserts that a table is append-only."""

import asyncpg
import pytest


async def assert_unchangeable(connection: asyncpg.Connection, table: str) -> None:
    for statement in (
        f"UPDATE {table} SET created_at = created_at",
        f"UPDATE {table} SET created_at = created_at WHERE false",
        f"DELETE FROM {table}",
        f"DELETE FROM {table} WHERE false",
        f"TRUNCATE {table}",
        f"MERGE INTO {table} USING (SELECT 1) AS s ON true WHEN MATCHED THEN DELETE",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(statement)
