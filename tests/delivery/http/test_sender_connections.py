"""Connecting, keeping and reusing connections."""

import asyncio
import socket
from ipaddress import ip_address

import pytest

from delivery.egress.endpoint_url import EndpointUrl
from delivery.egress.guard import Blocked, CheckedAddress, EgressGuard, EgressPolicy
from delivery.http.attempt_contract import AttemptResult, Outcome
from delivery.http.attempt_failed import AttemptFailed
from delivery.http.connection_pool import ConnectionPool
from delivery.http.dialling import check_peer
from delivery.http.exchange import STALE_SECONDS, Stage
from delivery.http.http1_connection import Connection
from delivery.http.sockets import reset_on_close
from tests.delivery.http.raw_receiver import (
    OK,
    Names,
    Peer,
    answering,
    exchanges,
    receiving,
    sending,
    to,
    until,
)


async def test_a_connection_is_reused() -> None:
    async with receiving() as receiver, sending() as sender:
        results = [await sender.send(to(f"http://127.0.0.1:{receiver.port}/")) for _ in range(3)]
    assert [result.outcome for result in results] == [Outcome.OK] * 3
    assert receiver.connections == 1
    assert results[0].timings.connect is not None
    assert results[1].timings.connect is None


async def test_the_last_used_connection_is_reused_first() -> None:
    """So surplus connections reach their keep-alive limit when traffic falls."""
    together = asyncio.Barrier(2)

    async def answer_with_its_number(peer: Peer) -> None:
        for round_ in range(4):
            await peer.request()
            if round_ == 0:
                await together.wait()
            await peer.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n%d" % peer.number)

    async with receiving(answer_with_its_number) as receiver, sending() as sender:
        request = to(f"http://127.0.0.1:{receiver.port}/")
        await asyncio.gather(sender.send(request), sender.send(request))
        used = {(await sender.send(request)).response_body for _ in range(3)}
        assert (len(used), sender.idle, sender.in_use) == (1, 2, 0)


async def test_a_small_request_is_sent_in_one_write() -> None:
    pieces: list[bytes] = []

    async def take_pieces(peer: Peer) -> None:
        for _ in range(2):
            pieces.append(await peer.reader.read(65536))
            await peer.answer()

    async with receiving(take_pieces) as receiver, sending() as sender:
        request = to(f"http://127.0.0.1:{receiver.port}/", body=b"x" * 1000)
        for _ in range(2):
            assert (await sender.send(request)).outcome is Outcome.OK
    assert [piece.endswith(b"x" * 1000) for piece in pieces] == [True, True]


async def test_a_late_timeout_does_not_end_the_next_attempt() -> None:
    """The response has arrived and the connection is reused; then the deadline passes before the task runs."""
    may_answer = asyncio.Event()

    async def answer_when_released(peer: Peer) -> None:
        while True:
            await peer.request()
            await may_answer.wait()
            may_answer.clear()
            await peer.answer()

    async with receiving(answer_when_released) as receiver, sending() as sender:
        request = to(f"http://127.0.0.1:{receiver.port}/")
        first = asyncio.create_task(sender.send(request))
        await until(lambda: len(exchanges(sender)) == 1)
        [exchange] = exchanges(sender)
        may_answer.set()
        assert (await first).outcome is Outcome.OK
        second = asyncio.create_task(sender.send(request))
        await until(lambda: len(exchanges(sender)) == 1)
        exchange.expire()
        may_answer.set()
        assert (await second).outcome is Outcome.OK
    assert receiver.connections == 1


async def test_closing_ends_every_attempt_with_a_result() -> None:
    async with receiving() as receiver, sending() as sender:
        request = to(f"http://127.0.0.1:{receiver.port}/")
        await sender.send(request)
        await sender.close()
        await sender.close()
        results = [await sender.send(request) for _ in range(2)]
        await until(lambda: sender.in_use + sender.idle == 0)
    assert [result.outcome for result in results] == [Outcome.PROTOCOL] * 2


async def test_an_idle_connection_is_closed_after_keepalive() -> None:
    async with receiving() as receiver, sending(keepalive=0.05) as sender:
        await sender.send(to(f"http://127.0.0.1:{receiver.port}/"))
        await receiver.all_closed()


async def test_idle_connections_are_limited() -> None:
    together = asyncio.Barrier(6)

    async def answer_together(peer: Peer) -> None:
        await peer.request()
        await together.wait()
        await peer.answer()
        await peer.hung_up()

    async with receiving(answer_together) as receiver, sending(kept_open=2) as sender:
        request = to(f"http://127.0.0.1:{receiver.port}/")
        await asyncio.gather(*(sender.send(request) for _ in range(6)))
        await until(lambda: sender.in_use + sender.idle <= 2)


async def test_a_stale_connection_is_replaced_within_the_attempt() -> None:
    async def close_when_used_again(peer: Peer) -> None:
        await peer.request()
        await peer.answer()
        if peer.number == 1:
            await peer.request()

    async with receiving(close_when_used_again) as receiver, sending() as sender:
        request = to(f"http://127.0.0.1:{receiver.port}/")
        first, second = await sender.send(request), await sender.send(request)
    assert (first.outcome, second.outcome) == (Outcome.OK, Outcome.OK)
    assert (receiver.connections, len(receiver.requests)) == (2, 3)
    assert second.timings.connect is not None


async def test_a_connection_that_closes_later_is_not_replaced() -> None:
    may_die = asyncio.Event()

    async def die_at_work(peer: Peer) -> None:
        await peer.request()
        await peer.answer()
        await peer.request()
        await may_die.wait()

    async with receiving(die_at_work) as receiver, sending() as sender:
        request = to(f"http://127.0.0.1:{receiver.port}/")
        await sender.send(request)
        second = asyncio.create_task(sender.send(request))
        await until(lambda: len(receiver.requests) == 2)
        [exchange] = exchanges(sender)
        assert exchange.ready_at is not None
        exchange.ready_at -= STALE_SECONDS
        may_die.set()
        result = await second
    assert (result.outcome, receiver.connections, len(receiver.requests)) == (Outcome.PROTOCOL, 1, 2)


async def test_a_stale_connection_is_replaced_by_a_new_one() -> None:
    """Two pooled connections, both dead: the replacement must not be the other dead one."""
    together = asyncio.Barrier(2)

    async def close_when_used_again(peer: Peer) -> None:
        await peer.request()
        if peer.number <= 2:
            await together.wait()
        await peer.answer()
        if peer.number <= 2:
            await peer.request()

    async with receiving(close_when_used_again) as receiver, sending() as sender:
        request = to(f"http://127.0.0.1:{receiver.port}/")
        await asyncio.gather(sender.send(request), sender.send(request))
        result = await sender.send(request)
    assert (result.outcome, receiver.connections) == (Outcome.OK, 3)


async def test_a_new_connection_that_closes_is_not_replaced() -> None:
    async def close(peer: Peer) -> None:
        await peer.request()

    async with receiving(close) as receiver, sending() as sender:
        result = await sender.send(to(f"http://127.0.0.1:{receiver.port}/"))
    assert (result.outcome, receiver.connections) == (Outcome.PROTOCOL, 1)


async def test_a_stale_connection_is_replaced_only_once() -> None:
    async def answer_the_very_first(peer: Peer) -> None:
        await peer.request()
        if peer.number == 1:
            await peer.answer()
            await peer.request()

    async with receiving(answer_the_very_first) as receiver, sending() as sender:
        request = to(f"http://127.0.0.1:{receiver.port}/")
        await sender.send(request)
        result = await sender.send(request)
    assert (result.outcome, receiver.connections) == (Outcome.PROTOCOL, 2)


async def test_a_connection_that_began_to_respond_is_not_replaced() -> None:
    async def break_off(peer: Peer) -> None:
        await peer.request()
        await peer.answer()
        await peer.request()
        await peer.answer(b"H")
        peer.writer.close()
        await peer.writer.wait_closed()

    async with receiving(break_off) as receiver, sending() as sender:
        request = to(f"http://127.0.0.1:{receiver.port}/")
        await sender.send(request)
        result = await sender.send(request)
    assert (result.outcome, receiver.connections) == (Outcome.PROTOCOL, 1)


async def test_bytes_on_an_idle_connection_are_no_response() -> None:
    """Gateways send `408 Request Timeout` before they close an idle connection."""
    dropped = asyncio.Event()

    async def speak_unasked(peer: Peer) -> None:
        await peer.request()
        await peer.answer()
        if peer.number == 1:
            await may_speak.wait()
            await peer.answer(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")
            await peer.hung_up()
            dropped.set()

    may_speak = asyncio.Event()
    async with receiving(speak_unasked) as receiver, sending() as sender:
        request = to(f"http://127.0.0.1:{receiver.port}/")
        await sender.send(request)
        may_speak.set()
        async with asyncio.timeout(5):
            await dropped.wait()
        result = await sender.send(request)
    assert (result.status, receiver.connections) == (200, 2)


async def test_a_second_response_in_one_segment_is_dropped() -> None:
    extra = b"HTTP/1.1 500 Extra\r\nContent-Length: 0\r\n\r\n"
    async with receiving(answering(OK + extra)) as receiver, sending() as sender:
        request = to(f"http://127.0.0.1:{receiver.port}/")
        results = [await sender.send(request) for _ in range(2)]
    assert [result.status for result in results] == [200, 200]
    assert receiver.connections == 2


async def test_a_second_response_after_a_split_first_is_dropped() -> None:
    body_begun = asyncio.Event()

    async def say_too_much(peer: Peer) -> None:
        await peer.request()
        await peer.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no")
        await body_begun.wait()
        await peer.answer(b"kHTTP/1.1 500 Extra\r\nContent-Length: 0\r\n\r\n")
        await peer.hung_up()

    async with receiving(say_too_much) as receiver, sending() as sender:
        request = to(f"http://127.0.0.1:{receiver.port}/")
        attempt = asyncio.create_task(sender.send(request))
        await until(lambda: any(exchange.stage is Stage.BODY for exchange in exchanges(sender)))
        body_begun.set()
        first, second = await attempt, await sender.send(request)
    assert (first.status, first.response_body, second.status) == (200, b"ok", 200)
    assert receiver.connections == 2


async def test_connection_close_is_obeyed() -> None:
    raw = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    async with receiving(answering(raw)) as receiver, sending() as sender:
        for _ in range(2):
            await sender.send(to(f"http://127.0.0.1:{receiver.port}/"))
    assert receiver.connections == 2


async def test_the_checked_address_is_dialled_whatever_dns_returns_next() -> None:
    """DNS rebinding: the second result would be blocked, and the first attempt never uses it."""
    names = Names(rebind_test=[["127.0.0.1"], ["10.0.0.1"]])
    async with receiving() as receiver, sending(names) as sender:
        request = to(f"http://rebind.test:{receiver.port}/")
        first = await sender.send(request)
        assert names.asked == ["rebind.test"]
        second = await sender.send(request)
    assert (first.outcome, first.address) == (Outcome.OK, "127.0.0.1")
    assert second.outcome is Outcome.BLOCKED
    assert len(receiver.requests) == 1


async def test_the_dialler_checks_addresses_itself() -> None:
    """Even if the guard returned a forbidden address, no connection is made."""

    class Fooled(EgressGuard):
        async def resolve(self, _url: EndpointUrl, _deadline: float) -> tuple[CheckedAddress, ...]:
            return (CheckedAddress(ip_address("127.0.0.1"), "127.0.0.1"),)

        def resolve_cached(self, _url: EndpointUrl) -> None:
            pass

    async with receiving() as receiver, sending(guard=Fooled(EgressPolicy(), Names())) as sender:
        result = await sender.send(to(f"http://a.test:{receiver.port}/"))
    assert (result.outcome, result.error) == (Outcome.BLOCKED, "the target is a loopback address")
    assert receiver.connections == 0


@pytest.mark.parametrize(("host", "allow"), [("0.0.0.0", "0.0.0.0/8"), ("[::]", "::/128")])
async def test_a_peer_at_an_unchecked_address_receives_no_bytes(host: str, allow: str) -> None:
    """The kernel connects the unspecified address to loopback, which is not allowed."""
    heard = bytearray()

    async def listen(peer: Peer) -> None:
        heard.extend(await peer.reader.read())

    local = "::1" if host == "[::]" else "127.0.0.1"
    for scheme in ("http", "https"):
        async with receiving(listen, host=local) as receiver, sending(allow=[allow]) as sender:
            result = await sender.send(to(f"{scheme}://{host}:{receiver.port}/"))
            await until(lambda receiver=receiver: receiver.connections == 1)
            await receiver.all_closed()
        assert result.outcome is Outcome.BLOCKED
        assert "not checked" in (result.error or "")
    assert heard == b""


async def test_a_peer_is_checked_by_address_and_port() -> None:
    async with receiving() as receiver:
        with socket.create_connection(("127.0.0.1", receiver.port)) as sock:
            check_peer(sock, ip_address("127.0.0.1"), receiver.port)
            for address, port in (
                ("127.0.0.2", receiver.port),
                ("127.0.0.1", receiver.port + 1),
                ("::1", receiver.port),
            ):
                with pytest.raises(Blocked):
                    check_peer(sock, ip_address(address), port)


async def test_a_peer_that_reset_the_connection_at_once_could_not_be_reached() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as sock:
            accepted, _ = server.accept()
            reset_on_close(accepted)
            accepted.close()
            with pytest.raises(AttemptFailed, match="closed by the receiver") as failed:
                check_peer(sock, ip_address("127.0.0.1"), port)
    assert failed.value.outcome is Outcome.CONNECT


async def test_an_attempt_cancelled_while_its_connection_opens_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    attempts: list[asyncio.Task[AttemptResult]] = []
    opened = ConnectionPool.opened

    def opened_and_cancelled(self: ConnectionPool, connection: Connection) -> None:
        opened(self, connection)
        assert self.in_use == 1
        attempts[-1].cancel()

    monkeypatch.setattr(ConnectionPool, "opened", opened_and_cancelled)
    async with receiving() as receiver, sending() as sender:
        for _ in range(3):
            attempts.append(asyncio.create_task(sender.send(to(f"http://127.0.0.1:{receiver.port}/"))))
            with pytest.raises(asyncio.CancelledError):
                await attempts[-1]
            await receiver.all_closed()
            await until(lambda: sender.in_use == 0)
        assert sender.idle == 0


async def test_an_attempt_that_has_ended_leaves_no_deadline() -> None:
    async with receiving() as receiver, sending() as sender:
        await sender.send(to(f"http://127.0.0.1:{receiver.port}/"))
        assert len(sender._deadlines) == 0
    assert sender._deadlines._timer is None
