"""A gateway that outlives the workers: a server in the test's process, and the workers' client for it.

    connect ──► asked ──► charged ──► answered ──► the worker has read the answer
                  │          │
                  └──────────┴── some connections end here instead, without an answer

It identifies a charge by its reference: it repeats an earlier answer and takes the money once.
"""

import asyncio
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from enum import StrEnum
from pathlib import Path
from random import Random
from typing import Any

import orjson

from schema.billing.rows import Rail
from service.billing.gateway.gateway import GatewayUnavailable, Order, Outcome
from service.billing.gateway.scenario_gateway import TEST_CARDS, failure_of
from tests.support.billing.payment_totals import GatewayRecords

_SLOWEST_S = 0.02
_LOST = 0.03  # share of requests lost before the charge, and the same share after it
_BACKLOG = 1024


class ChargeStage(StrEnum):
    """Stages of a request at the gateway."""

    ASKED = "asked"
    CHARGED = "charged"
    ANSWERED = "answered"
    """The worker has read the answer."""


class GatewayServer:
    def __init__(self, chance: Random) -> None:
        self.taken: dict[str, int] = {}
        self.refused: dict[str, str] = {}
        self.asked: Counter[str] = Counter()
        self.lost = 0
        """Charges whose answer was not sent."""
        self.watch: Callable[[ChargeStage, int], None] = lambda _moment, _worker: None
        """Called at each stage of each request, with the requesting process."""
        self._chance = chance

    @property
    def known(self) -> GatewayRecords:
        return GatewayRecords(self.taken, self.refused.keys())

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):  # the worker is dead
            await self._serve(reader, writer)
        writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = await reader.readline()
        if not line.endswith(b"\n"):
            return
        request = orjson.loads(line)
        reference, worker = request["reference"], request["worker"]
        self.asked[reference] += 1
        self.watch(ChargeStage.ASKED, worker)
        await self._take_time()
        if self._chance.random() < _LOST:
            return
        self._charge(request)
        self.watch(ChargeStage.CHARGED, worker)
        await self._take_time()
        if self._chance.random() < _LOST:
            self.lost += 1
            return
        writer.write(orjson.dumps({"failure": self.refused.get(reference)}) + b"\n")
        await writer.drain()
        if not await reader.read():  # it has read the answer, and closed
            self.watch(ChargeStage.ANSWERED, worker)

    def _charge(self, request: dict[str, Any]) -> None:
        reference = request["reference"]
        if reference in self.taken or reference in self.refused:
            return
        assert request["token"] in TEST_CARDS
        order = Order(
            reference, request["amount"], "NGN", Rail.CARD, request["token"], request["number"], at=None
        )
        failure = failure_of(order)
        if failure is None:
            self.taken[reference] = request["amount"]
        else:
            self.refused[reference] = failure

    async def _take_time(self) -> None:
        await asyncio.sleep(self._chance.random() * _SLOWEST_S)


@asynccontextmanager
async def gateway_server(chance: Random) -> AsyncIterator[tuple[GatewayServer, str]]:
    """Yields the server and the path of its socket."""
    this = GatewayServer(chance)
    with tempfile.TemporaryDirectory() as directory:  # pytest's tmp_path is too long for a socket
        path = str(Path(directory) / "gateway")
        server = await asyncio.start_unix_server(this.serve, path, backlog=_BACKLOG)
        try:
            yield this, path
        finally:
            server.close()
            await server.wait_closed()


class RemoteGateway:
    """The worker's client of the gateway."""

    def __init__(self, path: str, worker: int) -> None:
        self._path = path
        self._worker = worker

    async def charge(self, order: Order) -> Outcome:
        request = {
            "worker": self._worker,
            "reference": order.reference,
            "amount": order.amount,
            "token": order.token,
            "number": order.number,
        }
        try:
            line = await self._ask(orjson.dumps(request) + b"\n")
        except OSError as error:
            raise GatewayUnavailable from error
        if not line.endswith(b"\n"):
            raise GatewayUnavailable("The connection ended without an answer.")
        return Outcome(orjson.loads(line)["failure"])

    async def refund(self, order: Order, of: str) -> Outcome:
        raise NotImplementedError

    async def _ask(self, request: bytes) -> bytes:
        reader, writer = await asyncio.open_unix_connection(self._path)
        try:
            writer.write(request)
            return await reader.readline()
        finally:
            writer.close()
