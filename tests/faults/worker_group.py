"""Worker processes that are killed and replaced, and what they held at that time."""

import asyncio
import signal
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

from tests.faults.length import SLACK_S, TAKEN_OVER_WITHIN_S
from tests.faults.scenario import Scenario
from tests.support.servers.duro_process import DuroProcess, duro, eventually, settings

RETRIES = "200ms,500ms,1s,2s,2s,4s,4s,8s,8s"


def environment(scenario: Scenario, url: str | None = None, **more: str) -> dict[str, str]:
    return settings(url or scenario.url, scenario.key, DURO_RETRY_SCHEDULE=RETRIES, **more)


@dataclass(eq=False)
class WorkerProcess:
    process: DuroProcess
    worker: int
    """Its worker id. A worker that was declared dead and continues gets a new one."""
    _held: AsyncExitStack

    async def close(self) -> None:
        await self._held.aclose()


@dataclass
class WorkerGroup:
    scenario: Scenario
    env: Mapping[str, str]
    members: list[WorkerProcess] = field(default_factory=list)
    _missed: int = 0
    """Dead workers whose leases were not taken over yet."""
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _started: asyncio.Event = field(default_factory=asyncio.Event)

    async def start_worker(
        self,
        env: Mapping[str, str] | None = None,
        *,
        prefix: Sequence[str] = (),
        module: Sequence[str] = ("service.cli",),
    ) -> WorkerProcess:
        async with AsyncExitStack() as stack:
            started = duro("work", "--json", env=env or self.env, prefix=prefix, module=module)
            process = await stack.enter_async_context(started)
            member = WorkerProcess(process, (await process.said())["worker"], stack.pop_all())
        self.members.append(member)
        self._started.set()
        return member

    async def kill_one(self) -> None:
        """Kills a random worker and starts another.

        A worker that has watched the dead one for some seconds takes over its leases. So the longest-running worker is
        not killed while a takeover is in progress.
        """
        while not (victims := self.members[1:] if self._missed else self.members):
            self._started.clear()
            await self._started.wait()
        victim = self.scenario.chance.choice(victims)
        self.members.remove(victim)
        died_at = asyncio.get_running_loop().time()
        victim.process.send(signal.SIGKILL)
        await victim.process.ended()
        self.scenario.figures.in_flight += await self.scenario.leased(victim.worker)
        self.scenario.figures.count("kills")
        self._missed += 1
        self.later(self._replaced(victim))
        self.later(self._taken_over(victim, died_at))

    async def _taken_over(self, victim: WorkerProcess, died_at: float) -> None:
        await taken_over(self.scenario, victim.worker, died_at)
        self._missed -= 1

    async def _replaced(self, victim: WorkerProcess) -> None:
        await victim.close()
        await self.start_worker()

    def later(self, work: Coroutine[None, None, None]) -> None:
        self._tasks.add(asyncio.create_task(work))

    async def wait_replaced(self) -> None:
        """Waits until every replacement runs and all leases of dead workers are taken over."""
        await asyncio.gather(*self._tasks)
        self._tasks.clear()

    @property
    def workers(self) -> set[int]:
        return {member.worker for member in self.members}

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for member in self.members:
            await member.close()


@asynccontextmanager
async def worker_group(
    scenario: Scenario, size: int, env: Mapping[str, str] | None = None
) -> AsyncIterator[WorkerGroup]:
    these = WorkerGroup(scenario, env or environment(scenario))
    try:
        await asyncio.gather(*(these.start_worker() for _ in range(size)))
        yield these
    finally:
        await these.close()


async def taken_over(scenario: Scenario, worker: int, since: float) -> None:
    """Waits until the dead worker's leases and row are gone, and records how long that took."""
    within = TAKEN_OVER_WITHIN_S + SLACK_S
    await eventually(partial(scenario.is_taken_over, worker), f"worker {worker} is taken over", within)
    scenario.figures.taken_over_after_s.append(asyncio.get_running_loop().time() - since)
