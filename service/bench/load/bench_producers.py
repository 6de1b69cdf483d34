"""Producers in a separate process: each connection records one event per transaction and timestamps its commit.

    stdin  ◄ {"url": …, "tenants": […], "data": …, "rate": null | per second, "seconds": …}
    stdout ► {"committed": n, "seconds": …, "ids": […], "before_ns": […], "after_ns": […], "began_ns": […]}

With a rate, events are due by the clock and not by earlier responses, so a slow response does not reduce the load.
Without a rate, each connection commits as fast as it can. Timestamps are CLOCK_MONOTONIC, as at the receiver:
`began` before BEGIN, `before` just before COMMIT is sent, `after` when it has been confirmed.
"""

import asyncio
import time
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count, cycle
from typing import Any, Final
from uuid import UUID

import asyncpg
import uvloop

from schema.connections.connecting import Login
from schema.connections.database import connect_with, target_of
from schema.ids import EVENT, format_id
from schema.queries import load
from service.bench.load.payload import EVENT_TYPE
from service.bench.processes.child_requests import answer_questions

CONNECTIONS: Final = 8
_RECORD: Final = load("events")["record"]
_STATEMENT_WITHIN_S: Final = 30.0


@dataclass(slots=True)
class Commits:
    ids: list[UUID] = field(default_factory=list)
    began: "array[int]" = field(default_factory=lambda: array("q"))
    before: "array[int]" = field(default_factory=lambda: array("q"))
    after: "array[int]" = field(default_factory=lambda: array("q"))


class Schedule:
    """Decides when the next transaction is due."""

    def __init__(self, rate: float | None, seconds: float) -> None:
        self._rate = rate
        self._began = time.monotonic()
        self._over_at = self._began + seconds
        self._numbers = count()

    async def next(self) -> bool:
        """Waits until the next transaction is due. Returns False after the last one."""
        due = time.monotonic() if self._rate is None else self._began + next(self._numbers) / self._rate
        if due >= self._over_at:
            return False
        if (wait := due - time.monotonic()) > 0:
            await asyncio.sleep(wait)
        return True


async def write(question: dict[str, Any]) -> dict[str, Any]:
    tenants, commits = [UUID(tenant) for tenant in question["tenants"]], Commits()
    connections = [
        await connect_with(
            target_of(question["url"]),
            Login(question["user"], question["password"]),
            "duro bench writer",
            {"search_path": question["schema"]},
            command_timeout=_STATEMENT_WITHIN_S,
        )
        for _ in range(CONNECTIONS)
    ]
    try:
        schedule, began = Schedule(question["rate"], question["seconds"]), time.monotonic()
        turns = cycle(tenants)
        await asyncio.gather(
            *(_write(connection, turns, question["data"], schedule, commits) for connection in connections)
        )
        seconds = time.monotonic() - began
    finally:
        for connection in connections:
            connection.terminate()
    return {
        "committed": len(commits.ids),
        "seconds": seconds,
        "ids": [format_id(EVENT, id_) for id_ in commits.ids],
        "began_ns": commits.began.tolist(),
        "before_ns": commits.before.tolist(),
        "after_ns": commits.after.tolist(),
    }


async def _write(
    connection: asyncpg.Connection, turns: Iterator[UUID], data: str, schedule: Schedule, commits: Commits
) -> None:
    while await schedule.next():
        began = time.monotonic_ns()
        transaction = connection.transaction()
        await transaction.start()
        event_id = await connection.fetchval(_RECORD, next(turns), EVENT_TYPE, data)
        before = time.monotonic_ns()
        await transaction.commit()
        commits.after.append(time.monotonic_ns())
        commits.before.append(before)
        commits.began.append(began)
        commits.ids.append(event_id)


if __name__ == "__main__":
    uvloop.run(answer_questions(write))
