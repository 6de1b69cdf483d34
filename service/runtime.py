"""The composition root: puts the parts of a worker together, and starts nothing by itself."""

import os
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version

from consumers.consumer import Consumer
from consumers.fanout import FanOut
from consumers.sequencing import Sequencer
from delivery.aiohttp_sender import AiohttpSender
from delivery.attempting import Attempts
from delivery.capacity import CapacityLimits
from delivery.dispatcher import Dispatcher, DispatchLimits
from delivery.egress_guard import EgressGuard, EgressPolicy
from delivery.health_book import HealthBook
from delivery.outbound import Outbound
from delivery.presence import Presence
from delivery.resolver import SystemResolver
from delivery.retry_policy import RetryPolicy
from delivery.sending import Sender, SendLimits
from delivery.settler import Settler
from schema.database import Database
from schema.modes import Mode
from schema.secret_box import SecretBox
from service.housekeeping import Housekeeping
from service.settings import Settings
from service.supervisor import Part


@dataclass(frozen=True)
class ModeParts:
    """One mode's share of a worker. Modes share the process and the sender, and no place, queue or connection."""

    mode: Mode
    sequencer: Sequencer
    fanout: Consumer
    dispatcher: Dispatcher
    settler: Settler


@dataclass(frozen=True)
class Worker:
    database: Database
    presence: Presence
    modes: Sequence[ModeParts]
    housekeeping: Housekeeping

    async def register(self) -> None:
        """Comes before the stages run. Raises what the database raises."""
        await self.presence.register()
        await self.housekeeping.ensure_partitions()

    def stages(self) -> list[list[Part]]:
        """For a Supervisor, in the order of starting."""
        return [
            [Part("presence", self.presence), Part("housekeeping", self.housekeeping)],
            [Part(f"settler {m.mode}", m.settler) for m in self.modes],
            [Part(f"dispatcher {m.mode}", m.dispatcher) for m in self.modes],
            [
                *(Part(f"fanout {m.mode}", m.fanout) for m in self.modes),
                *(Part(f"sequencer {m.mode}", m.sequencer) for m in self.modes),
            ],
        ]


@asynccontextmanager
async def worker(settings: Settings, url: str, key: bytes) -> AsyncIterator[Worker]:
    """Raises Unavailable when the database cannot be used."""
    name = f"duro worker {socket.gethostname()}/{os.getpid()}"
    async with Database.open(url, key, name=name) as database:
        resolver = SystemResolver()
        limits = SendLimits(
            attempt_timeout=settings.attempt_timeout.total_seconds(),
            connect_timeout=settings.connect_timeout.total_seconds(),
        )
        sender = AiohttpSender(EgressGuard(egress_policy(settings), resolver), limits)
        presence = Presence(database, name)
        try:
            modes = [_mode_parts(settings, database, mode, presence, sender) for mode in Mode]
            yield Worker(database, presence, modes, Housekeeping(database))
        finally:
            presence.close()
            await sender.close()
            await resolver.close()


def egress_policy(settings: Settings) -> EgressPolicy:
    return EgressPolicy(settings.egress_allow, settings.egress_ports)


def _mode_parts(
    settings: Settings, database: Database, mode: Mode, presence: Presence, sender: Sender
) -> ModeParts:
    pool = database.data(mode)
    user_agent = f"{settings.header_prefix}-Webhooks/{version('duro-webhooks')}"
    outbound = Outbound(SecretBox(database.key), settings.header_prefix, user_agent)
    limits = CapacityLimits(
        settings.max_in_flight, settings.max_in_flight_per_tenant, settings.max_in_flight_per_endpoint
    )
    settler = Settler(pool, HealthBook(lambda: datetime.now(UTC)))
    dispatcher = Dispatcher(
        pool,
        lambda: presence.worker_id,
        Attempts(outbound, sender, RetryPolicy(settings.retry_schedule)),
        settler,
        DispatchLimits(limits),
    )
    fanout = Consumer(pool, FanOut(dispatcher, lambda: presence.worker_id))
    return ModeParts(mode, Sequencer(pool, fanout.pace.hint), fanout, dispatcher, settler)
