"""Names to addresses without blocking the loop, bounded in threads, memory and patience.

`getaddrinfo` cannot be cancelled, and a name whose servers stay silent holds its thread for as long as the
C library likes. So that such names cost only themselves:

- one lookup per name at a time, shared by all who ask, and outliving them;
- two lanes of threads: names that answered last time, and all others. A flood of new names that
  never answer fills the second lane and leaves every working endpoint alone;
- daemon threads, so that a silent name does not hold up the end of the process.

Answers are kept for seconds, whatever their TTL. This does not weaken the egress guard: it checks what it is
given each time, cached or not, and what is dialled is the address it checked.
"""

import asyncio
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final, Protocol

Address = IPv4Address | IPv6Address
Lookup = Callable[[str], Sequence[Address]]

POSITIVE_SECONDS: Final = 30.0
NEGATIVE_SECONDS: Final = 5.0
THREADS_PER_LANE: Final = 16
MAX_NAMES: Final = 4096
MAX_ADDRESSES: Final = 64
"""More than any honest name has; checking thousands for each attempt would be work done for an attacker."""
SLOT_SECONDS: Final = 15.0
"""How long a lookup may wait for a thread. Nobody waits longer for its answer."""


class DnsFailed(Exception):
    """The name has no address that can be learnt at present. The message is fit for the merchant."""


class Resolver(Protocol):
    async def resolve(self, host: str, deadline: float) -> Sequence[Address]:
        """At least one address. `deadline` is on the loop's clock. Raises DnsFailed or TimeoutError."""
        ...

    def known(self, host: str) -> Sequence[Address] | None:
        """The same, or None when it cannot be told without waiting. Raises DnsFailed."""
        ...


def system_lookup(host: str) -> Sequence[Address]:
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
    return [ip_address(sockaddr[0]) for _, _, _, _, sockaddr in found]


@dataclass(frozen=True, slots=True)
class _Answer:
    addresses: tuple[Address, ...]
    error: str
    until: float

    def unwrap(self) -> tuple[Address, ...]:
        if not self.addresses:
            raise DnsFailed(self.error)
        return self.addresses


class SystemResolver:
    """The operating system's resolver. Use it from one event loop."""

    def __init__(
        self,
        lookup: Lookup = system_lookup,
        *,
        clock: Callable[[], float] = time.monotonic,
        threads_per_lane: int = THREADS_PER_LANE,
        max_names: int = MAX_NAMES,
    ) -> None:
        self._lookup = lookup
        self._clock = clock
        self._max_names = max_names
        self._answers: OrderedDict[str, _Answer] = OrderedDict()
        self._pending: dict[str, asyncio.Task[_Answer]] = {}
        self._proven_lane = asyncio.Semaphore(threads_per_lane)
        self._unproven_lane = asyncio.Semaphore(threads_per_lane)

    async def resolve(self, host: str, deadline: float) -> Sequence[Address]:
        known = self.known(host)
        if known is not None:
            return known
        pending = self._pending.get(host) or self._start(host)
        async with asyncio.timeout_at(deadline):
            answer = await asyncio.shield(pending)
        return answer.unwrap()

    def known(self, host: str) -> tuple[Address, ...] | None:
        answer = self._answers.get(host)
        if answer is None or answer.until <= self._clock():
            return None
        return answer.unwrap()

    async def close(self) -> None:
        for pending in self._pending.values():
            pending.cancel()
        await asyncio.gather(*self._pending.values(), return_exceptions=True)

    def _start(self, host: str) -> asyncio.Task[_Answer]:
        task = asyncio.create_task(self._ask(host))
        self._pending[host] = task
        task.add_done_callback(lambda _: self._pending.pop(host, None))
        return task

    async def _ask(self, host: str) -> _Answer:
        last = self._answers.get(host)
        lane = self._proven_lane if last is not None and last.addresses else self._unproven_lane
        try:
            async with asyncio.timeout(SLOT_SECONDS):
                await lane.acquire()
        except TimeoutError:
            return self._remember(host, (), "too many DNS lookups are waiting")
        return self._remember(host, *await self._run_in_thread(host, lane))

    def _run_in_thread(
        self, host: str, lane: asyncio.Semaphore
    ) -> asyncio.Future[tuple[tuple[Address, ...], str]]:
        """Takes over the caller's place in `lane` and gives it back when the thread ends, awaited or not."""
        loop = asyncio.get_running_loop()
        future = loop.create_future()

        def finish(addresses: tuple[Address, ...], error: str) -> None:
            lane.release()
            if not future.done():
                future.set_result((addresses, error))

        def work() -> None:
            found = self._look_up(host)
            with suppress(RuntimeError):  # the loop has ended; nobody waits
                loop.call_soon_threadsafe(finish, *found)

        try:
            threading.Thread(target=work, name="dns", daemon=True).start()
        except RuntimeError:  # the process may have no more threads at present
            finish((), "cannot start a thread for the DNS lookup")
        return future

    def _look_up(self, host: str) -> tuple[tuple[Address, ...], str]:
        """(addresses, "") or ((), what went wrong)."""
        try:
            addresses = tuple(dict.fromkeys(self._lookup(host)))
        except socket.gaierror as error:
            return (), (error.strerror or "the name could not be resolved").lower()
        except Exception as error:  # noqa: BLE001  whatever a resolver does, the thread reports and the name fails
            return (), f"the name could not be resolved ({type(error).__name__})"
        if len(addresses) > MAX_ADDRESSES:
            return (), f"the name has more than {MAX_ADDRESSES} addresses"
        return addresses, "" if addresses else "the name has no address"

    def _remember(self, host: str, addresses: tuple[Address, ...], error: str) -> _Answer:
        seconds = POSITIVE_SECONDS if addresses else NEGATIVE_SECONDS
        answer = _Answer(addresses, error, self._clock() + seconds)
        self._answers[host] = answer
        self._answers.move_to_end(host)
        while len(self._answers) > self._max_names:
            self._answers.popitem(last=False)
        return answer
