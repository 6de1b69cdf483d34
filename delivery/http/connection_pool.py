"""The sender's connection pool: open connections, and idle ones that are kept for reuse.

The key of an idle connection is (address, port, TLS server name or None). Plain http connections have no
server name, so hosts with the same address share them. The connection used last is reused first, so that
surplus connections reach their keep-alive limit when traffic falls.
"""

import asyncio
from collections.abc import Sequence
from itertools import chain

from delivery.egress.guard import CheckedAddress
from delivery.http.attempt_contract import Outcome
from delivery.http.attempt_failed import AttemptFailed
from delivery.http.dialling import Dialler
from delivery.http.exchange import Exchange
from delivery.http.http1_connection import Connection, Destination
from delivery.http.timeouts import FixedTimeouts


class ConnectionPool:
    """A ConnectionOwner. Create it in a running event loop. The caller limits the number of connections in
    use.
    """

    def __init__(self, dialler: Dialler) -> None:
        self._dialler = dialler
        self._limits = dialler.limits
        self._open: set[Connection] = set()
        self._idle: dict[Destination, list[Connection]] = {}
        self._keepalive: FixedTimeouts[Connection] = FixedTimeouts(
            asyncio.get_running_loop(), self._limits.keepalive
        )
        self._closed = False

    @property
    def idle(self) -> int:
        return len(self._keepalive)

    @property
    def in_use(self) -> int:
        return len(self._open) - len(self._keepalive)

    def take(self, destination: Destination) -> Connection | None:
        idle = self._idle.get(destination)
        if idle is None:
            return None
        connection = idle.pop()
        if not idle:
            del self._idle[destination]
        self._keepalive.stop(connection)
        return connection

    async def dial(
        self,
        addresses: Sequence[CheckedAddress],
        port: int,
        server_name: str | None,
        exchange: Exchange,
        deadline: float,
    ) -> Connection:
        """Connects to the first reachable address. Raises AttemptFailed, Blocked or TimeoutError."""
        if self._closed:
            raise _closed()
        connections: list[Connection] = []

        def new_connection(address: CheckedAddress) -> Connection:
            connections.append(Connection(self, self._limits, (address.text, port, server_name)))
            return connections[-1]

        try:
            connection = await self._dialler.open(
                new_connection, addresses, port, server_name, exchange, deadline, self._close_idle
            )
        except BaseException:
            for (
                connection
            ) in connections:  # uvloop does not report the loss of one whose opening was cancelled
                connection.connection_lost(None)
            raise
        if self._closed:
            connection.expire()
            raise _closed()
        return connection

    async def close(self) -> None:
        self._closed = True
        for connection in tuple(self._open):
            connection.fail(_closed())
        self._keepalive.close()

    def _close_idle(self) -> None:
        for connection in list(chain.from_iterable(self._idle.values())):
            connection.expire()

    # Called by a connection: see ConnectionOwner.

    def opened(self, connection: Connection) -> None:
        self._open.add(connection)

    def released(self, connection: Connection) -> None:
        if self._closed or len(self._open) > self._limits.kept_open:
            connection.expire()
            return
        self._idle.setdefault(connection.destination, []).append(connection)
        self._keepalive.start(connection)

    def closed(self, connection: Connection) -> None:
        self._open.discard(connection)
        idle = self._idle.get(connection.destination)
        if idle is not None and connection in idle:
            idle.remove(connection)
            if not idle:
                del self._idle[connection.destination]
            self._keepalive.stop(connection)


def _closed() -> AttemptFailed:
    return AttemptFailed(Outcome.PROTOCOL, "the sender was closed")
