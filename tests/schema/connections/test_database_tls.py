"""TLS on real sockets: each sslmode connects as documented, or gives one sentence with the cause."""

import datetime as dt
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from schema.connections.database import connect_as_owner
from schema.errors import Unavailable
from tests.support.servers.databases import Cluster
from tests.support.servers.directories import temporary_directory
from tests.support.servers.pgbouncer import needs_pgbouncer, pgbouncer
from tests.support.servers.tls_front import TlsFront, tls_front

NOW = dt.datetime.now(dt.UTC)
AUTHORITY = trustme.CA()


@pytest.fixture
def owner_url(cluster: Cluster) -> str:
    return cluster.server.owner_url


@pytest.fixture
def trusted(tmp_path: Path) -> str:
    file = tmp_path / "authority.pem"
    AUTHORITY.cert_pem.write_to_path(str(file))
    return f"sslrootcert={file}"


@pytest.fixture
async def server(owner_url: str) -> AsyncIterator[TlsFront]:
    """Has a certificate for localhost, not for 127.0.0.1."""
    async with tls_front(owner_url, serving(AUTHORITY.issue_cert("localhost"))) as server:
        yield server


def serving(certificate: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


async def encrypted(server: TlsFront, parameters: str, host: str = "localhost") -> bool:
    owner = await connect_as_owner(server.url(parameters, host))
    await owner.close()
    return server.logins[-1]


async def refusal(url: str) -> str:
    with pytest.raises(Unavailable) as caught:
        await connect_as_owner(url)
    assert caught.value.__cause__ is None
    assert str(urlsplit(url).password) not in str(caught.value)
    return str(caught.value)


async def test_each_tls_mode_connects_as_documented(server: TlsFront, trusted: str, tmp_path: Path) -> None:
    full = f"sslmode=verify-full&{trusted}"
    wanted = {
        "sslmode=disable": False,
        "sslmode=allow": True,
        "sslmode=prefer": True,
        "": True,
        "sslmode=require": True,
        f"sslmode=require&{trusted}": True,
        f"sslmode=verify-ca&{trusted}": True,
        full: True,
        f"channel_binding=require&{trusted}": True,
        f"{full}&ssl_min_protocol_version=TLSv1.3": True,
        f"{full}&ssl_max_protocol_version=TLSv1.2": True,
    }
    assert {parameters: await encrypted(server, parameters) for parameters in wanted} == wanted


async def test_system_authorities_are_used_without_a_file(
    server: TlsFront, trusted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for parameters in (
        "sslmode=verify-full",
        "sslrootcert=system",
        "sslmode=require&channel_binding=require",
    ):
        assert "untrusted authority" in await refusal(server.url(parameters))
    monkeypatch.setenv("SSL_CERT_FILE", trusted.partition("=")[2])
    for parameters in (
        "sslmode=verify-full",
        "sslrootcert=system",
        "sslmode=require&channel_binding=require",
    ):
        assert await encrypted(server, parameters)


async def test_only_verify_full_refuses_another_name(server: TlsFront, trusted: str, tmp_path: Path) -> None:
    full = server.url(f"sslmode=verify-full&{trusted}", "127.0.0.1")
    assert "has a certificate for another name: name the host as its certificate does" in await refusal(full)
    assert await encrypted(server, f"sslmode=verify-ca&{trusted}", "127.0.0.1")


async def test_an_unknown_authority_is_refused_when_verified(
    server: TlsFront, trusted: str, tmp_path: Path
) -> None:
    other = write(tmp_path / "other.pem", trustme.CA().cert_pem.bytes())
    for mode in ("require", "verify-ca", "verify-full"):
        said = await refusal(server.url(f"sslmode={mode}&sslrootcert={other}"))
        assert "untrusted authority" in said
        assert "start it" not in said
    assert await encrypted(server, f"sslmode=prefer&sslrootcert={other}")


async def test_an_expired_certificate_is_reported(server: TlsFront, trusted: str, tmp_path: Path) -> None:
    past = NOW - dt.timedelta(days=2)
    expired = AUTHORITY.issue_cert("localhost", not_before=past - dt.timedelta(days=1), not_after=past)
    server.context = serving(expired)
    said = await refusal(server.url(f"sslmode=verify-full&{trusted}"))
    assert "not valid now" in said
    assert "renew it" in said
    assert await encrypted(server, "sslmode=require")


async def test_a_revoked_certificate_is_reported(server: TlsFront, trusted: str, tmp_path: Path) -> None:
    certificate = AUTHORITY.issue_cert("localhost")
    server.context = serving(certificate)
    leaf = x509.load_pem_x509_certificate(certificate.cert_chain_pems[0].bytes())
    other = AUTHORITY.issue_cert("other.example")
    unrelated = x509.load_pem_x509_certificate(other.cert_chain_pems[0].bytes())
    good = write(tmp_path / "good.crl", revocations(AUTHORITY, unrelated.serial_number))
    bad = write(tmp_path / "bad.crl", revocations(AUTHORITY, leaf.serial_number))
    verified = f"sslmode=verify-full&{trusted}"
    assert await encrypted(server, f"{verified}&sslcrl={good}")
    assert "was revoked: give the server a new one" in await refusal(server.url(f"{verified}&sslcrl={bad}"))
    foreign = write(tmp_path / "foreign.crl", revocations(trustme.CA(), 1))
    assert "sslcrl does not cover" in await refusal(server.url(f"{verified}&sslcrl={foreign}"))


def revocations(authority: trustme.CA, serial: int) -> bytes:
    issuer = x509.load_pem_x509_certificate(authority.cert_pem.bytes())
    entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(NOW).build()
    made = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.subject)
        .last_update(NOW - dt.timedelta(days=1))
        .next_update(NOW + dt.timedelta(days=1))
        .add_revoked_certificate(entry)
        .sign(load_pem_private_key(authority.private_key_pem.bytes(), None), hashes.SHA256())
    )
    return made.public_bytes(Encoding.PEM)


async def test_a_client_certificate_is_sent_on_request(
    server: TlsFront, trusted: str, tmp_path: Path
) -> None:
    assert server.context is not None
    AUTHORITY.configure_trust(server.context)
    server.context.verify_mode = ssl.CERT_OPTIONAL
    server.asks_for_certificate = True
    client = AUTHORITY.issue_cert("client@example.com")
    chain = write(tmp_path / "client.pem", b"".join(blob.bytes() for blob in client.cert_chain_pems))
    key = write(tmp_path / "client.key", client.private_key_pem.bytes())
    sealed = load_pem_private_key(client.private_key_pem.bytes(), None).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"open sesame")
    )
    sealed_key = write(tmp_path / "sealed.key", sealed)
    assert await encrypted(server, f"sslmode=require&sslcert={chain}&sslkey={key}")
    with_password = f"sslmode=require&sslcert={chain}&sslkey={sealed_key}&sslpassword="
    assert await encrypted(server, f"{with_password}open%20sesame")
    said = await refusal(server.url("sslmode=require"))
    assert "requires a valid client certificate): set sslcert and sslkey" in said
    assert "sslcert or sslkey in DURO_DATABASE_URL cannot be used" in await refusal(
        server.url(f"{with_password}wrong")
    )


async def test_unusable_files_are_reported(server: TlsFront, trusted: str, tmp_path: Path) -> None:
    empty = write(tmp_path / "empty.pem", b"")
    for parameters, said in {
        "sslmode=verify-full&sslrootcert=/nowhere/ca.pem": "sslrootcert in DURO_DATABASE_URL cannot be used (/nowhere/ca.pem: No such",
        f"sslmode=verify-full&sslrootcert={empty}": "no usable certificate",
        f"sslmode=verify-full&{trusted}&sslcrl=/nowhere/crl": "sslcrl in DURO_DATABASE_URL cannot be used",
        "sslmode=prefer&sslcert=/nowhere/c&sslkey=/nowhere/k": "sslcert or sslkey in DURO_DATABASE_URL cannot be used",
    }.items():
        assert said in await refusal(server.url(parameters))


async def test_prefer_falls_back_when_the_server_refuses_tls(
    server: TlsFront, trusted: str, tmp_path: Path
) -> None:
    server.only = "plain"
    assert not await encrypted(server, "")
    said = await refusal(server.url("sslmode=require"))
    assert "does not let this host log in" in said
    assert "pg_hba.conf" in said


async def test_a_server_that_requires_tls_is_reported(server: TlsFront, trusted: str, tmp_path: Path) -> None:
    server.only = "tls"
    assert await encrypted(server, "")
    assert "set sslmode=require if it requires TLS" in await refusal(server.url("sslmode=disable"))


@needs_pgbouncer
async def test_no_common_tls_version_is_reported(cluster: Cluster, owner_url: str) -> None:
    with temporary_directory() as place:
        certificate = AUTHORITY.issue_cert("localhost")
        key = write(place / "key", certificate.private_key_pem.bytes())
        chain = write(place / "chain", certificate.cert_chain_pems[0].bytes())
        tls = {"client_tls_sslmode": "require", "client_tls_key_file": key, "client_tls_cert_file": chain}
        async with pgbouncer(cluster, "session", client_tls_protocols="tlsv1.3", **tls) as pooler:
            url = pooler.url(owner_url).partition("?")[0]
            await (await connect_as_owner(f"{url}?sslmode=require")).close()
            said = await refusal(f"{url}?sslmode=require&ssl_max_protocol_version=TLSv1.2")
    assert "refuses the TLS settings" in said
    assert "start it" not in said


async def test_a_server_without_tls_is_used_only_when_allowed(server: TlsFront) -> None:
    server.context = None
    for parameters in ("", "sslmode=allow", "sslmode=prefer"):
        assert not await encrypted(server, parameters)
    for mode in ("require", "verify-ca", "verify-full"):
        assert "has no TLS: turn on ssl" in await refusal(server.url(f"sslmode={mode}"))


async def test_the_embedded_server_has_no_tls(owner_url: str) -> None:
    """Its URL says so, because other programs would request TLS."""
    assert owner_url.endswith("?sslmode=disable")
    plain = owner_url.partition("?")[0]
    assert "has no TLS" in await refusal(f"{plain}?sslmode=require")
    await (await connect_as_owner(plain)).close()
