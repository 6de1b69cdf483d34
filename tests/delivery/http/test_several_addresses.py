"""A host is reached as long as one of its addresses accepts connections.

127.0.0.2 and 127.0.0.3 stand for its machines. A closed port refuses; a full backlog is silent.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from ipaddress import ip_address, ip_network

import pytest
import trustme

from delivery.egress.endpoint_url import EndpointUrl
from delivery.egress.guard import CheckedAddress, EgressGuard, EgressPolicy
from delivery.http.attempt_contract import Outcome
from tests.delivery.http.raw_receiver import (
    Behaviour,
    Names,
    Peer,
    Receiver,
    answering,
    full_backlog,
    receiving,
    sending,
    to,
)
from tests.delivery.http.test_sender_tls import serving, trusting

CLOSING = answering(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
TWO = ["127.0.0.2", "127.0.0.3"]


async def hang_up(peer: Peer) -> None:
    await peer.request()


@asynccontextmanager
async def machines(*behaviours: Behaviour | None) -> AsyncIterator[list[Receiver]]:
    """127.0.0.2, 127.0.0.3 and so on, all on one port. None: its backlog is full."""
    async with AsyncExitStack() as stack:
        receivers: list[Receiver] = []
        port = 0
        for number, behave in enumerate(behaviours, start=2):
            host = f"127.0.0.{number}"
            if behave is None:
                port = await stack.enter_async_context(full_backlog(host, port))
                receivers.append(Receiver(port))
            else:
                receivers.append(await stack.enter_async_context(receiving(behave, host=host, port=port)))
                port = receivers[-1].port
        yield receivers


def of(*answers: Sequence[str]) -> Names:
    return Names(a_test=list(answers))


async def test_a_dead_address_does_not_stop_a_delivery() -> None:
    async with receiving(CLOSING, host="127.0.0.3") as receiver, sending(of(TWO)) as sender:
        for _ in range(2):
            result = await sender.send(to(f"http://a.test:{receiver.port}/"))
            assert (result.outcome, result.address, result.error) == (Outcome.OK, "127.0.0.3", None)
            assert result.timings.connect is not None
    assert receiver.connections == 2


@pytest.mark.parametrize("live", ["127.0.0.1", "::1"])
async def test_localhost_is_reached_on_whichever_family_listens(live: str) -> None:
    async with receiving(host=live) as receiver, sending() as sender:
        result = await sender.send(to(f"http://localhost:{receiver.port}/"))
    assert (result.outcome, result.address) == (Outcome.OK, live)


async def test_one_live_family_is_enough() -> None:
    for live in ("::1", "127.0.0.1"):
        for answer in (["127.0.0.1", "::1"], ["::1", "127.0.0.1"]):
            async with receiving(host=live) as receiver, sending(of(answer)) as sender:
                result = await sender.send(to(f"http://a.test:{receiver.port}/"))
            assert (result.outcome, result.address) == (Outcome.OK, live)


async def test_a_silent_address_takes_only_its_time_share() -> None:
    async with machines(None, CLOSING) as (silent, _), sending(of(TWO), connect_timeout=2) as sender:
        request = to(f"http://a.test:{silent.port}/")
        first, second = await sender.send(request), await sender.send(request)
    assert (first.outcome, first.address) == (second.outcome, second.address) == (Outcome.OK, "127.0.0.3")
    assert first.timings.connect is not None
    assert 950 < first.timings.connect < 1900
    assert second.timings.total < 900


async def test_the_attempt_deadline_limits_the_time_share() -> None:
    async with machines(None, CLOSING) as (silent, _), sending(of(TWO), attempt_timeout=2) as sender:
        result = await sender.send(to(f"http://a.test:{silent.port}/"))
    assert (result.outcome, result.address) == (Outcome.OK, "127.0.0.3")


async def test_an_error_counts_the_addresses_that_refused() -> None:
    async with receiving() as gone:
        pass
    names = of([*TWO, "127.0.0.4"])
    async with sending(names) as sender:
        request = to(f"http://a.test:{gone.port}/")
        for _ in range(2):
            result = await sender.send(request)
            assert (result.outcome, result.address) == (Outcome.CONNECT, "127.0.0.4")
            assert result.error == "connection refused; 3 addresses tried"
        single = await sender.send(to(f"http://127.0.0.2:{gone.port}/"))
    assert single.error == "connection refused"


@pytest.mark.parametrize("limits", [{"connect_timeout": 0.6}, {"attempt_timeout": 0.6}], ids=str)
async def test_silent_addresses_end_with_a_timeout(limits: dict[str, float]) -> None:
    async with machines(None, None) as (silent, _), sending(of(TWO), **limits) as sender:
        result = await sender.send(to(f"http://a.test:{silent.port}/"))
        assert sender.in_use + sender.idle == 0
    assert result.outcome is Outcome.TIMEOUT
    assert result.error == "timed out waiting for the TCP connection; 2 addresses tried"
    assert 500 < result.timings.total < 2000


async def test_an_untried_address_is_first_in_the_next_attempt() -> None:
    """Two silent addresses take all the time, so a third is reached only when tried first."""
    async with (
        machines(None, None, CLOSING) as (silent, *_),
        sending(of(["127.0.0.2", "127.0.0.3", "127.0.0.4"]), connect_timeout=0.45) as sender,
    ):
        request = to(f"http://a.test:{silent.port}/")
        first, second = await sender.send(request), await sender.send(request)
    assert (first.outcome, first.address) == (Outcome.TIMEOUT, "127.0.0.3")
    assert (second.outcome, second.address) == (Outcome.OK, "127.0.0.4")


async def test_a_failing_machine_is_changed_only_between_attempts() -> None:
    """The request may have arrived, so only a retry may use another address."""
    async with machines(hang_up, CLOSING) as (broken, live), sending(of(TWO)) as sender:
        request = to(f"http://a.test:{broken.port}/")
        first = await sender.send(request)
        assert live.connections == 0
        others = [await sender.send(request) for _ in range(2)]
    assert (first.outcome, first.address) == (Outcome.PROTOCOL, "127.0.0.2")
    assert [(result.outcome, result.address) for result in others] == [(Outcome.OK, "127.0.0.3")] * 2
    assert (broken.connections, live.connections) == (1, 2)


async def test_a_failing_status_does_not_change_the_address() -> None:
    busy = answering(b"HTTP/1.1 503 No\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
    async with machines(busy, CLOSING) as (first, second), sending(of(TWO)) as sender:
        for _ in range(2):
            assert (await sender.send(to(f"http://a.test:{first.port}/"))).status == 503
    assert (first.connections, second.connections) == (2, 0)


async def test_an_invalid_certificate_changes_the_address_only_between_attempts(
    authority: trustme.CA,
) -> None:
    async with (
        receiving(host="127.0.0.2", tls=serving(authority, "b.test")) as wrong,
        receiving(host="127.0.0.3", port=wrong.port, tls=serving(authority, "a.test")) as right,
        sending(of(TWO), tls=trusting(authority)) as sender,
    ):
        request = to(f"https://a.test:{wrong.port}/")
        first = await sender.send(request)
        assert right.connections == 0
        second = await sender.send(request)
    assert (first.outcome, first.address) == (Outcome.TLS, "127.0.0.2")
    assert "addresses tried" not in (first.error or "")
    assert (second.outcome, second.address) == (Outcome.OK, "127.0.0.3")


async def test_a_connection_is_reused_whatever_the_dns_order() -> None:
    names = of(TWO, TWO[::-1], TWO, TWO[::-1])
    async with receiving(host="127.0.0.3") as receiver, sending(names) as sender:
        results = [await sender.send(to(f"http://a.test:{receiver.port}/")) for _ in range(4)]
        assert (sender.idle, sender.in_use) == (1, 0)
    assert [result.address for result in results] == ["127.0.0.3"] * 4
    assert receiver.connections == 1


async def test_a_lost_machine_is_replaced_by_another_address() -> None:
    """It closes when the second request arrives, and accepts no new connection."""

    async def answer_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(1, reader, writer, Receiver())
        await peer.request()
        await peer.answer()
        await peer.request()
        going.close()
        writer.transport.abort()

    going = await asyncio.start_server(answer_once, "127.0.0.2", 0)
    port = going.sockets[0].getsockname()[1]
    async with receiving(host="127.0.0.3", port=port) as staying, sending(of(TWO)) as sender:
        request = to(f"http://a.test:{port}/")
        results = [await sender.send(request) for _ in range(2)]
    assert [(result.outcome, result.address) for result in results] == [
        (Outcome.OK, "127.0.0.2"),
        (Outcome.OK, "127.0.0.3"),
    ]
    assert staying.connections == 1


async def test_one_forbidden_address_blocks_the_host_and_none_is_dialled() -> None:
    async with receiving(host="127.0.0.3") as receiver, sending(of(["127.0.0.3", "10.0.0.1"])) as sender:
        result = await sender.send(to(f"http://a.test:{receiver.port}/"))
    assert (result.outcome, receiver.connections) == (Outcome.BLOCKED, 0)
    assert result.error == "the target is a private address"


async def test_the_dialler_checks_the_next_address_too() -> None:
    """Even if the guard returned a forbidden second address."""

    class Fooled(EgressGuard):
        async def resolve(self, _url: EndpointUrl, _deadline: float) -> tuple[CheckedAddress, ...]:
            return tuple(CheckedAddress(ip_address(text), text) for text in TWO)

        def resolve_cached(self, _url: EndpointUrl) -> None:
            pass

    inside = EgressPolicy((ip_network("127.0.0.2/32"),))
    async with (
        receiving(host="127.0.0.3") as receiver,
        sending(guard=Fooled(inside, Names())) as sender,
    ):
        result = await sender.send(to(f"http://a.test:{receiver.port}/"))
    assert (result.outcome, result.error) == (Outcome.BLOCKED, "the target is a loopback address")
    assert (result.address, receiver.connections) == ("127.0.0.2", 0)
