"""A statement's plan and cost, from EXPLAIN."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import asyncpg


@dataclass(frozen=True)
class Plan:
    root: dict[str, Any]
    milliseconds: float

    def nodes(self) -> Iterator[dict[str, Any]]:
        waiting = [self.root]
        while waiting:
            node = waiting.pop()
            yield node
            waiting += node.get("Plans", [])

    @property
    def buffers(self) -> int:
        """Pages read from cache or disk, by the statement and the functions it calls."""
        return int(self.root["Shared Hit Blocks"] + self.root["Shared Read Blocks"])

    @property
    def rows_read(self) -> int:
        """Rows that table scans returned or discarded, over all loops."""
        return sum(
            (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"]
            for node in self.nodes()
            if "Relation Name" in node and node["Node Type"] != "ModifyTable"
        )

    def full_scans(self) -> set[str]:
        """Returns the tables and partitions that are read completely."""
        return {
            node["Relation Name"]
            for node in self.nodes()
            if node["Node Type"] == "Seq Scan" and node["Actual Loops"]
        }

    @property
    def indexes(self) -> set[str]:
        return {node["Index Name"] for node in self.nodes() if "Index Name" in node}


async def explain(connection: asyncpg.Connection, statement: str, *arguments: object) -> Plan:
    """Runs the generic plan, as a pool's connection does, and rolls back.

    EXPLAIN with bound parameters would show a custom plan, which never runs in production.
    """
    values = ", ".join(_literal(argument) for argument in arguments)
    transaction = connection.transaction()
    await connection.execute(f"PREPARE explained AS {statement}")
    await transaction.start()
    try:
        text = await connection.fetchval(
            "EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON) EXECUTE explained"
            + (values and f"({values})")
        )
    finally:
        await transaction.rollback()
        await connection.execute("DEALLOCATE explained")
    explained = json.loads(text)[0]
    return Plan(explained["Plan"], explained["Execution Time"])


async def planned(connection: asyncpg.Connection, statement: str) -> Plan:
    """Returns the generic plan without running it."""
    await connection.execute(f"PREPARE planned AS {statement}")
    try:
        count = await connection.fetchval(
            "SELECT cardinality(parameter_types) FROM pg_prepared_statements WHERE name = 'planned'"
        )
        arguments = f"({', '.join(['NULL'] * count)})" if count else ""
        text = await connection.fetchval(f"EXPLAIN (FORMAT JSON) EXECUTE planned{arguments}")
    finally:
        await connection.execute("DEALLOCATE planned")
    return Plan(json.loads(text)[0]["Plan"], 0.0)


def _literal(value: object) -> str:
    match value:
        case None:
            return "NULL"
        case list():
            return "'{" + ",".join("NULL" if item is None else f'"{item}"' for item in value) + "}'"
        case _:
            return f"'{value}'"
