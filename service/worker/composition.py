"""The composition root: puts the parts of a worker together. It starts nothing."""

import gc
import os
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Final

from consumers.attempt_folding import AttemptFolder
from consumers.consumer import Consumer
from consumers.fanout import FANOUT, FanOut
from consumers.sequencing import Sequencer
from delivery.egress.guard import EgressGuard, EgressPolicy
from delivery.egress.resolver import SystemResolver
from delivery.engine.attempting import Attempts
from delivery.engine.capacity import CapacityLimits
from delivery.engine.dispatcher import Dispatcher, DispatchLimits
from delivery.engine.presence import Presence
from delivery.engine.request_building import Outbound
from delivery.engine.retry_policy import RetryPolicy
from delivery.engine.settler import Settler
from delivery.health.health_tracker import HealthTracker
from delivery.health.health_watch import HealthWatch
from delivery.http.attempt_contract import SendLimits
from delivery.http.http_sender import HttpSender
from schema.connections.connection_budget import ConnectionBudget
from schema.connections.database import Database
from schema.failures import Failures
from schema.modes import Mode
from schema.secret_box import SecretBox
from service.settings import Settings
from service.supervisor import Part
from service.worker.analyst_watch import AnalystWatch
from service.worker.descriptors import in_flight, kept_open, raise_limit
from service.worker.housekeeping import Housekeeping
from service.worker.projection_consumers import projecting

_IN_HAND: Final = 4  # times the attempts in flight: answered ones wait for their batch to be written


@dataclass(frozen=True)
class ModeParts:
    """The parts of one mode. Modes share the process and the sender, but no slot, queue or database connection."""

    mode: Mode
    sequencer: Sequencer
    fanout: Consumer
    projections: Mapping[str, Consumer]
    dispatcher: Dispatcher
    settler: Settler
    watch: HealthWatch
    folder: AttemptFolder

    @property
    def consumers(self) -> Mapping[str, Consumer]:
        """Returns all consumers by name."""
        return {FANOUT: self.fanout, **self.projections}


@dataclass(frozen=True)
class Worker:
    database: Database
    presence: Presence
    modes: Sequence[ModeParts]
    housekeeping: Housekeeping
    analyst_watch: AnalystWatch
    sender: HttpSender
    failures: Failures
    """Failures in this process: its supervisors write them, readiness and metrics read them."""

    def __post_init__(self) -> None:
        for part in (part for stage in self.stages() for part in stage):
            self.failures.part(part.name)

    async def register(self) -> None:
        """Registers the worker; call it before the stages run. Raises database errors."""
        await self.presence.register()
        await self.housekeeping.ensure_partitions()

    def stages(self) -> list[list[Part]]:
        """Returns the parts for a Supervisor, in starting order."""
        return [
            [
                Part("presence", self.presence),
                Part("housekeeping", self.housekeeping),
                Part("analyst watch", self.analyst_watch),
                *(Part(f"health watch {m.mode}", m.watch) for m in self.modes),
                *(Part(f"attempt folder {m.mode}", m.folder) for m in self.modes),
            ],
            [Part(f"settler {m.mode}", m.settler) for m in self.modes],
            [Part(f"dispatcher {m.mode}", m.dispatcher) for m in self.modes],
            [
                *(
                    Part(f"{name} {m.mode}", consumer)
                    for m in self.modes
                    for name, consumer in m.consumers.items()
                ),
                *(Part(f"sequencer {m.mode}", m.sequencer) for m in self.modes),
            ],
        ]


@asynccontextmanager
async def worker(
    settings: Settings, url: str, key: bytes, clock: Callable[[], float] = time.monotonic
) -> AsyncIterator[Worker]:
    """Raises Unavailable when the database cannot be used. `clock` times its failures."""
    name = f"duro worker {socket.gethostname()}/{os.getpid()}"
    budget = ConnectionBudget.of_worker(settings.database_connections)
    async with Database.open(url, key, name=name, budget=budget) as database:
        resolver = SystemResolver()
        descriptors = raise_limit()
        limits = SendLimits(
            attempt_timeout=settings.attempt_timeout.total_seconds(),
            connect_timeout=settings.connect_timeout.total_seconds(),
            kept_open=kept_open(descriptors),
        )
        guard = EgressGuard(egress_policy(settings), resolver)
        sender = HttpSender(guard, limits, proxy=settings.egress_proxy)
        presence = Presence(database, name)
        try:
            capacity = _capacity(settings, in_flight(descriptors, settings.max_in_flight))
            modes = [_mode_parts(settings, database, mode, presence, sender, capacity) for mode in Mode]
            _collect_seldom()
            housekeeping, watch = Housekeeping(database), AnalystWatch(database)
            yield Worker(database, presence, modes, housekeeping, watch, sender, Failures(clock))
        finally:
            presence.close()
            await sender.close()
            await resolver.close()


def _collect_seldom() -> None:
    """Collects garbage rarely. A delivery's objects are freed by their last reference, and a search for cycles after each
    700 new objects took 7 % of a worker's time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def egress_policy(settings: Settings) -> EgressPolicy:
    return EgressPolicy(settings.egress_allow, settings.egress_ports)


def _capacity(settings: Settings, under_way: int) -> CapacityLimits:
    return CapacityLimits(
        total=_IN_HAND * under_way,
        per_tenant=settings.max_in_flight_per_tenant,
        per_endpoint=settings.max_in_flight_per_endpoint,
        under_way=under_way,
    )


def _mode_parts(
    settings: Settings,
    database: Database,
    mode: Mode,
    presence: Presence,
    sender: HttpSender,
    capacity: CapacityLimits,
) -> ModeParts:
    pool, background = database.data(mode), database.background(mode)
    user_agent = f"{settings.header_prefix}-Webhooks/{version('duro-webhooks')}"
    outbound = Outbound(SecretBox(database.key), settings.header_prefix, user_agent)
    health = HealthTracker(lambda: datetime.now(UTC))
    settler = Settler(pool, health)
    dispatcher = Dispatcher(
        pool,
        lambda: presence.worker_id,
        Attempts(outbound, sender, RetryPolicy(settings.retry_schedule)),
        settler,
        health,
        DispatchLimits(capacity),
    )
    fanout = Consumer(pool, FanOut(dispatcher, lambda: presence.worker_id))
    projections = projecting(background, lambda: fanout.behind)

    def wake() -> None:
        for consumer in (fanout, *projections.values()):
            consumer.poll_timer.hint()

    return ModeParts(
        mode,
        Sequencer(pool, wake),
        fanout,
        projections,
        dispatcher,
        settler,
        HealthWatch(background, settings.disable_after),
        AttemptFolder(background),
    )
