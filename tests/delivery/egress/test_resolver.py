import asyncio
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest

from delivery.egress.resolver import (
    MAX_ADDRESSES,
    NEGATIVE_SECONDS,
    POSITIVE_SECONDS,
    DnsFailed,
    SystemResolver,
    system_lookup,
)

Address = IPv4Address | IPv6Address
PUBLIC = ip_address("8.8.8.8")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Dns:
    """A blocking lookup with fixed results; names in `silent` hold their thread until released."""

    def __init__(self, **answers: Sequence[str] | Exception) -> None:
        self.answers = answers
        self.asked: list[str] = []
        self.silent: set[str] = set()
        self.release = threading.Event()

    def __call__(self, host: str) -> Sequence[Address]:
        self.asked.append(host)
        if host in self.silent and not self.release.wait(10):
            raise AssertionError("the silent names were not released")
        answer = self.answers.get(host, ["8.8.8.8"])
        if isinstance(answer, Exception):
            raise answer
        return [ip_address(text) for text in answer]


def soon(seconds: float = 5) -> float:
    return asyncio.get_running_loop().time() + seconds


async def test_a_result_is_cached_until_it_expires() -> None:
    dns, clock = Dns(a=["8.8.8.8"]), Clock()
    resolver = SystemResolver(dns, clock=clock)
    assert await resolver.resolve("a", soon()) == (PUBLIC,)
    dns.answers["a"] = ["1.1.1.1"]
    clock.now = POSITIVE_SECONDS - 0.1
    assert await resolver.resolve("a", soon()) == (PUBLIC,)
    clock.now = POSITIVE_SECONDS
    assert await resolver.resolve("a", soon()) == (ip_address("1.1.1.1"),)
    assert dns.asked == ["a", "a"]


async def test_only_cached_results_are_returned_without_waiting() -> None:
    dns, clock = (
        Dns(a=["8.8.8.8"], b=socket.gaierror(socket.EAI_NONAME, "Name or service not known")),
        Clock(),
    )
    resolver = SystemResolver(dns, clock=clock)
    assert resolver.cached("a") is None
    await resolver.resolve("a", soon())
    with pytest.raises(DnsFailed):
        await resolver.resolve("b", soon())
    assert resolver.cached("a") == (PUBLIC,)
    with pytest.raises(DnsFailed):
        resolver.cached("b")
    clock.now = POSITIVE_SECONDS
    assert (resolver.cached("a"), resolver.cached("b")) == (None, None)
    assert dns.asked == ["a", "b"]


async def test_a_failure_is_cached_for_less_time() -> None:
    failure = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    dns, clock = Dns(a=failure), Clock()
    resolver = SystemResolver(dns, clock=clock)
    for _ in range(2):
        with pytest.raises(DnsFailed, match=r"^name or service not known$"):
            await resolver.resolve("a", soon())
    assert dns.asked == ["a"]
    clock.now = NEGATIVE_SECONDS
    dns.answers["a"] = ["8.8.8.8"]
    assert await resolver.resolve("a", soon()) == (PUBLIC,)


@pytest.mark.parametrize(
    "surprise", [UnicodeError("label too long"), RuntimeError("?"), OSError(24, "too many files")]
)
async def test_any_lookup_error_is_a_dns_failure(surprise: Exception) -> None:
    with pytest.raises(DnsFailed):
        await SystemResolver(Dns(a=surprise)).resolve("a", soon())


async def test_a_name_without_addresses_or_with_too_many_fails() -> None:
    many = [f"8.8.{n // 250}.{n % 250}" for n in range(MAX_ADDRESSES + 1)]
    resolver = SystemResolver(Dns(none=[], many=many, repeated=["8.8.8.8"] * 500))
    for name in ("none", "many"):
        with pytest.raises(DnsFailed):
            await resolver.resolve(name, soon())
    assert await resolver.resolve("repeated", soon()) == (PUBLIC,)


async def test_concurrent_callers_share_one_lookup() -> None:
    dns = Dns()
    answers = await asyncio.gather(
        *(resolver.resolve("a", soon()) for resolver in [SystemResolver(dns)] * 20)
    )
    assert set(answers) == {(PUBLIC,)}
    assert dns.asked == ["a"]


async def test_a_lookup_continues_after_a_caller_times_out() -> None:
    dns = Dns()
    dns.silent.add("slow")
    resolver = SystemResolver(dns)
    with pytest.raises(TimeoutError):
        await resolver.resolve("slow", soon(0.05))
    dns.release.set()
    assert await resolver.resolve("slow", soon()) == (PUBLIC,)
    assert dns.asked == ["slow"]


async def test_cancelling_one_caller_does_not_affect_others() -> None:
    dns = Dns()
    dns.silent.add("slow")
    resolver = SystemResolver(dns)
    one, other = (asyncio.create_task(resolver.resolve("slow", soon())) for _ in range(2))
    await asyncio.sleep(0)
    one.cancel()
    dns.release.set()
    assert await other == (PUBLIC,)
    with pytest.raises(asyncio.CancelledError):
        await one


async def test_silent_names_delay_only_other_new_names() -> None:
    """All threads for new names are busy; a name that resolved before is still looked up."""
    dns, clock = Dns(), Clock()
    resolver = SystemResolver(dns, clock=clock, threads_per_group=2)
    await resolver.resolve("good", soon())
    clock.now = POSITIVE_SECONDS

    dns.silent = {f"silent-{n}" for n in range(10)}
    flood = [asyncio.create_task(resolver.resolve(name, soon(0.3))) for name in sorted(dns.silent)]
    await asyncio.sleep(0.05)
    assert await resolver.resolve("good", soon(0.2)) == (PUBLIC,)
    with pytest.raises(TimeoutError):
        await resolver.resolve("new", soon(0.1))
    assert len([name for name in dns.asked if name in dns.silent]) == 2

    failures = await asyncio.gather(*flood, return_exceptions=True)
    assert all(isinstance(failure, TimeoutError) for failure in failures)
    dns.release.set()
    assert await resolver.resolve("new", soon()) == (PUBLIC,)


async def test_the_cache_has_a_size_limit() -> None:
    dns = Dns()
    resolver = SystemResolver(dns, max_names=3)
    for name in "abcd":
        await resolver.resolve(name, soon())
    assert list(resolver._cache) == ["b", "c", "d"]
    assert not resolver._pending


async def test_a_lookup_does_not_block_the_loop() -> None:
    dns = Dns()
    dns.silent.add("slow")
    lookup = asyncio.create_task(SystemResolver(dns).resolve("slow", soon()))
    for _ in range(3):
        await asyncio.sleep(0.01)
    assert not lookup.done()
    dns.release.set()
    assert await lookup == (PUBLIC,)


def test_a_silent_name_does_not_delay_process_exit() -> None:
    program = """
import asyncio, threading
from delivery.egress.resolver import SystemResolver
async def main():
    resolver = SystemResolver(lambda host: threading.Event().wait())
    try:
        await resolver.resolve("silent", asyncio.get_running_loop().time() + 0.1)
    except TimeoutError:
        print("timed out")
    await resolver.close()
asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=10, check=True
    )
    assert (done.stdout, done.stderr) == ("timed out\n", "")


def test_the_system_lookup_handles_literals_and_bad_labels() -> None:
    assert ip_address("192.0.2.7") in system_lookup("192.0.2.7")
    with pytest.raises(UnicodeError):
        system_lookup("a" * 64)
