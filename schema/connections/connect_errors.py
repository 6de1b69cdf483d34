"""The driver's errors on the way into the database, as sentences that an operator can act on."""

import errno
import re
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, TypeAlias

import asyncpg

from schema.connections.connecting import HostsFailed, NotWritable
from schema.connections.database_target import DatabaseTarget
from schema.connections.tls import UnusableFile
from schema.errors import Unavailable

Test: TypeAlias = Callable[[Exception], bool]


def _is(*types: type[BaseException]) -> Test:
    return lambda error: isinstance(error, types)


def _says(text: str) -> Test:
    return lambda error: text in str(error)


def _has_number(*numbers: int) -> Test:
    return lambda error: isinstance(error, OSError) and _errno(error) in numbers


def _has_certificate_fault(*codes: int) -> Test:
    """OpenSSL's X509_V_ERR_…, from x509_vfy.h."""
    return lambda error: isinstance(error, ssl.SSLCertVerificationError) and error.verify_code in codes


def _either(*tests: Test) -> Test:
    return lambda error: any(test(error) for test in tests)


# What is wrong and what to do, by the first test that fits. {said}: the error's own words.
_TROUBLES: Final[tuple[tuple[Test, str, str], ...]] = (
    (
        _has_certificate_fault(62, 63, 64),
        "has a certificate for another name",
        "name the host as its certificate does, or use sslmode=verify-ca with sslrootcert",
    ),
    (
        _has_certificate_fault(9, 10),
        "has a certificate that is not valid now ({said})",
        "renew it, or set the clock here",
    ),
    (_has_certificate_fault(23), "has a certificate that was revoked", "give the server a new one"),
    (
        _has_certificate_fault(3),
        "has a certificate that sslcrl does not cover ({said})",
        "give the lists of all its authorities",
    ),
    (
        _is(ssl.SSLCertVerificationError),
        "has a certificate of an authority that is not trusted here ({said})",
        "name the file with the authority's certificate as sslrootcert in DURO_DATABASE_URL",
    ),
    (
        _is(NotWritable),
        "does not accept writes (a standby, or read-only)",
        "name the primary in DURO_DATABASE_URL",
    ),
    (
        _is(socket.gaierror),
        "has a host name that DNS does not resolve ({said})",
        "correct DURO_DATABASE_URL, or the DNS",
    ),
    (
        _is(ssl.SSLError),
        "refuses TLS as it is set here ({said})",
        "correct the ssl… parameters in DURO_DATABASE_URL",
    ),
    (
        _says("rejected SSL upgrade"),
        "has no TLS",
        "turn on ssl in postgresql.conf, or set sslmode=disable where the network is trusted",
    ),
    (
        _either(_is(TimeoutError), _has_number(errno.ETIMEDOUT)),
        "did not answer within {limit:.0f} s",
        "see whether its host is up and a firewall is in the way, or correct DURO_DATABASE_URL",
    ),
    (
        _has_number(errno.ECONNREFUSED),
        "cannot be reached (nothing listens there)",
        "start it, or correct DURO_DATABASE_URL",
    ),
    (
        _is(FileNotFoundError),
        "has no socket there",
        "start it, or correct the socket directory in DURO_DATABASE_URL",
    ),
    (
        _is(PermissionError),
        "cannot be reached (permission denied)",
        "let the user that duro runs as open its socket",
    ),
    (
        _has_number(errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EHOSTDOWN, errno.ENETDOWN),
        "cannot be reached ({said})",
        "check the network, or correct DURO_DATABASE_URL",
    ),
    (
        _is(OSError),
        "closed the connection before the login was done ({said})",
        "see its log, and whether it is PostgreSQL that listens there",
    ),
    (
        _either(_is(asyncpg.InvalidCatalogNameError), _says("no such database")),
        "does not exist",
        "create it, or correct the database name in DURO_DATABASE_URL",
    ),
    (
        _either(_is(asyncpg.TooManyConnectionsError), _says("max_client_conn")),
        "has no connection left ({said})",
        "raise max_connections or the CONNECTION LIMIT, or lower DURO_DATABASE_CONNECTIONS",
    ),
    (
        _is(asyncpg.CannotConnectNowError),
        "does not take connections just now ({said})",
        "try again in a moment",
    ),
    (
        _is(asyncpg.exceptions.OperatorInterventionError),
        "ended the connection ({said})",
        "try again when it is back",
    ),
    (
        _is(asyncpg.UndefinedTableError, asyncpg.InsufficientPrivilegeError),
        "is not migrated, or duro's roles have lost their rights there ({said})",
        "run duro migrate with the URL of the database's owner",
    ),
    (
        _is(asyncpg.PostgresConnectionError, asyncpg.InternalClientError),
        "broke off the connection ({said})",
        "see its log, and that of a pooler if there is one",
    ),
    (
        _is(asyncpg.InterfaceError),
        "cannot be logged in to ({said})",
        "let pg_hba.conf ask for scram-sha-256",
    ),
)


@contextmanager
def sentences(target: DatabaseTarget, *, own_role: bool = False) -> Iterator[None]:
    """Raises Unavailable for what goes wrong. `own_role`: a role of duro's logs in, not the login of the URL."""
    try:
        yield
    except UnusableFile as error:
        problem = str(error)
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
        problem = _sentence(error, target, own_role=own_role)
    else:
        return
    raise Unavailable(problem)


def _sentence(error: Exception, target: DatabaseTarget, *, own_role: bool) -> str:
    if isinstance(error, HostsFailed):
        each = "; ".join(f"{host} {_trouble(cause, target)[0]}" for host, cause in error.failures.items())
        return f"None of the hosts in DURO_DATABASE_URL can be used: {each}."
    if _REFUSES_LOGIN(error):
        trouble, advice = _login_trouble(error, target, own_role=own_role)
    else:
        trouble, advice = _trouble(error, target)
    return f"The database at {target} {trouble}: {advice}."


_REFUSES_LOGIN: Final = _either(
    _is(asyncpg.InvalidPasswordError, asyncpg.InvalidAuthorizationSpecificationError),
    _says("no such user"),  # PgBouncer's words
    _says("SASL authentication failed"),
)


def _trouble(error: Exception, target: DatabaseTarget) -> tuple[str, str]:
    for fits, trouble, advice in _TROUBLES:
        if fits(error):
            return trouble.format(said=_said(error), limit=target.connect_timeout), advice
    return f"refuses the session ({_said(error)})", "correct DURO_DATABASE_URL, or the database's settings"


def _login_trouble(error: Exception, target: DatabaseTarget, *, own_role: bool) -> tuple[str, str]:
    said = _said(error)
    if "pg_hba.conf" in said:
        advice = "allow this host, user and database there"
        if "no encryption" in said:
            advice += ", or set sslmode=require if it wants TLS"
        return f"does not let this host log in ({said})", advice
    if "client certificate" in said:
        return f"refuses the login ({said})", "name one with sslcert and sslkey in DURO_DATABASE_URL"
    if own_role:
        return (
            f"refuses the login of a role of duro's ({said})",
            "run duro migrate with the DURO_SECRET_KEY in use here, and make the role known to your pooler if there is one",
        )
    if target.password is None and target.passfile is None:
        return (
            f"refuses the login without a password ({said})",
            "put it into DURO_DATABASE_URL, or name a file with passfile=, for PG* variables and ~/.pgpass are not read",
        )
    return f"refuses the login ({said})", "correct the user and password in DURO_DATABASE_URL"


def _said(error: Exception) -> str:
    """In one line."""
    text = str(error)
    if isinstance(error, ssl.SSLCertVerificationError):
        text = error.verify_message
    elif isinstance(error, ssl.SSLError):
        text = (error.reason or text).replace("_", " ").lower()
    elif isinstance(error, asyncpg.PostgresError):
        text = error.message or text
    elif isinstance(error, OSError):
        text = error.strerror or text
    return " ".join(text.split()).rstrip(".") or type(error).__name__


def _errno(error: OSError) -> int | None:
    """Of a host with several addresses, the first one's: the loop then makes one text of all errors."""
    if error.errno is not None:
        return error.errno
    found = re.search(r"\[Errno (\d+)\]", str(error))
    return int(found[1]) if found else None
