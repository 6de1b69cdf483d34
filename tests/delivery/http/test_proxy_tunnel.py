"""Delivery through an egress proxy: real sockets and a small real CONNECT proxy."""

import asyncio
import base64
import ssl
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress
from ipaddress import ip_address

import pytest
import trustme

from delivery.http.attempt_contract import AttemptResult, Outcome
from delivery.http.http_sender import HttpSender
from delivery.http.local_faults import LocalFault
from delivery.http.proxy_tunnel import EgressProxy, ProxyTunnel, parse_egress_proxy
from schema.errors import InvalidInput
from tests.delivery.http.hostility import reset
from tests.delivery.http.raw_receiver import (
    Behaviour,
    Names,
    Peer,
    Receiver,
    Silence,
    full_backlog,
    receiving,
    sending,
    to,
    until,
)
from tests.delivery.http.test_sender_tls import SniLog, serving, trusting

PROXY_FAILURE = (Outcome.CONNECT, "the sender's egress proxy failed", True)


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


def connecting(heard: list[bytes]) -> Behaviour:
    """Serves CONNECT like a proxy."""

    async def behave(peer: Peer) -> None:
        head = await peer.reader.readuntil(b"\r\n\r\n")
        heard.append(head)
        host, _, port = head.split()[1].decode().rpartition(":")
        reader, writer = await asyncio.open_connection(host.strip("[]"), int(port))
        await peer.answer(b"HTTP/1.1 200 Connection established\r\nProxy-Agent: little\r\n\r\n")
        try:
            await asyncio.gather(pump(peer.reader, writer), pump(reader, peer.writer))
        finally:
            writer.transport.abort()

    return behave


def through(
    proxy: Receiver,
    names: Names | None = None,
    *,
    allow: str = "127.0.0.0/8",
    tls: Callable[[], ssl.SSLContext] | None = None,
    authorization: str | None = None,
    **limits: float,
) -> AbstractAsyncContextManager[HttpSender]:
    way = EgressProxy("127.0.0.1", proxy.port, authorization)
    return sending(names, allow=[allow], tls=tls, proxy=way, **limits)


async def test_plain_http_goes_through_a_tunnel_to_the_checked_address() -> None:
    heard: list[bytes] = []
    names = Names(hooks_example=[["127.0.0.1"]])
    async with (
        receiving() as receiver,
        receiving(connecting(heard)) as proxy,
        through(proxy, names) as sender,
    ):
        request = to(f"http://hooks.example:{receiver.port}/in")
        results = [await sender.send(request) for _ in range(3)]
    target = b"127.0.0.1:%d" % receiver.port
    assert [result.outcome for result in results] == [Outcome.OK] * 3
    assert results[0].address == "127.0.0.1"
    assert heard == [b"CONNECT " + target + b" HTTP/1.1\r\nHost: " + target + b"\r\n\r\n"]
    assert receiver.requests[0].startswith(b"POST /in HTTP/1.1\r\nHost: hooks.example:")
    assert (proxy.connections, receiver.connections) == (1, 1)


async def test_https_uses_tls_with_the_endpoint_not_the_proxy(authority: trustme.CA) -> None:
    heard: list[bytes] = []
    sni: SniLog = []
    names = Names(hooks_example=[["127.0.0.1"]])
    server = serving(authority, "hooks.example", sni=sni)
    async with (
        receiving(tls=server) as receiver,
        receiving(connecting(heard)) as proxy,
        through(proxy, names, tls=trusting(authority), authorization="Basic c2VjcmV0") as sender,
    ):
        result = await sender.send(to(f"https://hooks.example:{receiver.port}/in"))
    assert (result.outcome, sni) == (Outcome.OK, ["hooks.example"])
    assert b"\r\nProxy-Authorization: Basic c2VjcmV0\r\n" in heard[0]
    assert b"c2VjcmV0" not in receiver.requests[0]
    assert b"hooks.example" not in heard[0]


async def test_a_wrong_certificate_is_refused_through_a_proxy_too(authority: trustme.CA) -> None:
    async with (
        receiving(tls=serving(authority, "other.example")) as receiver,
        receiving(connecting([])) as proxy,
        through(proxy, tls=trusting(authority)) as sender,
    ):
        result = await sender.send(to(f"https://127.0.0.1:{receiver.port}/"))
    assert (result.outcome, receiver.requests) == (Outcome.TLS, [])


async def test_the_guard_checks_the_receiver_and_not_the_proxy() -> None:
    """The proxy is on loopback, which is not allowed here: it is reached, and the receiver is not."""
    heard: list[bytes] = []
    names = Names(inside_example=[["127.0.0.1"]], outside_example=[["192.0.2.7"]])
    refusing = answering_with(b"HTTP/1.1 502 Bad Gateway\r\n\r\n", heard)
    async with receiving(refusing) as proxy, through(proxy, names, allow="192.0.2.0/24") as sender:
        blocked = await sender.send(to("http://inside.example/"))
        refused = await sender.send(to("http://outside.example/"))
    assert (blocked.outcome, refused.outcome) == (Outcome.BLOCKED, Outcome.CONNECT)
    assert [head.split()[1] for head in heard] == [b"192.0.2.7:80"]


def answering_with(raw: bytes, heard: list[bytes] | None = None) -> Behaviour:
    async def behave(peer: Peer) -> None:
        head = await peer.reader.readuntil(b"\r\n\r\n")
        if heard is not None:
            heard.append(head)
        await peer.answer(raw)
        await peer.hung_up()

    return behave


async def proxied(behave: Behaviour, **limits: float) -> AttemptResult:
    async with receiving(behave) as proxy, through(proxy, **limits) as sender:
        result = await sender.send(to("http://127.0.0.1:9/"))
        await until(lambda: sender.in_use + sender.idle == 0)
        await proxy.all_closed()
    return result


@pytest.mark.parametrize(
    ("raw", "error"),
    [
        (b"HTTP/1.1 403 Forbidden\r\n\r\n", "the egress proxy does not allow this destination (403)"),
        (b"HTTP/1.0 502 Bad Gateway\r\n\r\n<html>", "the egress proxy could not connect (502)"),
    ],
)
async def test_a_proxy_that_cannot_reach_the_endpoint_is_a_connect_error(raw: bytes, error: str) -> None:
    result = await proxied(answering_with(raw))
    assert (result.outcome, result.status, result.error) == (Outcome.CONNECT, None, error)
    assert not result.local_fault


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n", "it rejected its credentials (407)"),
        (b"HTTP/1.1 302 Found\r\nLocation: http://x/\r\n\r\n", "it refused (302)"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", "it refused (100)"),
        (b"SOCKS?\r\n\r\n", "invalid HTTP response"),
        (b"HTTP/1.1 200\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", "it sent unexpected data"),
        (b"HTTP/1.1 200 OK\r\n\r\nx", "it sent unexpected data"),
    ],
)
async def test_a_proxy_failure_is_a_local_fault_logged_once(
    caplog: pytest.LogCaptureFixture, raw: bytes, reason: str
) -> None:
    async with (
        receiving(answering_with(raw)) as proxy,
        through(proxy, authorization="Basic c2VjcmV0") as sender,
    ):
        results = [await sender.send(to("http://127.0.0.1:9/")) for _ in range(2)]
    for result in results:
        assert (result.outcome, result.error, result.local_fault) == PROXY_FAILURE
    assert caplog.messages == [f"the egress proxy failed: {reason}"]


@pytest.mark.parametrize("status", [502, 503, 504])
async def test_the_next_address_is_tried_when_the_proxy_cannot_connect(status: int) -> None:
    heard: list[bytes] = []
    connect = connecting(heard)

    async def behave(peer: Peer) -> None:
        if peer.number == 1:
            await answering_with(b"HTTP/1.1 %d No\r\n\r\n" % status, heard)(peer)
        await connect(peer)

    names = Names(hooks_example=[["127.0.0.2", "127.0.0.3"]])
    async with (
        receiving(host="127.0.0.3") as receiver,
        receiving(behave) as proxy,
        through(proxy, names) as sender,
    ):
        results = [await sender.send(to(f"http://hooks.example:{receiver.port}/")) for _ in range(2)]
    assert {(result.outcome, result.address) for result in results} == {(Outcome.OK, "127.0.0.3")}
    port = b"%d" % receiver.port
    assert [head.split()[1] for head in heard] == [b"127.0.0.2:" + port, b"127.0.0.3:" + port]
    assert receiver.connections == 1


async def test_an_error_counts_the_addresses_the_proxy_cannot_reach() -> None:
    names = Names(hooks_example=[["127.0.0.2", "127.0.0.3"]])
    refusing = answering_with(b"HTTP/1.1 504 Gateway Timeout\r\n\r\n")
    async with receiving(refusing) as proxy, through(proxy, names) as sender:
        result = await sender.send(to("http://hooks.example/"))
    assert (result.outcome, result.address, result.local_fault) == (Outcome.CONNECT, "127.0.0.3", False)
    assert result.error == "the egress proxy could not connect in time (504); 2 addresses tried"


async def test_a_proxy_failure_is_not_repeated_for_each_address() -> None:
    names = Names(hooks_example=[["127.0.0.2", "127.0.0.3"]])
    async with (
        receiving(answering_with(b"HTTP/1.1 407 No\r\n\r\n")) as proxy,
        through(proxy, names) as sender,
    ):
        result = await sender.send(to("http://hooks.example/"))
    assert (result.outcome, result.error, result.local_fault) == PROXY_FAILURE
    assert proxy.connections == 1


async def test_a_proxy_is_reached_by_its_third_address() -> None:
    heard: list[bytes] = []
    async with (
        receiving() as receiver,
        receiving(connecting(heard), host="127.0.0.4") as proxy,
        full_backlog("127.0.0.3", proxy.port),
    ):
        names = Names(proxy_internal=[["127.0.0.2", "127.0.0.3", "127.0.0.4"]])
        tunnel = ProxyTunnel(EgressProxy("proxy.internal", proxy.port), names)
        until = asyncio.get_running_loop().time() + 2
        sock = await tunnel.open(ip_address("127.0.0.1"), receiver.port, until)
        sock.close()
    assert len(heard) == 1


async def test_a_proxy_name_uses_the_resolver_of_endpoints() -> None:
    """The worker closes that resolver when it stops."""
    heard: list[bytes] = []
    names = Names(proxy_internal=[["127.0.0.1"]], hooks_example=[["127.0.0.1"]])
    async with receiving() as receiver, receiving(connecting(heard)) as proxy:
        way = EgressProxy("proxy.internal", proxy.port)
        async with sending(names, proxy=way) as sender:
            result = await sender.send(to(f"http://hooks.example:{receiver.port}/"))
    assert (result.outcome, len(heard)) == (Outcome.OK, 1)
    assert names.asked == ["hooks.example", "proxy.internal"]


async def test_a_proxy_name_that_does_not_resolve_is_a_local_fault(caplog: pytest.LogCaptureFixture) -> None:
    tunnel = ProxyTunnel(EgressProxy("proxy.internal", 3128), Names())
    with pytest.raises(LocalFault):
        await tunnel.open(ip_address("192.0.2.7"), 80, asyncio.get_running_loop().time() + 5)
    assert caplog.messages == [
        "the egress proxy failed: its name does not resolve: name or service not known"
    ]


async def test_a_proxy_that_times_out_is_a_local_fault(caplog: pytest.LogCaptureFixture) -> None:
    tunnel = ProxyTunnel(EgressProxy("proxy.internal", 3128), Silence())
    with pytest.raises(LocalFault):
        await tunnel.open(ip_address("192.0.2.7"), 80, asyncio.get_running_loop().time() + 0.01)
    assert caplog.messages == ["the egress proxy failed: timed out connecting to it"]


async def test_a_proxy_that_closes_floods_or_resets_is_a_local_fault(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def hang_up(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")

    async def flood(peer: Peer) -> None:
        await peer.answer(b"HTTP/1.1 200 OK\r\n")
        await peer.flood(b"X: y\r\n" * 512)

    async def slam(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        reset(peer)

    for behave in (hang_up, flood, slam):
        result = await proxied(behave)
        assert (result.outcome, result.error, result.local_fault) == PROXY_FAILURE
    assert "longer than" in caplog.messages[1]


@pytest.mark.parametrize("limits", [{"connect_timeout": 0.2}, {"attempt_timeout": 0.2}], ids=str)
async def test_a_silent_proxy_ends_at_the_shorter_timeout(limits: dict[str, float]) -> None:
    async def silent(peer: Peer) -> None:
        await peer.hung_up()

    result = await proxied(silent, **limits)
    assert (result.outcome, result.error) == (Outcome.TIMEOUT, "timed out waiting for the TCP connection")
    assert result.timings.total < 2000


async def test_a_missing_proxy_is_a_local_fault(caplog: pytest.LogCaptureFixture) -> None:
    async with receiving() as gone:
        pass
    async with through(gone) as sender:
        result = await sender.send(to("http://127.0.0.1:9/"))
    assert (result.outcome, result.error, result.local_fault) == PROXY_FAILURE
    assert caplog.messages == ["the egress proxy failed: cannot connect to it: connection refused"]


async def test_responses_through_a_tunnel_are_judged_the_same() -> None:
    raw = b"HTTP/1.1 200 OK\r\n\r\n" + b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n"

    async def pretend(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        await peer.answer(raw[:19])
        await peer.request()
        await peer.answer(raw[19:])

    assert (await proxied(pretend)).status == 500


def basic(pair: str) -> str:
    return "Basic " + base64.b64encode(pair.encode()).decode()


@pytest.mark.parametrize(
    ("text", "proxy"),
    [
        ("http://proxy.internal:3128", EgressProxy("proxy.internal", 3128)),
        ("http://10.0.0.1:8080/", EgressProxy("10.0.0.1", 8080)),
        ("http://[fd00::1]:3128", EgressProxy("fd00::1", 3128)),
        ("http://duro:p%40ss%3Aw@proxy:3128", EgressProxy("proxy", 3128, basic("duro:p@ss:w"))),
        ("http://duro:@proxy:3128", EgressProxy("proxy", 3128, basic("duro:"))),
    ],
)
def test_a_proxy_url_is_parsed(text: str, proxy: EgressProxy) -> None:
    assert parse_egress_proxy(text) == proxy


@pytest.mark.parametrize(
    "text",
    [
        "",
        "proxy:3128",
        "https://proxy:3128",
        "socks5://proxy:1080",
        "http://proxy",
        "http://proxy:0",
        "http://proxy:65536",
        "http://proxy:3128/path",
        "http://proxy:3128?hunter2",
        "http://hunter2@proxy:3128",
        "http://:hunter2@proxy:3128",
        "http://a%3Ab:hunter2@proxy:3128",
        "http://a:hunter2@proxy:3128\r\nX: y",
        "http://a:hunter2ü@proxy:3128",
    ],
)
def test_an_invalid_proxy_url_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"^The egress proxy's URL ") as refused:
        parse_egress_proxy(text)
    assert "hunter2" not in str(refused.value)


def test_credentials_are_not_shown() -> None:
    assert "Basic" not in repr(parse_egress_proxy("http://duro:hunter2@proxy:3128"))
