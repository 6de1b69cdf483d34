"""Runs the demo from the first commit to the verdict. The package's docstring has the diagram."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, Final

from schema.connections.database import Database
from schema.modes import Mode
from service.child_process import ChildProcess
from service.database_access import DatabaseAccess
from service.demo.billing_load import generate_load
from service.demo.database_audit import audit_database, log_ends
from service.demo.demo_processes import ReceiverProcess, receiver_process, worker_process
from service.demo.demo_producers import TenantMode, open_transaction, record_event
from service.demo.demo_tenants import DemoTenant, create_tenants, disable_endpoints
from service.demo.demo_verdict import WORKER_ENDS_WITHIN_S, Evidence, Verdict, judge
from service.demo.observations import Observations

PATIENCE_S: Final = 60.0
MIN_EVENTS: Final = 20
_FIRST_EVENT: Final = "subscription_created"
_LAST_EVENT: Final = "subscription_cancelled"

ProgressDisplay = Callable[[Observations], AbstractAsyncContextManager[None]]


@dataclass(frozen=True, slots=True)
class Outcome:
    verdict: Verdict
    seconds: float
    """From the producers' start until everything had arrived."""
    logs: Mapping[str, Sequence[str]]
    """The last lines of each process's standard error."""


async def run_demo(
    base: DatabaseAccess,
    total: int,
    *,
    persistent: bool,
    progress: ProgressDisplay,
    patience_s: float = PATIENCE_S,
) -> Outcome:
    """Commits at least `total` events, including the first and last ones. `persistent`: the database outlives the demo.

    Raises Unavailable if the database or the receiver does not start, and database errors of the run.
    """
    async with AsyncExitStack() as stack:
        show = await _set_up(base, stack, patience_s, persistent=persistent)
        return await show.run(total, progress)


async def _set_up(
    base: DatabaseAccess, stack: AsyncExitStack, patience_s: float, *, persistent: bool
) -> "DemoRun":
    await base.migrate(lambda _step: None)
    database = await stack.enter_async_context(
        Database.open(base.url, base.key, name="duro demo", max_per_role=6)
    )
    start_positions = await log_ends(database)
    observed = Observations()
    receiver = await stack.enter_async_context(receiver_process(observed.receive))
    demo_tenants = await create_tenants(database, receiver.url)
    if persistent:  # runs after the worker has ended
        stack.push_async_callback(disable_endpoints, database, demo_tenants)
    await receiver.expect(demo_tenants)
    worker = await stack.enter_async_context(worker_process(base))
    return DemoRun(database, observed, demo_tenants, receiver, worker, start_positions, patience_s)


@dataclass
class DemoRun:
    database: Database
    observed: Observations
    demo_tenants: Sequence[DemoTenant]
    receiver: ReceiverProcess
    worker: ChildProcess
    start_positions: dict[Mode, int]
    """The last position of each mode's log before the demo."""
    patience_s: float
    abort_reason: str | None = field(default=None, init=False)

    @property
    def tenant_modes(self) -> list[TenantMode]:
        return [TenantMode(tenant, mode) for tenant in self.demo_tenants for mode in Mode]

    async def run(self, total: int, progress: ProgressDisplay) -> Outcome:
        async with progress(self.observed):
            async with open_transaction(
                self.database, self.observed, TenantMode(self.demo_tenants[0], Mode.LIVE)
            ):
                await self._record_everywhere(_FIRST_EVENT, timed=False)
                await self._wait_delivered()
                started = time.monotonic()
                await self._generate_load(total - len(self.tenant_modes))  # leaves room for the last events
                await self._wait_delivered()
                seconds = time.monotonic() - started
            await self._record_everywhere(_LAST_EVENT)
            await self._wait_delivered()
        return await self._conclude(seconds)

    async def _record_everywhere(self, type_: str, *, timed: bool = True) -> None:
        if self.abort_reason:
            return
        for tenant_mode in self.tenant_modes:
            await record_event(self.database, self.observed, tenant_mode, type_, timed=timed)

    async def _generate_load(self, total: int) -> None:
        if self.abort_reason:
            return
        load = asyncio.create_task(generate_load(self.database, self.observed, self.tenant_modes, total))
        try:
            await self._run_while_processes_live(load, None)
        finally:
            load.cancel()
            await asyncio.gather(load, return_exceptions=True)

    async def _wait_delivered(self) -> None:
        """Waits for missing deliveries. Gives up after `patience_s` without a new one."""
        while self.observed.missing and not self.abort_reason:
            self.observed.delivery_seen.clear()
            await self._run_while_processes_live(
                asyncio.ensure_future(self.observed.delivery_seen.wait()), self.patience_s
            )

    async def _run_while_processes_live(self, work: asyncio.Future[Any], within_s: float | None) -> None:
        """Waits for the work.

        If a process ends first, or time runs out, it cancels the work and aborts the demo.
        """
        needed = {"worker": self.worker.ended, "receiver": self.receiver.process.ended}
        await asyncio.wait({work, *needed.values()}, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            work.result()
            return
        work.cancel()
        ended = [f"The {name} ended unexpectedly." for name, task in needed.items() if task.done()]
        self.abort_reason = (
            " ".join(ended) or f"Nothing arrived for {within_s:g} s, so the demo stopped waiting."
        )

    async def _conclude(self, seconds: float) -> Outcome:
        status = await self.worker.terminate(WORKER_ENDS_WITHIN_S)
        await self.receiver.process.end()
        audit = await audit_database(
            self.database, self.observed, [m.id for m in self.demo_tenants], self.start_positions
        )
        observed = self.observed
        evidence = Evidence(
            observed.committed, observed.rolled_back, observed.receipts, audit, status, self.abort_reason
        )
        logs = {"worker": list(self.worker.log), "receiver": list(self.receiver.process.log)}
        return Outcome(judge(evidence), seconds, logs)
