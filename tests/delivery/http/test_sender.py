"""What one attempt sends, and how it reads the response."""

import asyncio
import gzip
import logging
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address

import pytest

from delivery.http.attempt_contract import Outcome
from tests.delivery.http.raw_receiver import (
    OK,
    Behaviour,
    Names,
    Peer,
    answering,
    receiving,
    sending,
    to,
    until,
)


async def test_exactly_the_given_headers_are_sent_in_order() -> None:
    async with receiving() as receiver, sending(Names(hooks_example=[["127.0.0.1"]])) as sender:
        request = to(
            f"http://hooks.example:{receiver.port}/in/%7Bx%7D?q=a%20b&c[]=ü",
            ("X-B", "2"),
            ("X-A", "1"),
            body=b"{}",
        )
        result = await sender.send(request)

    assert result.outcome is Outcome.OK
    assert receiver.requests == [
        b"POST /in/%7Bx%7D?q=a%20b&c%5B%5D=%C3%BC HTTP/1.1\r\n"
        b"Host: hooks.example:" + str(receiver.port).encode() + b"\r\n"
        b"X-B: 2\r\n"
        b"X-A: 1\r\n"
        b"Content-Type: application/json\r\n"
        b"Content-Length: 2\r\n"
        b"\r\n"
        b"{}"
    ]


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_literal_addresses_of_both_families_are_reached(host: str) -> None:
    shown = f"[{host}]" if ":" in host else host
    async with receiving(host=host) as receiver, sending() as sender:
        result = await sender.send(to(f"http://{shown}:{receiver.port}/"))

    assert (result.outcome, result.address) == (Outcome.OK, host)
    assert f"Host: {shown}:{receiver.port}\r\n".encode() in receiver.requests[0]


@pytest.mark.parametrize("label", ["a_b", "_hooks", "a-", "A_B", "9", "xn--bcher-kva", "a" * 63])
async def test_names_valid_in_dns_are_reached_and_sent_as_host(label: str) -> None:
    async with receiving() as receiver, sending() as sender:
        result = await sender.send(to(f"http://{label}.localhost:{receiver.port}/"))
    assert (result.outcome, result.address) == (Outcome.OK, "127.0.0.1")
    assert f"Host: {label.lower()}.localhost:{receiver.port}\r\n".encode() in receiver.requests[0]


async def test_a_result_has_status_address_body_and_timings() -> None:
    raw = b"HTTP/1.1 503 Busy\r\nRetry-After: 120\r\nContent-Length: 4\r\n\r\nbusy"
    async with receiving(answering(raw)) as receiver, sending(Names(a_test=[["127.0.0.1"]])) as sender:
        result = await sender.send(to(f"http://a.test:{receiver.port}/"))

    assert (result.outcome, result.status, result.error) == (Outcome.HTTP_STATUS, 503, "HTTP status 503")
    assert (result.retry_after, result.response_body, result.address) == ("120", b"busy", "127.0.0.1")
    parts = (result.timings.dns, result.timings.connect, result.timings.first_byte)
    assert all(part is not None and part >= 0 for part in parts)
    assert result.timings.tls is None
    assert result.timings.total >= sum(part or 0 for part in parts) > 0


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
async def test_every_2xx_is_success(status: int) -> None:
    length = "" if status == 204 else "Content-Length: 0\r\n"
    raw = f"HTTP/1.1 {status} Fine\r\n{length}\r\n".encode()
    async with receiving(answering(raw)) as receiver, sending() as sender:
        result = await sender.send(to(f"http://127.0.0.1:{receiver.port}/"))
    assert (result.outcome, result.status, result.error) == (Outcome.OK, status, None)


@pytest.mark.parametrize("status", [300, 304, 400, 401, 404, 410, 429, 500, 599])
async def test_other_statuses_are_failures(status: int) -> None:
    raw = f"HTTP/1.1 {status} No\r\nContent-Length: 0\r\n\r\n".encode()
    async with receiving(answering(raw)) as receiver, sending() as sender:
        result = await sender.send(to(f"http://127.0.0.1:{receiver.port}/"))
    assert (result.outcome, result.status) == (Outcome.HTTP_STATUS, status)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_reported_and_not_followed(status: int) -> None:
    async with receiving() as elsewhere:
        raw = (
            f"HTTP/1.1 {status} Moved\r\nLocation: http://127.0.0.1:{elsewhere.port}/\r\nContent-Length: 0\r\n\r\n"
        ).encode()
        async with receiving(answering(raw)) as receiver, sending() as sender:
            result = await sender.send(to(f"http://127.0.0.1:{receiver.port}/"))

    assert (result.outcome, result.status) == (Outcome.HTTP_STATUS, status)
    assert (len(receiver.requests), elsewhere.connections) == (1, 0)


async def test_interim_responses_are_skipped() -> None:
    raw = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + OK
    async with receiving(answering(raw)) as receiver, sending() as sender:
        result = await sender.send(to(f"http://127.0.0.1:{receiver.port}/"))
    assert (result.outcome, result.status, result.response_body) == (Outcome.OK, 200, b"ok")


async def test_101_is_a_protocol_error_and_ends_the_connection() -> None:
    raw = b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"
    async with receiving(answering(raw)) as receiver, sending() as sender:
        result = await sender.send(to(f"http://127.0.0.1:{receiver.port}/"))
        await receiver.all_closed()
    assert (result.outcome, result.status) == (Outcome.PROTOCOL, 101)
    assert result.error == "unexpected status 101"


async def test_cookies_are_neither_kept_nor_returned() -> None:
    async def set_cookie(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.answer(b"HTTP/1.1 200 OK\r\nSet-Cookie: a=b; Path=/\r\nContent-Length: 0\r\n\r\n")

    async with receiving(set_cookie) as receiver, sending(Names(a_test=[["127.0.0.1"]])) as sender:
        for _ in range(2):
            await sender.send(to(f"http://a.test:{receiver.port}/"))
    assert len(receiver.requests) == 2
    assert b"cookie" not in receiver.requests[1].lower()


async def test_proxies_and_netrc_of_the_environment_are_not_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    netrc = tmp_path_factory.mktemp("netrc") / "netrc"
    netrc.write_text("default login me password secret\n")
    netrc.chmod(0o600)
    async with receiving() as proxy, receiving() as receiver:
        for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        monkeypatch.setenv("NETRC", str(netrc))
        async with sending() as sender:
            result = await sender.send(to(f"http://127.0.0.1:{receiver.port}/"))
    assert (result.outcome, proxy.connections) == (Outcome.OK, 0)
    assert b"authorization" not in receiver.requests[0].lower()


async def test_a_compressed_body_is_kept_as_received() -> None:
    packed = gzip.compress(b"a" * 1_000_000)
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {len(packed)}\r\n\r\n".encode()
    async with receiving(answering(head + packed)) as receiver, sending() as sender:
        result = await sender.send(to(f"http://127.0.0.1:{receiver.port}/"))
    assert (result.outcome, result.response_body) == (Outcome.OK, packed)


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"


async def test_a_chunked_body_is_joined() -> None:
    async with receiving(answering(CHUNKED)) as receiver, sending() as sender:
        result = await sender.send(to(f"http://127.0.0.1:{receiver.port}/"))
    assert (result.outcome, result.response_body) == (Outcome.OK, b"abcde")


async def test_the_first_4_kib_of_a_body_are_kept() -> None:
    raw = b"HTTP/1.1 500 No\r\nContent-Length: 6000\r\n\r\n" + b"x" * 4000 + b"y" * 2000
    async with receiving(answering(raw)) as receiver, sending() as sender:
        result = await sender.send(to(f"http://127.0.0.1:{receiver.port}/"))
    assert result.response_body == b"x" * 4000 + b"y" * 96


async def endless_body(peer: Peer) -> None:
    await peer.request()
    await peer.answer(b"HTTP/1.1 200 OK\r\n\r\n")
    await peer.flood(b"z" * 65536)


async def endless_chunks(peer: Peer) -> None:
    await peer.request()
    await peer.answer(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    await peer.flood(b"1000\r\n" + b"z" * 4096 + b"\r\n")


@pytest.mark.parametrize("behave", [endless_body, endless_chunks])
async def test_an_endless_body_is_cut_off_and_the_status_counts(behave: object) -> None:
    async with receiving(behave) as receiver, sending() as sender:
        result = await sender.send(to(f"http://127.0.0.1:{receiver.port}/"))
        await receiver.all_closed()
    assert (result.outcome, result.status, len(result.response_body)) == (Outcome.OK, 200, 4096)


async def one_endless_header(peer: Peer) -> None:
    await peer.request()
    await peer.answer(b"HTTP/1.1 200 OK\r\nX: ")
    await peer.flood(b"a" * 4096)


async def endless_headers(peer: Peer) -> None:
    await peer.request()
    await peer.answer(b"HTTP/1.1 200 OK\r\n")
    await peer.flood(b"X-Header: value\r\n" * 16)


async def endless_status_line(peer: Peer) -> None:
    await peer.request()
    await peer.answer(b"HTTP/1.1 200 ")
    await peer.flood(b"O" * 4096)


async def endless_interim_responses(peer: Peer) -> None:
    await peer.request()
    await peer.flood(b"HTTP/1.1 100 Continue\r\n\r\n" * 64)


@pytest.mark.parametrize(
    ("behave", "status"),
    [
        (one_endless_header, 200),
        (endless_headers, 200),
        (endless_status_line, None),
        (endless_interim_responses, None),
    ],
)
async def test_endless_headers_end_the_attempt_before_its_deadline(
    behave: Behaviour, status: int | None
) -> None:
    async with receiving(behave) as receiver, sending() as sender:
        result = await sender.send(to(f"http://127.0.0.1:{receiver.port}/"))
        await receiver.all_closed()
    assert result.status == status
    assert result.outcome is (Outcome.PROTOCOL if status is None else Outcome.OK)
    assert result.timings.total < 5000


async def test_a_closed_port_is_a_connect_error() -> None:
    async with receiving() as receiver:
        port = receiver.port
    async with sending() as sender:
        result = await sender.send(to(f"http://127.0.0.1:{port}/"))
    assert (result.outcome, result.error) == (Outcome.CONNECT, "connection refused")


async def test_a_name_that_does_not_resolve_is_a_dns_error() -> None:
    async with sending(Names()) as sender:
        result = await sender.send(to("https://nowhere.test/"))
    assert (result.outcome, result.error, result.address) == (Outcome.DNS, "name or service not known", None)


async def test_an_unread_request_does_not_keep_its_connection() -> None:
    """`close` would wait for the receiver to read. The body is larger than the kernel buffers."""
    result_is_in = asyncio.Event()

    async def never_read(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        await peer.answer(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
        await result_is_in.wait()

    async with receiving(never_read) as receiver, sending() as sender:
        result = await sender.send(to(f"http://127.0.0.1:{receiver.port}/", body=b"x" * 16_000_000))
        await until(lambda: sender.in_use + sender.idle == 0)
        result_is_in.set()
    assert (result.outcome, result.status) == (Outcome.HTTP_STATUS, 413)


async def test_an_unexpected_error_is_a_result_and_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken:
        async def resolve(self, *_: object) -> Sequence[IPv4Address | IPv6Address]:
            raise ZeroDivisionError

        def cached(self, _host: str) -> None:
            pass

    async with sending(Broken()) as sender:
        with caplog.at_level(logging.ERROR):
            result = await sender.send(to("https://hooks.example/token"))
    assert (result.outcome, result.error) == (Outcome.PROTOCOL, "internal error (ZeroDivisionError)")
    assert "ZeroDivisionError" in caplog.text
    assert "token" not in caplog.text


async def test_reprs_show_neither_headers_nor_bodies_nor_the_path() -> None:
    request = to("https://hooks.example/secret-1", ("Authorization", "secret-2"), body=b"secret-3")
    assert "secret" not in repr(request)
    async with (
        receiving(answering(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecret")) as receiver,
        sending() as sender,
    ):
        assert "secret" not in repr(await sender.send(to(f"http://127.0.0.1:{receiver.port}/")))


async def test_concurrent_attempts_do_not_mix() -> None:
    async def echo(peer: Peer) -> None:
        while True:
            body = (await peer.request()).partition(b"\r\n\r\n")[2]
            await peer.answer(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    async with receiving(echo) as receiver, sending() as sender:
        bodies = [str(n).encode() for n in range(80)]
        results = await asyncio.gather(
            *(sender.send(to(f"http://127.0.0.1:{receiver.port}/", body=body)) for body in bodies)
        )
    assert [result.response_body for result in results] == bodies
