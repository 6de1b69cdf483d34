"""The sender's connections: which are open, which wait to be used again, and for how long.

A waiting connection is found again by (address, port, TLS server name or None). Plain http shares connections by
address alone, which is all that plain http tells apart. The one that was used last is taken first, so
that those which a quieter time does not need reach the end of theirs.
"""

import asyncio
from collections.abc import Sequence

from delivery.egress.guard import CheckedAddress
from delivery.http.attempt_contract import Outcome
from delivery.http.attempt_failed import AttemptFailed
from delivery.http.dialling import Dialler
from delivery.http.exchange import Exchange
from delivery.http.http1_connection import Connection, Destination
from delivery.http.timeouts import EqualTimeouts


class ConnectionPool:
    """A ConnectionOwner. Create it in a running loop. The number of connections in use is for the caller to bound."""

    def __init__(self, dialler: Dialler) -> None:
        self._dialler = dialler
        self._limits = dialler.limits
        self._open: set[Connection] = set()
        self._idle: dict[Destination, list[Connection]] = {}
        self._idling: EqualTimeouts[Connection] = EqualTimeouts(
            asyncio.get_running_loop(), self._limits.keepalive
        )
        self._closed = False

    @property
    def idle(self) -> int:
        return len(self._idling)

    @property
    def in_use(self) -> int:
        return len(self._open) - len(self._idling)

    def take(self, destination: Destination) -> Connection | None:
        waiting = self._idle.get(destination)
        if waiting is None:
            return None
        connection = waiting.pop()
        if not waiting:
            del self._idle[destination]
        self._idling.stop(connection)
        return connection

    async def dial(
        self,
        addresses: Sequence[CheckedAddress],
        port: int,
        server_name: str | None,
        exchange: Exchange,
        deadline: float,
    ) -> Connection:
        """A new connection to the first of these that can be reached. Raises AttemptFailed, Blocked or TimeoutError."""
        if self._closed:
            raise _closed()
        connection = await self._dialler.open(
            lambda address: Connection(self, self._limits, (address.text, port, server_name)),
            addresses,
            port,
            server_name,
            exchange,
            deadline,
            self._close_idle,
        )
        if self._closed:
            connection.expire()
            raise _closed()
        return connection

    async def close(self) -> None:
        self._closed = True
        for connection in tuple(self._open):
            connection.fail(_closed())
        self._idling.close()

    def _close_idle(self) -> None:
        for connection in [waiting for waitings in self._idle.values() for waiting in waitings]:
            connection.expire()

    # What a connection tells.

    def made(self, connection: Connection) -> None:
        self._open.add(connection)

    def free(self, connection: Connection) -> None:
        if self._closed or len(self._open) > self._limits.kept_open:
            connection.expire()
            return
        self._idle.setdefault(connection.destination, []).append(connection)
        self._idling.start(connection)

    def gone(self, connection: Connection) -> None:
        self._open.discard(connection)
        waiting = self._idle.get(connection.destination)
        if waiting is not None and connection in waiting:
            waiting.remove(connection)
            if not waiting:
                del self._idle[connection.destination]
            self._idling.stop(connection)


def _closed() -> AttemptFailed:
    return AttemptFailed(Outcome.PROTOCOL, "the sender was closed")
