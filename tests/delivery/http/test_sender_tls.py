"""TLS to a pinned address: the certificate and the server name are the endpoint's host, never the address."""

import asyncio
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress

import pytest
import trustme

from delivery.http.attempt_contract import Outcome
from delivery.http.certificate_names import matches
from delivery.http.dialling import default_ssl_context
from tests.delivery.http.raw_receiver import Names, Peer, receiving, sending, to

SniLog = list[str | None]


def serving(authority: trustme.CA, *names: str, sni: SniLog | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(*names).configure_cert(context)
    if sni is not None:
        context.sni_callback = lambda _socket, name, _context: sni.append(name)
    return context


def trusting(authority: trustme.CA) -> Callable[[], ssl.SSLContext]:
    def new_context() -> ssl.SSLContext:
        context = default_ssl_context()
        authority.configure_trust(context)
        return context

    return new_context


async def test_sni_certificate_and_host_use_the_endpoint_name(authority: trustme.CA) -> None:
    sni: SniLog = []
    server = serving(authority, "hooks.example", sni=sni)
    names = Names(hooks_example=[["127.0.0.1"]])
    async with receiving(tls=server) as receiver, sending(names, tls=trusting(authority)) as sender:
        result = await sender.send(to(f"https://Hooks.Example:{receiver.port}/x"))

    assert (result.outcome, result.address, result.error) == (Outcome.OK, "127.0.0.1", None)
    assert sni == ["hooks.example"]
    assert b"\r\nHost: hooks.example:%d\r\n" % receiver.port in receiver.requests[0]
    assert result.timings.tls is not None
    assert result.timings.tls > 0


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_a_literal_host_is_checked_against_the_certificates_addresses(
    authority: trustme.CA, host: str
) -> None:
    sni: SniLog = []
    url_host = f"[{host}]" if ":" in host else host
    async with (
        receiving(tls=serving(authority, host, sni=sni), host=host) as receiver,
        sending(tls=trusting(authority)) as sender,
    ):
        result = await sender.send(to(f"https://{url_host}:{receiver.port}/"))
    assert (result.outcome, sni) == (Outcome.OK, [None])


async def test_a_trailing_dot_is_not_part_of_the_name(authority: trustme.CA) -> None:
    sni: SniLog = []
    server = serving(authority, "hooks.example", sni=sni)
    names = Names(hooks_example_=[["127.0.0.1"]])
    async with receiving(tls=server) as receiver, sending(names, tls=trusting(authority)) as sender:
        result = await sender.send(to(f"https://hooks.example.:{receiver.port}/"))
    assert (result.outcome, sni) == (Outcome.OK, ["hooks.example"])


@pytest.mark.parametrize("certified", ["other.example", "127.0.0.1", "*.hooks.example"])
async def test_a_certificate_for_another_host_is_not_accepted(authority: trustme.CA, certified: str) -> None:
    """A certificate for the address is not accepted either: it does not prove the name."""
    names = Names(hooks_example=[["127.0.0.1"]])
    async with (
        receiving(tls=serving(authority, certified)) as receiver,
        sending(names, tls=trusting(authority)) as sender,
    ):
        result = await sender.send(to(f"https://hooks.example:{receiver.port}/"))
    assert result.outcome is Outcome.TLS
    assert (result.error or "").startswith("invalid certificate: ")
    assert "hooks.example" in (result.error or "")
    assert receiver.requests == []


@pytest.mark.parametrize("host", ["a_b.example.com", "_dmarc.example.com", "a_.example.com"])
async def test_a_wildcard_certificate_matches_a_name_with_underscore(
    authority: trustme.CA, host: str
) -> None:
    """OpenSSL alone refuses it; curl and browsers do not."""
    sni: SniLog = []
    server = serving(authority, "*.example.com", sni=sni)
    names = Names()
    names.answers[host] = [["127.0.0.1"]]
    async with receiving(tls=server) as receiver, sending(names, tls=trusting(authority)) as sender:
        results = [await sender.send(to(f"https://{host}:{receiver.port}/")) for _ in range(2)]
    assert [(result.outcome, result.error) for result in results] == [(Outcome.OK, None)] * 2
    assert (sni, receiver.connections) == ([host], 1)
    assert f"\r\nHost: {host}:{receiver.port}\r\n".encode() in receiver.requests[0]


@pytest.mark.parametrize("certified", ["*.example.org", "example.com", "*.b.example.com", "127.0.0.1"])
async def test_a_wrong_certificate_is_refused_for_underscore_names_too(
    authority: trustme.CA, certified: str
) -> None:
    names = Names()
    names.answers["a_b.example.com"] = [["127.0.0.1"]]
    async with (
        receiving(tls=serving(authority, certified)) as receiver,
        sending(names, tls=trusting(authority)) as sender,
    ):
        result = await sender.send(to(f"https://a_b.example.com:{receiver.port}/"))
        await receiver.all_closed()
        assert sender.in_use + sender.idle == 0
    assert result.outcome is Outcome.TLS
    assert result.error == "invalid certificate: it is not for 'a_b.example.com'"
    assert receiver.requests == []


async def test_an_unknown_authority_is_refused_for_a_name_with_an_underscore(authority: trustme.CA) -> None:
    names = Names()
    names.answers["a_b.example.com"] = [["127.0.0.1"]]
    async with (
        receiving(tls=serving(trustme.CA(), "*.example.com")) as receiver,
        sending(names, tls=trusting(authority)) as sender,
    ):
        result = await sender.send(to(f"https://a_b.example.com:{receiver.port}/"))
    assert (result.outcome, receiver.requests) == (Outcome.TLS, [])


async def test_an_underscore_name_does_not_loosen_other_checks(authority: trustme.CA) -> None:
    names = Names()
    names.answers |= {host: [["127.0.0.1"]] for host in ("a_b.example.com", "b.example.org")}
    async with (
        receiving(tls=serving(authority, "*.example.com")) as receiver,
        sending(names, tls=trusting(authority)) as sender,
    ):
        results = [
            await sender.send(to(f"https://{host}:{receiver.port}/"))
            for host in ("a_b.example.com", "b.example.org")
        ]
    assert [result.outcome for result in results] == [Outcome.OK, Outcome.TLS]


def san(*names: str) -> dict[str, object]:
    return {"subjectAltName": tuple(("DNS", name) for name in names)}


@pytest.mark.parametrize(
    ("certificate", "accepted"),
    [
        (san("a_b.example.com"), True),
        (san("A_B.Example.COM"), True),
        (san("other.test", "*.example.com"), True),
        (san("*.example.org"), False),
        (san("*.com"), False),
        (san("*"), False),
        (san("*.*.com"), False),
        (san("a_*.example.com"), False),
        (san("*_b.example.com"), False),
        (san("a_b.example.com\0.evil.test"), False),
        (san("a_b.example.com."), False),
        (san("x.a_b.example.com"), False),
        ({"subjectAltName": (("IP Address", "a_b.example.com"),)}, False),
        ({"subject": ((("commonName", "a_b.example.com"),),)}, False),
        ({}, False),
        (None, False),
    ],
)
def test_which_certificates_match_a_name(certificate: dict[str, object] | None, accepted: bool) -> None:
    assert matches(certificate, "a_b.example.com") is accepted


def test_a_wildcard_needs_two_labels_after_it() -> None:
    assert matches(san("*.example.com"), "a_b.example.com")
    assert not matches(san("*.com"), "a_b.com")
    assert not matches(san("*.example.com"), "x.a_b.example.com")


async def test_an_unknown_authority_is_not_accepted(authority: trustme.CA) -> None:
    async with (
        receiving(tls=serving(trustme.CA(), "127.0.0.1")) as receiver,
        sending(tls=trusting(authority)) as sender,
    ):
        result = await sender.send(to(f"https://127.0.0.1:{receiver.port}/"))
    assert result.outcome is Outcome.TLS
    assert receiver.requests == []


async def test_plain_http_on_an_https_port_is_a_tls_error(authority: trustme.CA) -> None:
    async def greet(peer: Peer) -> None:
        await peer.answer(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await peer.hung_up()

    async with receiving(greet) as receiver, sending(tls=trusting(authority)) as sender:
        result = await sender.send(to(f"https://127.0.0.1:{receiver.port}/"))
    assert (result.outcome, result.status) == (Outcome.TLS, None)


async def test_a_close_during_the_handshake_is_a_tls_error(authority: trustme.CA) -> None:
    async def close(peer: Peer) -> None:
        await peer.reader.read(10)

    async with receiving(close) as receiver, sending(tls=trusting(authority)) as sender:
        result = await sender.send(to(f"https://127.0.0.1:{receiver.port}/"))
    assert result.outcome is Outcome.TLS


def refuse_one_client(listener: socket.socket, context: ssl.SSLContext) -> None:
    """Sends its alert after the client's handshake is complete, like a distant server."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_side=True)
    connection, _ = listener.accept()
    with connection:
        while True:
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                connection.sendall(outgoing.read())
                incoming.write(connection.recv(65536))
            except ssl.SSLError:
                break
        if context.maximum_version is ssl.TLSVersion.TLSv1_3:
            connection.settimeout(0.2)
            with suppress(TimeoutError):  # the request may have come together with the handshake's end
                connection.recv(65536)
            connection.settimeout(None)
        connection.sendall(outgoing.read())
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65536):
            pass


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_server_that_requires_client_certificates_is_a_tls_error(
    authority: trustme.CA, version: ssl.TLSVersion
) -> None:
    """With TLS 1.3 the client sees it only after its handshake is complete."""
    context = serving(authority, "127.0.0.1")
    context.minimum_version = context.maximum_version = version
    context.verify_mode = ssl.CERT_REQUIRED
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = asyncio.create_task(asyncio.to_thread(refuse_one_client, listener, context))
        async with sending(tls=trusting(authority)) as sender:
            result = await sender.send(to(f"https://127.0.0.1:{listener.getsockname()[1]}/"))
        await server
    assert result.outcome is Outcome.TLS
    assert (result.error or "").startswith("TLS failed: ")


def test_old_tls_versions_and_unverified_peers_are_refused() -> None:
    context = default_ssl_context()
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED


async def test_names_on_one_address_do_not_share_a_tls_connection(authority: trustme.CA) -> None:
    """A connection is verified for one name only."""
    sni: SniLog = []
    names = Names(a_test=[["127.0.0.1"]], b_test=[["127.0.0.1"]])
    server = serving(authority, "a.test", sni=sni)
    async with receiving(tls=server) as receiver, sending(names, tls=trusting(authority)) as sender:
        results = [
            await sender.send(to(f"https://{host}:{receiver.port}/"))
            for host in ("a.test", "a.test", "b.test")
        ]
    assert [result.outcome for result in results] == [Outcome.OK, Outcome.OK, Outcome.TLS]
    assert sni == ["a.test", "b.test"]


async def test_plain_and_tls_never_share_a_connection() -> None:
    async with receiving() as receiver, sending(attempt_timeout=0.3) as sender:
        await sender.send(to(f"http://127.0.0.1:{receiver.port}/"))
        result = await sender.send(to(f"https://127.0.0.1:{receiver.port}/"))
    assert result.outcome is not Outcome.OK
    assert (receiver.connections, len(receiver.requests)) == (2, 1)


async def test_tls_connections_are_reused_and_dropped_on_timeout(authority: trustme.CA) -> None:
    async def answer_twice_then_hang(peer: Peer) -> None:
        for _ in range(2):
            await peer.request()
            await peer.answer()
        await peer.request()
        await peer.hung_up()

    async with (
        receiving(answer_twice_then_hang, tls=serving(authority, "127.0.0.1")) as receiver,
        sending(tls=trusting(authority), attempt_timeout=0.5) as sender,
    ):
        request = to(f"https://127.0.0.1:{receiver.port}/")
        results = [await sender.send(request) for _ in range(3)]
        await receiver.all_closed()
    assert [result.outcome for result in results] == [Outcome.OK, Outcome.OK, Outcome.TIMEOUT]
    assert receiver.connections == 1


async def test_an_endless_body_over_tls_is_cut_off(authority: trustme.CA) -> None:
    async def flood(peer: Peer) -> None:
        await peer.request()
        await peer.answer(b"HTTP/1.1 200 OK\r\n\r\n")
        await peer.flood(b"z" * 65536)

    async with (
        receiving(flood, tls=serving(authority, "127.0.0.1")) as receiver,
        sending(tls=trusting(authority)) as sender,
    ):
        async with asyncio.timeout(5):
            result = await sender.send(to(f"https://127.0.0.1:{receiver.port}/"))
            await receiver.all_closed()
    assert (result.outcome, len(result.response_body)) == (Outcome.OK, 4096)
