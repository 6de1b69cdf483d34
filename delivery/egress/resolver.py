"""Resolves names without blocking the event loop, with limits on threads, memory and time.

`getaddrinfo` cannot be cancelled, and a name whose DNS servers do not respond holds its thread until the C
library times out. To isolate such names:

- there is one lookup per name at a time, shared by all callers; it continues when they are cancelled;
- there are two groups of threads: one for names that resolved last time, one for all others. Many new names
  that do not resolve fill the second group only, and working endpoints are not affected;
- threads are daemons, so that a lookup does not delay the end of the process.

Results are cached for seconds, whatever their TTL. This does not weaken the egress guard: it checks all
addresses each time, cached or not, and only a checked address is dialled.
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
THREADS_PER_GROUP: Final = 16
MAX_NAMES: Final = 4096
MAX_ADDRESSES: Final = 64
"""More than any real name has. Checking thousands for each attempt would let a DNS server use up the CPU."""
THREAD_WAIT_SECONDS: Final = 15.0
"""How long a lookup may wait for a thread; attempts do not wait longer."""


class DnsFailed(Exception):
    """The name did not resolve. The message is for the tenant."""


class Resolver(Protocol):
    async def resolve(self, host: str, deadline: float) -> Sequence[Address]:
        """Returns at least one address. `deadline` is on the loop's clock. Raises DnsFailed or TimeoutError."""
        ...

    def cached(self, host: str) -> Sequence[Address] | None:
        """The same from the cache, or None if a lookup is needed. Raises DnsFailed."""
        ...


def system_lookup(host: str) -> Sequence[Address]:
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
    return [ip_address(sockaddr[0]) for _, _, _, _, sockaddr in found]


@dataclass(frozen=True, slots=True)
class _CachedResult:
    addresses: tuple[Address, ...]
    error: str
    until: float

    def unwrap(self) -> tuple[Address, ...]:
        if not self.addresses:
            raise DnsFailed(self.error)
        return self.addresses


class SystemResolver:
    """Uses the operating system's resolver. Use one instance per event loop."""

    def __init__(
        self,
        lookup: Lookup = system_lookup,
        *,
        clock: Callable[[], float] = time.monotonic,
        threads_per_group: int = THREADS_PER_GROUP,
        max_names: int = MAX_NAMES,
    ) -> None:
        self._lookup = lookup
        self._clock = clock
        self._max_names = max_names
        self._cache: OrderedDict[str, _CachedResult] = OrderedDict()
        self._pending: dict[str, asyncio.Task[_CachedResult]] = {}
        self._known_hosts = asyncio.Semaphore(threads_per_group)
        self._new_hosts = asyncio.Semaphore(threads_per_group)

    async def resolve(self, host: str, deadline: float) -> Sequence[Address]:
        cached = self.cached(host)
        if cached is not None:
            return cached
        pending = self._pending.get(host) or self._start(host)
        async with asyncio.timeout_at(deadline):
            result = await asyncio.shield(pending)
        return result.unwrap()

    def cached(self, host: str) -> tuple[Address, ...] | None:
        result = self._cache.get(host)
        if result is None or result.until <= self._clock():
            return None
        return result.unwrap()

    async def close(self) -> None:
        for pending in self._pending.values():
            pending.cancel()
        await asyncio.gather(*self._pending.values(), return_exceptions=True)

    def _start(self, host: str) -> asyncio.Task[_CachedResult]:
        task = asyncio.create_task(self._look_up_once(host))
        self._pending[host] = task
        task.add_done_callback(lambda _: self._pending.pop(host, None))
        return task

    async def _look_up_once(self, host: str) -> _CachedResult:
        last = self._cache.get(host)
        threads = self._known_hosts if last is not None and last.addresses else self._new_hosts
        try:
            async with asyncio.timeout(THREAD_WAIT_SECONDS):
                await threads.acquire()
        except TimeoutError:
            return self._remember(host, (), "too many DNS lookups are waiting")
        return self._remember(host, *await self._run_in_thread(host, threads))

    def _run_in_thread(
        self, host: str, threads: asyncio.Semaphore
    ) -> asyncio.Future[tuple[tuple[Address, ...], str]]:
        """Releases the caller's permit of `threads` when the thread ends, awaited or not."""
        loop = asyncio.get_running_loop()
        future = loop.create_future()

        def finish(addresses: tuple[Address, ...], error: str) -> None:
            threads.release()
            if not future.done():
                future.set_result((addresses, error))

        def work() -> None:
            found = self._look_up(host)
            with suppress(RuntimeError):  # the loop is closed; no caller waits
                loop.call_soon_threadsafe(finish, *found)

        try:
            threading.Thread(target=work, name="dns", daemon=True).start()
        except RuntimeError:  # the process is at its thread limit
            finish((), "cannot start a thread for the DNS lookup")
        return future

    def _look_up(self, host: str) -> tuple[tuple[Address, ...], str]:
        """Returns (addresses, "") or ((), error)."""
        try:
            addresses = tuple(dict.fromkeys(self._lookup(host)))
        except socket.gaierror as error:
            return (), (error.strerror or "the name could not be resolved").lower()
        except Exception as error:  # noqa: BLE001  the caller must get every error
            return (), f"the name could not be resolved ({type(error).__name__})"
        if len(addresses) > MAX_ADDRESSES:
            return (), f"the name has more than {MAX_ADDRESSES} addresses"
        return addresses, "" if addresses else "the name has no address"

    def _remember(self, host: str, addresses: tuple[Address, ...], error: str) -> _CachedResult:
        seconds = POSITIVE_SECONDS if addresses else NEGATIVE_SECONDS
        result = _CachedResult(addresses, error, self._clock() + seconds)
        self._cache[host] = result
        self._cache.move_to_end(host)
        while len(self._cache) > self._max_names:
            self._cache.popitem(last=False)
        return result
