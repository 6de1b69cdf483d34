"""Opens database sessions. All connections are made here, and each has its pinned settings when it is
returned.

    each host in turn ─► TLS or not ─► login ─► one statement pins the settings, if the backend process is the
                                                one that the server named at login
                                                     │ it is not: there is a pooler in between
                                                     └► does it keep one session per client? ─► pin, or refuse

The settings are in the startup message too, so that an operator's settings cannot end the session before they
are pinned. The startup message alone is not enough: poolers refuse settings that they do not know, or ignore
them silently. When the statement succeeds, the settings are in effect.

The driver receives every argument explicitly, so that it reads no PG* variables and no files in the home
directory.
"""

import asyncio
import os
import pwd
import ssl
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import asyncpg
from asyncpg.connect_utils import SessionAttribute

from schema.connections.database_target import DatabaseTarget, Host, TlsMode
from schema.connections.passfile import password_in
from schema.connections.pooler import (
    fetch_in_one_session,
    refuse_shared_sessions,
    refuses_transactions,
    shared_sessions,
)
from schema.connections.session_settings import VERSION_DEPENDENT
from schema.connections.tls import client_context
from schema.errors import Unavailable
from schema.queries import load
from schema.secret_repr import HidesSecrets

# The socket directories of distributions and PostgreSQL, then TCP: the same order as the driver's.
_DEFAULT_HOSTS: Final = ("/run/postgresql", "/var/run/postgresql", "/tmp", "localhost")  # noqa: S108 -- only read
_PIN: Final = load("sessions")["pin"]
_BACKEND: Final = load("sessions")["backend"]
_IS_WRITABLE: Final = load("sessions")["is_writable"]


@dataclass(frozen=True)
class Login(HidesSecrets):
    user: str
    password: str = field(repr=False)


class NotWritable(ConnectionError):
    """The host is a standby, or read-only for another reason."""


class HostsFailed(ConnectionError):
    """All of several hosts failed."""

    def __init__(self, failures: Mapping[Host, Exception]) -> None:
        super().__init__("; ".join(f"{host}: {error!r}" for host, error in failures.items()))
        self.failures = failures


def owner_login(target: DatabaseTarget) -> Login:
    """Returns the login of the URL. Raises Unavailable when its password file is not usable."""
    user = target.user or _system_user()
    if target.password is None and target.passfile is not None:
        host = target.hosts[0]
        return Login(user, password_in(target.passfile, host.name, host.port, target.database, user))
    return Login(user, target.password or "")


def _system_user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        raise Unavailable(
            "DURO_DATABASE_URL names no user, and the operating system has no name for this user id: add the user to the URL."
        ) from None


class SessionOpener:
    """Opens sessions of one login, all with the same settings."""

    def __init__(
        self,
        target: DatabaseTarget,
        login: Login,
        name: str,
        settings: Mapping[str, str],
        command_timeout: float | None = None,
    ) -> None:
        self._target = target
        self._login = login
        self._name = name
        self._settings = dict(settings)
        self._command_timeout = command_timeout
        self._is_trusted = False
        self._at_login = {name: value for name, value in settings.items() if name not in VERSION_DEPENDENT}

    async def open(self, **pool_arguments: Any) -> asyncpg.Connection:
        """Opens a session. `pool_arguments` are those that a pool passes to its connections.

        Raises the driver's errors, and Unavailable for a pooler that does not keep one session per client.
        """
        connection = await self._connect_to_any_host(**pool_arguments)
        await _terminate_unless(self._pin(connection), connection)
        return connection

    async def _pin(self, connection: asyncpg.Connection) -> None:
        try:
            if await self._set(connection, connection.get_server_pid()):
                return
            if not self._is_trusted:
                limit = self._target.connect_timeout
                await refuse_shared_sessions(connection, self._connect_to_any_host, str(self._target), limit)
                self._is_trusted = True
            await self._set(connection, await fetch_in_one_session(connection, _BACKEND))
        except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            if refuses_transactions(error):
                raise shared_sessions(str(self._target)) from None
            raise

    async def _set(self, connection: asyncpg.Connection, pid: int) -> bool:
        """Pins the settings; returns False without effect if the backend process is another."""
        async with asyncio.timeout(self._target.connect_timeout):
            return bool(
                await fetch_in_one_session(
                    connection,
                    _PIN,
                    list(self._settings),
                    list(self._settings.values()),
                    pid,
                    list(VERSION_DEPENDENT),
                )
            )

    async def _connect_to_any_host(self, **pool_arguments: Any) -> asyncpg.Connection:
        failures: dict[Host, Exception] = {}
        for host in self._candidates():
            try:
                return await self._connect_to(host, **pool_arguments)
            except (OSError, asyncpg.CannotConnectNowError) as error:
                failures[host] = error
        if len(self._target.hosts) > 1:
            raise HostsFailed(failures)
        raise list(failures.values())[-1]

    def _candidates(self) -> list[Host]:
        return [
            Host(name, host.port)
            for host in self._target.hosts
            for name in ((host.name,) if host.name else _DEFAULT_HOSTS)
        ]

    async def _connect_to(self, host: Host, **pool_arguments: Any) -> asyncpg.Connection:
        tls = client_context(self._target.tls) if not host.name.startswith("/") else None
        try:
            connection = await self._log_in(host, tls, **pool_arguments)
        except (OSError, asyncpg.InvalidAuthorizationSpecificationError) as error:
            if not (self._target.tls.mode == TlsMode.PREFER and tls and _is_about_tls(error)):
                raise
            connection = await self._log_in(host, None, **pool_arguments)
        await _terminate_unless(self._check_writable(connection), connection)
        return connection

    async def _check_writable(self, connection: asyncpg.Connection) -> None:
        if self._target.writable and not await fetch_in_one_session(connection, _IS_WRITABLE):
            raise NotWritable("does not accept writes")

    async def _log_in(
        self, host: Host, tls: ssl.SSLContext | None, **pool_arguments: Any
    ) -> asyncpg.Connection:
        try:
            return await self._start(host, tls, **pool_arguments)
        except asyncpg.PostgresError as error:
            if not (self._at_login and "unsupported startup parameter" in str(error)):
                raise
            self._at_login = {}  # a pooler refuses them; it will refuse them next time too
            return await self._start(host, tls, **pool_arguments)

    async def _start(
        self, host: Host, tls: ssl.SSLContext | None, **pool_arguments: Any
    ) -> asyncpg.Connection:
        connection: asyncpg.Connection = await asyncpg.connect(
            host=host.name,
            port=host.port,
            user=self._login.user,
            password=self._login.password,
            database=self._target.database,
            ssl=tls or False,
            direct_tls=tls is not None and self._target.tls.direct,
            timeout=self._target.connect_timeout,
            server_settings={
                **self._at_login,
                "application_name": self._name,
                **({"options": self._target.options} if self._target.options else {}),
            },
            target_session_attrs=SessionAttribute.any,
            krbsrvname="postgres",
            gsslib="gssapi",
            command_timeout=self._command_timeout,
            **pool_arguments,
        )
        return connection


def _is_about_tls(error: Exception) -> bool:
    """Whether the login may succeed without TLS: there is none, or pg_hba.conf rejects it."""
    if isinstance(error, asyncpg.InvalidAuthorizationSpecificationError):
        return not isinstance(error, asyncpg.InvalidPasswordError) and "pg_hba.conf" in str(error)
    return isinstance(error, ssl.SSLError | ConnectionResetError) or "rejected SSL upgrade" in str(error)


async def _terminate_unless(done: Coroutine[Any, Any, None], connection: asyncpg.Connection) -> None:
    try:
        await done
    except BaseException:
        connection.terminate()
        raise
