"""The parsed DURO_DATABASE_URL: hosts, login and TLS settings."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Final
from urllib.parse import quote

from schema.secret_repr import HidesSecrets

DEFAULT_PORT: Final = 5432
DEFAULT_CONNECT_TIMEOUT_S: Final = 10.0
SYSTEM_AUTHORITIES: Final = "system"


class TlsMode(IntEnum):
    """Ordered by guarantee. libpq's `allow` is read as `prefer`, which encrypts if possible."""

    DISABLE = 0
    PREFER = 1
    REQUIRE = 2
    VERIFY_CA = 3
    VERIFY_FULL = 4

    @property
    def word(self) -> str:
        return self.name.lower().replace("_", "-")


@dataclass(frozen=True, slots=True)
class Host:
    """A name, an IP address, an absolute socket directory, or "" for the default sockets and localhost."""

    name: str
    port: int = DEFAULT_PORT

    def __str__(self) -> str:
        if self.name.startswith("/"):
            return f"{self.name}/.s.PGSQL.{self.port}"
        name = f"[{self.name}]" if ":" in self.name else self.name or "localhost"
        return f"{name}:{self.port}"


@dataclass(frozen=True, slots=True)
class TlsSettings(HidesSecrets):
    mode: TlsMode = TlsMode.PREFER
    root: str | None = None
    """File of trusted authorities, or "system" for the system's; None when nothing is verified."""
    certificate: str | None = None
    key: str | None = None
    key_password: str | None = field(default=None, repr=False)
    revocations: str | None = None
    revocations_dir: str | None = None
    minimum: str | None = None
    maximum: str | None = None
    direct: bool = False


@dataclass(frozen=True, slots=True)
class DatabaseTarget(HidesSecrets):
    """A database and how to connect to it. str() and repr() contain no secret."""

    hosts: tuple[Host, ...]
    database: str
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    passfile: str | None = None
    tls: TlsSettings = TlsSettings()
    options: str | None = field(default=None, repr=False)
    writable: bool = False
    """Whether to skip hosts that do not accept writes."""
    connect_timeout: float = DEFAULT_CONNECT_TIMEOUT_S

    def __str__(self) -> str:
        user = f"{quote(self.user, safe='')}@" if self.user else ""
        return f"postgresql://{user}{_format_hosts(self.hosts)}/{quote(self.database, safe='')}"

    def with_login(self, user: str, password: str) -> "DatabaseTarget":
        """Returns the target for another login, without the client certificate of the given one."""
        tls = replace(self.tls, certificate=None, key=None, key_password=None)
        return replace(self, user=user, password=password, passfile=None, tls=tls)

    def without_login(self) -> "DatabaseTarget":
        """Returns the target for a process that logs in as duro's own roles."""
        return replace(self, user=None, password=None, passfile=None)

    def url(self) -> str:
        """Returns a URL for libpq, password included. parse_database_url() returns an equal target."""
        login = quote(self.user, safe="") if self.user else ""
        if self.password:
            login += f":{quote(self.password, safe='')}"
        query = "&".join(f"{name}={quote(value, safe='')}" for name, value in self._parameters())
        return (
            f"postgresql://{login}{'@' if login else ''}{_format_hosts(self.hosts)}/{quote(self.database, safe='')}"
            f"{'?' if query else ''}{query}"
        )

    def _parameters(self) -> Iterator[tuple[str, str]]:
        tls = self.tls
        if tls.mode != TlsMode.PREFER:
            yield "sslmode", tls.mode.word
        if tls.root and not (tls.root == SYSTEM_AUTHORITIES and tls.mode != TlsMode.VERIFY_FULL):
            yield "sslrootcert", tls.root
        texts = {
            "sslcert": tls.certificate,
            "sslkey": tls.key,
            "sslpassword": tls.key_password,
            "sslcrl": tls.revocations,
            "sslcrldir": tls.revocations_dir,
            "ssl_min_protocol_version": tls.minimum,
            "ssl_max_protocol_version": tls.maximum,
            "sslnegotiation": "direct" if tls.direct else None,
            "passfile": self.passfile,
            "options": self.options,
        }
        yield from ((name, value) for name, value in texts.items() if value)
        if self.writable != (len(self.hosts) > 1):
            yield "target_session_attrs", "read-write" if self.writable else "any"
        if self.connect_timeout != DEFAULT_CONNECT_TIMEOUT_S:
            yield "connect_timeout", f"{self.connect_timeout:.0f}"


def _format_hosts(hosts: tuple[Host, ...]) -> str:
    return ",".join(map(_format_host, hosts)) if hosts != (Host(""),) else ""


def _format_host(host: Host) -> str:
    name = (
        f"[{quote(host.name, safe=':')}]"
        if ":" in host.name and host.name[0] != "/"
        else quote(host.name, safe="")
    )
    return name if host.port == DEFAULT_PORT else f"{name}:{host.port}"
