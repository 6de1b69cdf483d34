"""Reads DURO_DATABASE_URL: libpq's URLs and its `host=… dbname=…` form, without any I/O.

What the text leaves out is never taken from PG* variables, ~/.pgpass, ~/.pg_service.conf or ~/.postgresql: every
worker then goes to the same database with the same checks, whatever the shell or the service manager sets.

Each parameter that libpq documents is honoured, ignored where that changes nothing that matters, or refused with a
sentence. No sentence quotes a value: a password with a raw special character may end up in any part of a URL.
"""

import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import unquote_to_bytes

from schema.connections.database_target import (
    DEFAULT_CONNECT_TIMEOUT_S,
    DEFAULT_PORT,
    SYSTEM_AUTHORITIES,
    DatabaseTarget,
    Host,
    TlsMode,
    TlsSettings,
)
from schema.errors import InvalidInput

LONGEST_CONNECT_TIMEOUT_S: Final = 60.0

_WRITE: Final = "write postgresql://user:password@host:5432/database"
_ENCODE: Final = "with special characters of the password percent-encoded"

_TLS_MODES: Final = {
    **{mode.word: mode for mode in TlsMode},
    "allow": TlsMode.PREFER,
    "no-verify": TlsMode.REQUIRE,  # node-postgres
}
_TLS_VERSIONS: Final = ("TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3")


def parse_database_url(text: str) -> DatabaseTarget:
    """Raises InvalidInput with a sentence that quotes no value."""
    text = text.strip()
    if not text or "\0" in text or text[0] in "'\"":
        raise InvalidInput(f"it cannot be read: {_WRITE}, without quotation marks.")
    if text.lower().startswith("jdbc:"):
        raise InvalidInput(
            "it is a JDBC URL: leave out jdbc:, and put the user and password before the host."
        )
    return _target(_from_url(text) if "://" in text else _from_pairs(text))


# ── The two forms, as parameters by libpq's names ──────────────────────────────────────────────────────────────────


_SCHEME: Final = re.compile(
    r"postgres(ql)?(\+[a-z0-9_]+)?://", re.IGNORECASE
)  # +driver as SQLAlchemy writes it
_HOST: Final = re.compile(r"(?:\[(?P<v6>[^\[\]]+)\]|(?P<name>[^:\[\]]*))(?::(?P<port>[^:]*))?")


def _from_url(text: str) -> dict[str, str]:
    scheme = _SCHEME.match(text)
    if scheme is None:
        raise InvalidInput(f"it does not begin with postgresql:// : {_WRITE}.")
    where, _, query = text[scheme.end() :].partition("?")
    authority, _, database = where.partition("/")
    login, _, hosts = authority.rpartition("@")
    if "@" in login or "@" in database:
        raise _unreadable()
    user, _, password = login.partition(":")
    names, ports = _hosts_of_url(hosts)
    found = {"user": user, "password": password, "dbname": database}
    parameters = {name: _decoded(value) for name, value in found.items() if value}
    if hosts:
        parameters |= {"host": names, "port": ports}
    return parameters | _query(query)


def _hosts_of_url(text: str) -> tuple[str, str]:
    names, ports = [], []
    for part in text.split(","):
        matched = _HOST.fullmatch(part)
        if matched is None:
            raise _unreadable()
        names.append(_decoded(matched["v6"] or matched["name"]))
        ports.append(_decoded(matched["port"] or ""))
    return ",".join(names), ",".join(ports) if any(ports) else ""


def _query(text: str) -> dict[str, str]:
    parameters: dict[str, str] = {}
    for pair in text.split("&") if text else ():
        name, equals, value = pair.partition("=")
        if not equals:
            raise _unreadable()
        parameters[_decoded(name)] = _decoded(value)
    return parameters


def _decoded(text: str) -> str:
    if re.search("%(?![0-9A-Fa-f]{2})|%00", text):
        raise _unreadable()
    try:
        return unquote_to_bytes(text).decode()
    except UnicodeDecodeError:
        raise _unreadable() from None


_PAIR: Final = re.compile(
    r"\s*(?P<name>\w+)\s*=\s*(?:'(?P<quoted>(?:[^'\\]|\\.)*)'|(?P<bare>(?:[^\s'\\]|\\.)*))(?=\s|$)", re.DOTALL
)


def _from_pairs(text: str) -> dict[str, str]:
    parameters: dict[str, str] = {}
    at = 0
    while at < len(text):
        pair = _PAIR.match(text, at)
        if pair is None:
            raise InvalidInput(
                f"it cannot be read: {_WRITE}, {_ENCODE}, or host=… dbname=… with values quoted."
            )
        value = pair["bare"] if pair["quoted"] is None else pair["quoted"]
        parameters[pair["name"]] = re.sub(r"\\(.)", r"\1", value, flags=re.DOTALL)
        at = pair.end()
    return parameters


def _unreadable() -> InvalidInput:
    return InvalidInput(f"it cannot be read: {_WRITE}, {_ENCODE}.")


# ── What each parameter means ──────────────────────────────────────────────────────────────────────────────────────

_HONOURED: Final = """
    host hostaddr port dbname user password passfile options connect_timeout sslrootcert sslcert sslkey sslpassword
    sslcrl sslcrldir
"""

# duro names its sessions itself, watches its connections itself, and has pools and schemas of its own. The second
# part is other clients': providers and templates put it into the URLs that they hand out.
_IGNORED: Final = """
    application_name fallback_application_name keepalives keepalives_idle keepalives_interval keepalives_count
    tcp_user_timeout krbsrvname gsslib gssdelegation sslcompression sslsni sslkeylogfile

    pgbouncer schema currentSchema search_path connection_limit pool_timeout pool_size pool pool_mode max_overflow
    pool_max_conns pool_min_conns pool_max_conn_lifetime pool_max_conn_idle_time pool_health_check_period
    socket_timeout statement_cache_size prepared_statement_cache_size statement_cache_capacity
    default_query_exec_mode prepared_statements prepareThreshold preparedStatementCacheQueries
    uselibpqcompat supa conn_max_age ApplicationName tcpKeepAlive loginTimeout socketTimeout
"""

_WITH_ANY_VALUE: Final = frozenset((_HONOURED + _IGNORED).split())

# Honoured or ignored with these values alone; with another, what the operator asks for would not be so.
_ALLOWED: Final[Mapping[str, tuple[frozenset[str], str]]] = {
    "gssencmode": (frozenset({"disable", "prefer"}), "duro encrypts by TLS and not by Kerberos; set sslmode"),
    "client_encoding": (frozenset({"auto", "utf8", "utf-8", "unicode"}), "duro speaks UTF8; leave it out"),
    "encoding": (frozenset({"utf8", "utf-8", "unicode"}), "duro speaks UTF8; leave it out"),
    "replication": (frozenset({"false", "off", "no", "0"}), "duro needs ordinary sessions; leave it out"),
    "require_auth": (frozenset(), "duro cannot choose how it logs in; use sslmode=verify-full instead"),
    "requirepeer": (frozenset(), "duro does not check who runs the server; leave it out"),
    "sslcertmode": (frozenset({"allow", "disable"}), "use allow or disable"),
    "service": (frozenset(), "service files are not read; write what it holds into DURO_DATABASE_URL"),
    "servicefile": (frozenset(), "service files are not read; write what it holds into DURO_DATABASE_URL"),
    "min_protocol_version": (frozenset({"3.0"}), "duro speaks protocol 3.0; leave it out"),
    "max_protocol_version": (frozenset({"3.0", "3.2", "latest"}), "duro speaks protocol 3.0; leave it out"),
    "scram_client_key": (frozenset(), "it is for foreign-data wrappers; give the password"),
    "scram_server_key": (frozenset(), "it is for foreign-data wrappers; give the password"),
    "sslidentity": (frozenset(), "give the client's certificate with sslcert and sslkey"),
    "target_session_attrs": (
        frozenset({"any", "read-write", "primary"}),
        "duro writes; use read-write, or leave it out",
    ),
    "load_balance_hosts": (frozenset({"disable", "random"}), "use disable or random"),
    "channel_binding": (frozenset({"disable", "prefer", "require"}), "use disable, prefer or require"),
    "sslnegotiation": (frozenset({"postgres", "direct"}), "use postgres or direct"),
    "sslmode": (frozenset(_TLS_MODES), "use disable, prefer, require, verify-ca or verify-full"),
    "ssl": (frozenset(_TLS_MODES) | {"true", "false", "1", "0"}, "use sslmode instead"),
    "requiressl": (frozenset({"0", "1"}), "use sslmode instead"),
    "sslaccept": (frozenset({"strict", "accept_invalid_certs"}), "use sslmode instead"),
    "ssl_min_protocol_version": (frozenset(map(str.lower, _TLS_VERSIONS)), "use TLSv1.2 or TLSv1.3"),
    "ssl_max_protocol_version": (frozenset(map(str.lower, _TLS_VERSIONS)), "use TLSv1.2 or TLSv1.3"),
}


def _target(parameters: Mapping[str, str]) -> DatabaseTarget:
    given = {name: value for name, value in parameters.items() if value}  # libpq, too, takes "" as left out
    _check(given)
    database = given.get("dbname") or given.get("user")
    if database is None:
        raise InvalidInput(f"it names no database: {_WRITE}.")
    hosts = _hosts(given)
    wanted = given.get("target_session_attrs")
    return DatabaseTarget(
        hosts,
        database,
        given.get("user"),
        given.get("password"),
        passfile=None if "password" in given else given.get("passfile"),
        tls=_tls(given),
        options=given.get("options"),
        writable=len(hosts) > 1 if wanted is None else wanted.lower() != "any",
        connect_timeout=_connect_timeout(given.get("connect_timeout")),
    )


def _check(given: Mapping[str, str]) -> None:
    for name, value in given.items():
        if name in _ALLOWED:
            values, advice = _ALLOWED[name]
            if value.lower() not in values:
                raise InvalidInput(f"its parameter {name} cannot be used with this value: {advice}.")
        elif name not in _WITH_ANY_VALUE:
            if not re.fullmatch("[A-Za-z_][A-Za-z0-9_]{0,40}", name) or "@" in value:
                raise _unreadable()  # rather the end of a password with a raw ? in it
            raise InvalidInput(
                f"its parameter {name} is not known to libpq or duro: correct it, or leave it out."
            )


def _hosts(given: Mapping[str, str]) -> tuple[Host, ...]:
    """`hostaddr` is where to connect; the name beside it counts for verify-full alone, which needs it."""
    if "hostaddr" in given and given.get("sslmode", "").lower() == TlsMode.VERIFY_FULL.word:
        raise InvalidInput("its hostaddr cannot be combined with sslmode=verify-full: name the host alone.")
    names = (given.get("hostaddr") or given.get("host", "")).split(",")
    ports = given.get("port", "").split(",")
    if len(ports) == 1:
        ports *= len(names)
    if len(ports) != len(names):
        raise InvalidInput(
            f"it has {len(names)} hosts and {len(ports)} ports: give one port, or one for each host."
        )
    for name in names:
        if name and not name.startswith("/") and not re.fullmatch(r"[\w.:%~-]+", name):
            raise InvalidInput(
                f"its host is not a name, an address or an absolute socket directory: {_WRITE}."
            )
    return tuple(Host(name, _port(port)) for name, port in zip(names, ports, strict=True))


def _port(text: str) -> int:
    if not text:
        return DEFAULT_PORT
    if not (re.fullmatch("[0-9]{1,5}", text) and 1 <= int(text) <= 65535):
        raise InvalidInput(f"its port is not a number from 1 to 65535: {_WRITE}, {_ENCODE}.")
    return int(text)


def _connect_timeout(text: str | None) -> float:
    """libpq's 0 means for ever, and 1 means 2."""
    if text is None:
        return DEFAULT_CONNECT_TIMEOUT_S
    if not re.fullmatch("-?[0-9]{1,9}", text):
        raise InvalidInput("its parameter connect_timeout is not a whole number of seconds.")
    seconds = float(text)
    return min(max(seconds, 2.0), LONGEST_CONNECT_TIMEOUT_S) if seconds > 0 else LONGEST_CONNECT_TIMEOUT_S


def _tls(given: Mapping[str, str]) -> TlsSettings:
    mode, root = _tls_mode(given), given.get("sslrootcert")
    if root == SYSTEM_AUTHORITIES and mode != TlsMode.VERIFY_FULL:
        raise InvalidInput(
            "its sslrootcert=system needs sslmode=verify-full, for anybody can get such a certificate."
        )
    if mode == TlsMode.REQUIRE and root:
        mode = TlsMode.VERIFY_CA  # as in libpq: whoever names an authority wants it to count
    if mode >= TlsMode.VERIFY_CA:
        root = root or SYSTEM_AUTHORITIES
    direct = given.get("sslnegotiation", "").lower() == "direct"
    if direct and mode < TlsMode.REQUIRE:
        raise InvalidInput("its sslnegotiation=direct needs sslmode=require, verify-ca or verify-full.")
    with_certificate = given.get("sslcertmode", "").lower() != "disable" and "sslcert" in given
    versions = {version.lower(): version for version in _TLS_VERSIONS}
    if mode == TlsMode.DISABLE:
        return TlsSettings(TlsMode.DISABLE)
    return TlsSettings(
        mode,
        root if mode >= TlsMode.VERIFY_CA else None,
        certificate=given.get("sslcert") if with_certificate else None,
        key=given.get("sslkey") if with_certificate else None,
        key_password=given.get("sslpassword") if with_certificate else None,
        revocations=given.get("sslcrl") if mode >= TlsMode.VERIFY_CA else None,
        revocations_dir=given.get("sslcrldir") if mode >= TlsMode.VERIFY_CA else None,
        minimum=versions.get(given.get("ssl_min_protocol_version", "").lower()),
        maximum=versions.get(given.get("ssl_max_protocol_version", "").lower()),
        direct=direct,
    )


def _tls_mode(given: Mapping[str, str]) -> TlsMode:
    mode = TlsMode.PREFER
    if given.get("requiressl") == "1":
        mode = TlsMode.REQUIRE
    if ssl := given.get("ssl", "").lower():
        words = {
            "true": TlsMode.REQUIRE,
            "1": TlsMode.REQUIRE,
            "false": TlsMode.DISABLE,
            "0": TlsMode.DISABLE,
        }
        mode = (words | _TLS_MODES)[ssl]
    if sslmode := given.get("sslmode", "").lower():
        mode = _TLS_MODES[sslmode]
    elif given.get("sslrootcert") == SYSTEM_AUTHORITIES:
        mode = TlsMode.VERIFY_FULL
    if given.get("sslaccept", "").lower() == "strict":
        mode = TlsMode.VERIFY_FULL
    if given.get("channel_binding", "").lower() == "require":
        # Channel binding proves that nobody sits in between. The driver lacks it; a verified certificate proves it too.
        if mode == TlsMode.DISABLE:
            raise InvalidInput("its channel_binding=require needs TLS: use another sslmode than disable.")
        mode = TlsMode.VERIFY_FULL
    return mode
