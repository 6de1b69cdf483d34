"""One deadline covers the attempt. No connection is left when it passes or the attempt is cancelled."""

import asyncio
import ssl
import threading
from ipaddress import IPv4Address

import pytest

from delivery.egress.resolver import SystemResolver
from delivery.http.attempt_contract import OutboundRequest, Outcome
from tests.delivery.http.raw_receiver import (
    Behaviour,
    Names,
    Peer,
    Silence,
    full_backlog,
    receiving,
    sending,
    to,
    until,
)


async def never_answer(peer: Peer) -> None:
    await peer.request()
    await peer.hung_up()


async def drip_headers(peer: Peer) -> None:
    await peer.request()
    await peer.answer(b"HTTP/1.1 200 OK\r\n")
    for byte in b"X-Slow: " + b"a" * 1000:
        await peer.answer(bytes([byte]))
        await asyncio.sleep(0.01)


async def drip_body(peer: Peer) -> None:
    await peer.request()
    await peer.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    for _ in range(1000):
        await peer.answer(b"a")
        await asyncio.sleep(0.01)


async def stop_in_the_body(peer: Peer) -> None:
    await peer.request()
    await peer.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
    await peer.hung_up()


async def never_shake_hands(peer: Peer) -> None:
    await peer.hung_up()


@pytest.mark.parametrize(
    ("scheme", "behave", "waiting_for", "status"),
    [
        ("https", never_shake_hands, "the TLS handshake", None),
        ("http", never_answer, "the response headers", None),
        ("http", drip_headers, None, 200),
        ("http", drip_body, None, 200),
        ("http", stop_in_the_body, None, 200),
    ],
)
async def test_the_deadline_ends_every_stage_and_drops_the_connection(
    scheme: str, behave: Behaviour, waiting_for: str | None, status: int | None
) -> None:
    async with receiving(behave) as receiver, sending(attempt_timeout=0.25) as sender:
        result = await sender.send(to(f"{scheme}://127.0.0.1:{receiver.port}/"))
        await until(lambda: sender.in_use + sender.idle == 0)
        await receiver.all_closed()

    assert result.outcome is (Outcome.OK if status else Outcome.TIMEOUT)
    assert result.error == (waiting_for and f"timed out waiting for {waiting_for}")
    assert (result.status, result.timed_out) == (status, True)
    assert 200 < result.timings.total < 2000
    assert sender.in_use == 0


async def test_dns_that_does_not_answer_is_a_timeout() -> None:
    async with sending(Silence(), attempt_timeout=0.1) as sender:
        result = await sender.send(to("https://hooks.example/"))
    assert (result.outcome, result.error) == (Outcome.TIMEOUT, "timed out waiting for DNS")


async def test_the_connect_timeout_ends_before_the_attempt_timeout() -> None:
    async with full_backlog() as port, sending(connect_timeout=0.2, attempt_timeout=10) as sender:
        result = await sender.send(to(f"http://127.0.0.1:{port}/"))
    assert (result.outcome, result.error) == (Outcome.TIMEOUT, "timed out waiting for the TCP connection")
    assert 150 < result.timings.total < 2000


async def test_all_stages_share_one_deadline() -> None:
    class Slow(Names):
        async def resolve(self, host: str, deadline: float) -> object:
            await asyncio.sleep(0.2)
            return await super().resolve(host, deadline)

    names = Slow(a_test=[["127.0.0.1"]])
    async with receiving(never_answer) as receiver, sending(names, attempt_timeout=0.4) as sender:
        result = await sender.send(to(f"http://a.test:{receiver.port}/"))
    assert result.outcome is Outcome.TIMEOUT
    assert result.timings.dns is not None
    assert result.timings.dns > 150
    assert result.timings.total < 550


async def test_a_silent_dns_name_does_not_delay_other_names() -> None:
    may_answer = threading.Event()

    def lookup(host: str) -> list[IPv4Address]:
        if host.startswith("silent"):
            may_answer.wait(10)
        return [IPv4Address("127.0.0.1")]

    resolver = SystemResolver(lookup, threads_per_group=4)
    async with receiving() as receiver, sending(resolver, attempt_timeout=0.3) as sender:
        good = to(f"http://good.test:{receiver.port}/")
        first = await sender.send(good)
        silent = [
            asyncio.create_task(sender.send(to(f"http://silent-{n}.test:{receiver.port}/")))
            for n in range(20)
        ]
        await asyncio.sleep(0)
        others = [await sender.send(good) for _ in range(20)]
        results = await asyncio.gather(*silent)
        may_answer.set()
        await resolver.close()
    assert {result.outcome for result in (first, *others)} == {Outcome.OK}
    assert {(result.outcome, result.error) for result in results} == {
        (Outcome.TIMEOUT, "timed out waiting for DNS")
    }
    assert receiver.connections == 1


async def cancel_once(sender: object, request: OutboundRequest, busy: asyncio.Event) -> None:
    attempt = asyncio.create_task(sender.send(request))
    await busy.wait()
    await asyncio.sleep(0.02)  # into the stage, whose beginning the receiver cannot see
    attempt.cancel()
    with pytest.raises(asyncio.CancelledError):
        await attempt


@pytest.mark.parametrize(
    ("scheme", "behave"),
    [
        ("https", never_shake_hands),
        ("http", never_answer),
        ("http", drip_headers),
        ("http", stop_in_the_body),
    ],
)
async def test_cancelling_leaves_no_connection_in_use(scheme: str, behave: Behaviour) -> None:
    busy = asyncio.Event()

    async def tell(peer: Peer) -> None:
        busy.set()
        await behave(peer)

    async with receiving(tell) as receiver, sending() as sender:
        await cancel_once(sender, to(f"{scheme}://127.0.0.1:{receiver.port}/"), busy)
        await until(lambda: sender.in_use + sender.idle == 0)
        await receiver.all_closed()
        assert sender.in_use == 0
        assert sender.idle == 0


async def test_cancelling_while_connecting_leaves_nothing_behind() -> None:
    busy = asyncio.Event()
    busy.set()
    async with full_backlog() as port, sending() as sender:
        await cancel_once(sender, to(f"http://127.0.0.1:{port}/"), busy)
        assert sender.in_use == 0


async def test_closing_the_sender_ends_what_is_in_flight_with_a_result() -> None:
    busy = asyncio.Event()

    async def hang(peer: Peer) -> None:
        await peer.request()
        busy.set()
        await peer.hung_up()

    async with receiving(hang) as receiver, sending(tls=ssl.create_default_context) as sender:
        attempt = asyncio.create_task(sender.send(to(f"http://127.0.0.1:{receiver.port}/")))
        await busy.wait()
        await sender.close()
        result = await attempt
    assert result.outcome is Outcome.PROTOCOL
