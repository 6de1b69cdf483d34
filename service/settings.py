"""Settings: read once from the environment, validated and frozen. `duro config` prints this table.

Every default suits a first day in production.
"""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from datetime import timedelta
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

from delivery.egress.guard import Network, parse_cidrs
from delivery.engine.retry_policy import DEFAULT_DELAYS
from delivery.http.proxy_tunnel import EgressProxy, parse_egress_proxy
from schema.connections import connection_budget
from schema.connections.database_url import parse_database_url
from schema.durations import format_duration, parse_duration, parse_schedule
from schema.errors import DuroError, InvalidInput
from schema.secret_box import parse_secret_key
from schema.secret_repr import HidesSecrets

PREFIX: Final = "DURO_"
_DIGITS: Final = re.compile("[0-9]{1,10}")


def _setting(
    default: Any,
    help_: str,
    *,
    parse: Callable[[str], Any] = str,
    show: Callable[[Any], str] = str,
    secret: bool = False,
) -> Any:
    metadata = {"help": help_, "parse": parse, "show": show, "secret": secret}
    if callable(default):
        return field(default_factory=default, metadata=metadata, repr=not secret)
    return field(default=default, metadata=metadata, repr=not secret)


def _integer(minimum: int, maximum: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not (_DIGITS.fullmatch(text) and minimum <= int(text) <= maximum):
            raise InvalidInput(f"{text!r} is not a whole number from {minimum} to {maximum}.")
        return int(text)

    return parse


def _duration(minimum: timedelta, maximum: timedelta) -> Callable[[str], timedelta]:
    return lambda text: parse_duration(text, minimum=minimum, maximum=maximum)


def _ports(text: str) -> frozenset[int]:
    return frozenset(_integer(1, 65535)(port.strip()) for port in text.split(","))


def _header_prefix(text: str) -> str:
    if not (text.isascii() and text.replace("-", "").isalnum() and 1 <= len(text) <= 40) or text.endswith(
        "-"
    ):
        raise InvalidInput(
            f"{text!r} is not a header prefix: use letters, digits and inner hyphens, as in Duro."
        )
    return text


def _one_of(*words: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in words:
            raise InvalidInput(f"{text!r} is not one of {', '.join(words)}.")
        return text

    return parse


def _database_url(text: str) -> str:
    parse_database_url(text)
    return text.strip()


def _schedule(text: str) -> tuple[timedelta, ...]:
    return parse_schedule(text, minimum=timedelta(milliseconds=100), maximum=timedelta(days=7))


def _list(values: Any) -> str:
    return ",".join(map(str, sorted(values, key=str)))


def _default_data_dir() -> Path:
    """Returns /var/lib/duro for root, and a directory by the XDG rules for other users."""
    if os.geteuid() == 0:
        return Path("/var/lib/duro")
    try:
        home = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    except RuntimeError:
        return Path.cwd() / ".duro"  # a user without a home directory
    return Path(home) / "duro"


@dataclass(frozen=True)
class Settings(HidesSecrets):
    database_url: str | None = _setting(
        None,
        "URL of a PostgreSQL 16 or newer. duro migrate, up, retention and analytics password log in as the user in it, the "
        "database's owner; all others need no user. Unset: the embedded one in DURO_DATA_DIR.",
        parse=_database_url,
        secret=True,
    )
    database_connections: int = _setting(
        connection_budget.DEFAULT_CONNECTIONS,
        "Connections to the database that one worker opens at most; fewer make its parts wait for each other.",
        parse=_integer(connection_budget.MIN_CONNECTIONS, connection_budget.MAX_CONNECTIONS),
    )
    data_dir: Path = _setting(
        _default_data_dir, "Directory of the embedded database and its keys.", parse=Path
    )
    secret_key: bytes | None = _setting(
        None,
        "32 bytes as base64 or hex. Encrypts endpoint secrets and derives the passwords of duro's roles. "
        "Set it with DURO_DATABASE_URL. Unset: secret.key in DURO_DATA_DIR, created if missing.",
        parse=parse_secret_key,
        secret=True,
    )
    host: str = _setting("127.0.0.1", "Address that the HTTP server listens on; 0.0.0.0 in a container.")
    port: int = _setting(8400, "Port of the HTTP server; 0 takes a free one.", parse=_integer(0, 65535))
    egress_allow: tuple[Network, ...] = _setting(
        (),
        "CIDRs of private networks that endpoints may use. Plain http is allowed only there.",
        parse=parse_cidrs,
        show=_list,
    )
    egress_ports: frozenset[int] = _setting(
        frozenset({443, 8443}),
        "Ports that endpoints may use outside DURO_EGRESS_ALLOW.",
        parse=_ports,
        show=_list,
    )
    retry_schedule: tuple[timedelta, ...] = _setting(
        DEFAULT_DELAYS,
        "Delays before the retries, each ±10 %. After the last retry the delivery is failed.",
        parse=_schedule,
        show=lambda delays: ",".join(map(format_duration, delays)),
    )
    attempt_timeout: timedelta = _setting(
        timedelta(seconds=15),
        "Deadline of one attempt: DNS, connect, TLS, headers and body together.",
        parse=_duration(timedelta(milliseconds=100), timedelta(seconds=60)),
        show=format_duration,
    )
    connect_timeout: timedelta = _setting(
        timedelta(seconds=5),
        "Deadline of the TCP connect, within the attempt timeout.",
        parse=_duration(timedelta(milliseconds=50), timedelta(seconds=60)),
        show=format_duration,
    )
    egress_proxy: EgressProxy | None = _setting(
        None,
        "http://[user:password@]host:port of a proxy for all webhooks, by CONNECT to the checked address.",
        parse=parse_egress_proxy,
        secret=True,
    )
    disable_after: timedelta = _setting(
        timedelta(days=5),
        "An endpoint without a success for this long is disabled, after warnings at 50, 70 and 90 %.",
        parse=_duration(timedelta(seconds=1), timedelta(days=365)),
        show=format_duration,
    )
    rotation_grace: timedelta = _setting(
        timedelta(hours=24),
        "How long a rotated secret keeps signing beside the new one.",
        parse=_duration(timedelta(0), timedelta(days=30)),
        show=format_duration,
    )
    max_in_flight: int = _setting(
        2000,
        "In-flight limit of one worker in one mode. The system's limit of open files may lower it.",
        parse=_integer(1, 100_000),
    )
    max_in_flight_per_tenant: int = _setting(
        500,
        "In-flight limit of one tenant, so that its endpoints cannot take every slot.",
        parse=_integer(1, 100_000),
    )
    max_in_flight_per_endpoint: int = _setting(
        100,
        "In-flight limit of one endpoint, so that a slow one cannot take every slot.",
        parse=_integer(1, 100_000),
    )
    header_prefix: str = _setting(
        "Duro",
        "Product name in the headers PREFIX-Signature, PREFIX-Event-Id, PREFIX-Event-Type and the User-Agent.",
        parse=_header_prefix,
    )
    log_level: str = _setting(
        "warning",
        "debug, info, warning or error; the log goes to stderr.",
        parse=_one_of("debug", "info", "warning", "error"),
    )

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> "Settings":
        """Reads the DURO_ variables. Raises InvalidInput for invalid values and unknown names."""
        known = {PREFIX + f.name.upper(): f for f in fields(cls)}
        values: dict[str, Any] = {}
        for name, text in environment.items():
            if not name.startswith(PREFIX):
                continue
            if name not in known:
                near = get_close_matches(
                    name.removeprefix(PREFIX), [n.removeprefix(PREFIX) for n in known], 1
                )
                hint = f"did you mean {PREFIX}{near[0]}?" if near else "duro config lists the settings."
                raise InvalidInput(f"{name} is not a setting: {hint}")
            if text:
                values[known[name].name] = _parsed(name, text, known[name].metadata["parse"])
        return cls(**values)

    def rows(self) -> list[dict[str, str | bool]]:
        """Returns the rows of `duro config`: name, value, default, set and help. Secrets are hidden."""
        defaults = Settings()
        return [
            _row(f.name, getattr(self, f.name), getattr(defaults, f.name), f.metadata) for f in fields(self)
        ]


def _parsed(name: str, text: str, parse: Callable[[str], Any]) -> Any:
    try:
        return parse(text)
    except DuroError as error:
        raise InvalidInput(f"{name}: {error}") from None


def _row(name: str, value: Any, default: Any, metadata: Mapping[str, Any]) -> dict[str, str | bool]:
    def shown(what: Any) -> str:
        if what is None:
            return ""
        return "(secret)" if metadata["secret"] else metadata["show"](what)

    return {
        "name": PREFIX + name.upper(),
        "value": shown(value),
        "default": shown(default),
        "set": value != default,
        "help": metadata["help"],
    }
