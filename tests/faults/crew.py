"""Workers as processes that are lost and replaced, and what is known of each when it is."""

import asyncio
import signal
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

from tests.faults.length import SLACK_S, TAKEN_OVER_WITHIN_S
from tests.faults.world import World
from tests.support.servers.duro_process import DuroProcess, duro, eventually, settings

RETRIES = "200ms,500ms,1s,2s,2s,4s,4s,8s,8s"


def environment(world: World, url: str | None = None, **more: str) -> dict[str, str]:
    return settings(url or world.url, world.key, DURO_RETRY_SCHEDULE=RETRIES, **more)


@dataclass(eq=False)
class Member:
    process: DuroProcess
    worker: int
    """Its id in the register. A worker that is taken for dead and goes on has another one then."""
    _held: AsyncExitStack

    async def drop(self) -> None:
        await self._held.aclose()


@dataclass
class Crew:
    world: World
    env: Mapping[str, str]
    ready: list[Member] = field(default_factory=list)
    _missed: int = 0
    """Dead workers that have not been taken over."""
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _hired: asyncio.Event = field(default_factory=asyncio.Event)

    async def hire(
        self,
        env: Mapping[str, str] | None = None,
        *,
        prefix: Sequence[str] = (),
        module: Sequence[str] = ("service.cli",),
    ) -> Member:
        async with AsyncExitStack() as stack:
            started = duro("work", "--json", env=env or self.env, prefix=prefix, module=module)
            process = await stack.enter_async_context(started)
            member = Member(process, (await process.said())["worker"], stack.pop_all())
        self.ready.append(member)
        self._hired.set()
        return member

    async def kill_one(self) -> None:
        """Any that is at work, in the middle of whatever it is doing. Another takes its place.

        A dead one is taken over by somebody who has missed it for some seconds, so the one that has been at work for
        longest is spared until no take-over is under way.
        """
        while not (victims := self.ready[1:] if self._missed else self.ready):
            self._hired.clear()
            await self._hired.wait()
        victim = self.world.chance.choice(victims)
        self.ready.remove(victim)
        died_at = asyncio.get_running_loop().time()
        victim.process.send(signal.SIGKILL)
        await victim.process.ended()
        self.world.figures.in_flight += await self.world.leased(victim.worker)
        self.world.figures.count("kills")
        self._missed += 1
        self.later(self._replaced(victim))
        self.later(self._taken_over(victim, died_at))

    async def _taken_over(self, victim: Member, died_at: float) -> None:
        await taken_over(self.world, victim.worker, died_at)
        self._missed -= 1

    async def _replaced(self, victim: Member) -> None:
        await victim.drop()
        await self.hire()

    def later(self, work: Coroutine[None, None, None]) -> None:
        self._tasks.add(asyncio.create_task(work))

    async def at_rest(self) -> None:
        """Every replacement is at work, and everything of the dead has been taken over."""
        await asyncio.gather(*self._tasks)
        self._tasks.clear()

    @property
    def workers(self) -> set[int]:
        return {member.worker for member in self.ready}

    async def dismiss(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for member in self.ready:
            await member.drop()


@asynccontextmanager
async def crew(world: World, size: int, env: Mapping[str, str] | None = None) -> AsyncIterator[Crew]:
    these = Crew(world, env or environment(world))
    try:
        await asyncio.gather(*(these.hire() for _ in range(size)))
        yield these
    finally:
        await these.dismiss()


async def taken_over(world: World, worker: int, since: float) -> None:
    """Waits until the dead worker's leases are due again and its row is gone, and notes how long that took."""
    within = TAKEN_OVER_WITHIN_S + SLACK_S
    await eventually(partial(world.forgotten, worker), f"worker {worker} is taken over", within)
    world.figures.taken_over_after_s.append(asyncio.get_running_loop().time() - since)
