"""Translates connection errors of the driver into sentences that say what is wrong and what to do."""

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


# What is wrong and what to do, by the first test that matches. {message} is the error's own message.
_PROBLEMS: Final[tuple[tuple[Test, str, str], ...]] = (
    (
        _has_certificate_fault(62, 63, 64),
        "has a certificate for another name",
        "name the host as its certificate does, or use sslmode=verify-ca with sslrootcert",
    ),
    (
        _has_certificate_fault(9, 10),
        "has a certificate that is not valid now ({message})",
        "renew it, or correct the clock of this host",
    ),
    (_has_certificate_fault(23), "has a certificate that was revoked", "give the server a new one"),
    (
        _has_certificate_fault(3),
        "has a certificate that sslcrl does not cover ({message})",
        "add the revocation lists of all its authorities",
    ),
    (
        _is(ssl.SSLCertVerificationError),
        "has a certificate of an untrusted authority ({message})",
        "name the file with the authority's certificate as sslrootcert in DURO_DATABASE_URL",
    ),
    (
        _is(NotWritable),
        "does not accept writes (a standby, or read-only)",
        "name the primary in DURO_DATABASE_URL",
    ),
    (
        _is(socket.gaierror),
        "has a host name that DNS does not resolve ({message})",
        "correct DURO_DATABASE_URL, or DNS",
    ),
    (
        _is(ssl.SSLError),
        "refuses the TLS settings ({message})",
        "correct the ssl… parameters in DURO_DATABASE_URL",
    ),
    (
        _says("rejected SSL upgrade"),
        "has no TLS",
        "turn on ssl in postgresql.conf, or set sslmode=disable if the network is trusted",
    ),
    (
        _either(_is(TimeoutError), _has_number(errno.ETIMEDOUT)),
        "did not respond within {limit:.0f} s",
        "check that its host is up and no firewall blocks it, or correct DURO_DATABASE_URL",
    ),
    (
        _has_number(errno.ECONNREFUSED),
        "cannot be reached (connection refused)",
        "start it, or correct DURO_DATABASE_URL",
    ),
    (
        _is(FileNotFoundError),
        "has no socket",
        "start it, or correct the socket directory in DURO_DATABASE_URL",
    ),
    (
        _is(PermissionError),
        "cannot be reached (permission denied)",
        "allow the user that duro runs as to open its socket",
    ),
    (
        _has_number(errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EHOSTDOWN, errno.ENETDOWN),
        "cannot be reached ({message})",
        "check the network, or correct DURO_DATABASE_URL",
    ),
    (
        _is(OSError),
        "closed the connection during login ({message})",
        "check its log, and that PostgreSQL listens on this port",
    ),
    (
        _either(_is(asyncpg.InvalidCatalogNameError), _says("no such database")),
        "does not exist",
        "create it, or correct the database name in DURO_DATABASE_URL",
    ),
    (
        _either(_is(asyncpg.TooManyConnectionsError), _says("max_client_conn")),
        "has no connection left ({message})",
        "raise max_connections or the CONNECTION LIMIT, or lower DURO_DATABASE_CONNECTIONS",
    ),
    (
        _is(asyncpg.CannotConnectNowError),
        "is not accepting connections now ({message})",
        "retry shortly",
    ),
    (
        _is(asyncpg.exceptions.OperatorInterventionError),
        "ended the connection ({message})",
        "retry when it is back",
    ),
    (
        _is(asyncpg.UndefinedTableError, asyncpg.InsufficientPrivilegeError),
        "is not migrated, or duro's roles lack rights ({message})",
        "run duro migrate with the URL of the database's owner",
    ),
    (
        _is(asyncpg.PostgresConnectionError, asyncpg.InternalClientError),
        "closed the connection ({message})",
        "check its log, and that of the pooler if you use one",
    ),
    (
        _is(asyncpg.InterfaceError),
        "does not support this login ({message})",
        "set scram-sha-256 in pg_hba.conf",
    ),
)


@contextmanager
def connection_errors(target: DatabaseTarget, *, own_role: bool = False) -> Iterator[None]:
    """Turns connection errors into Unavailable. `own_role`: the login is one of duro's roles."""
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
        each = "; ".join(f"{host} {_problem(cause, target)[0]}" for host, cause in error.failures.items())
        return f"None of the hosts in DURO_DATABASE_URL can be used: {each}."
    if _REFUSES_LOGIN(error):
        problem, advice = _login_problem(error, target, own_role=own_role)
    else:
        problem, advice = _problem(error, target)
    return f"The database at {target} {problem}: {advice}."


_REFUSES_LOGIN: Final = _either(
    _is(asyncpg.InvalidPasswordError, asyncpg.InvalidAuthorizationSpecificationError),
    _says("no such user"),  # PgBouncer's message
    _says("SASL authentication failed"),
)


def _problem(error: Exception, target: DatabaseTarget) -> tuple[str, str]:
    for fits, problem, advice in _PROBLEMS:
        if fits(error):
            return problem.format(message=_message(error), limit=target.connect_timeout), advice
    return f"refuses the session ({_message(error)})", "correct DURO_DATABASE_URL, or the database's settings"


def _login_problem(error: Exception, target: DatabaseTarget, *, own_role: bool) -> tuple[str, str]:
    message = _message(error)
    if "pg_hba.conf" in message:
        advice = "allow this host, user and database there"
        if "no encryption" in message:
            advice += ", or set sslmode=require if it requires TLS"
        return f"does not let this host log in ({message})", advice
    if "client certificate" in message:
        return f"refuses the login ({message})", "set sslcert and sslkey in DURO_DATABASE_URL"
    if own_role:
        return (
            f"refuses the login of a role of duro ({message})",
            "run duro migrate with this DURO_SECRET_KEY, and add the role to your pooler if you use one",
        )
    if target.password is None and target.passfile is None:
        return (
            f"refuses the login without a password ({message})",
            "add it to DURO_DATABASE_URL, or set passfile= there (PG* variables and ~/.pgpass are not read)",
        )
    return f"refuses the login ({message})", "correct the user and password in DURO_DATABASE_URL"


def _message(error: Exception) -> str:
    """Returns the error's message in one line."""
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
    """For a host with several addresses, returns the first errno: the loop joins all errors into one text."""
    if error.errno is not None:
        return error.errno
    found = re.search(r"\[Errno (\d+)\]", str(error))
    return int(found[1]) if found else None
