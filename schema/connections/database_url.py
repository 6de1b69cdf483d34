"""Parses DURO_DATABASE_URL, as a libpq URL or in the `host=… dbname=…` form, without any I/O.

PG* variables, ~/.pgpass, ~/.pg_service.conf and ~/.postgresql are never read. So every worker uses the same
database with the same checks, whatever its environment.

Each parameter that libpq documents is applied, ignored if it has no relevant effect, or refused with a
sentence. No sentence quotes a value: a password with an unencoded special character may end up in any part of
a URL.
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
    """Parses the text. Raises InvalidInput with a sentence that quotes no value."""
    text = text.strip()
    if not text or "\0" in text or text[0] in "'\"":
        raise InvalidInput(f"it cannot be read: {_WRITE}, without quotation marks.")
    if text.lower().startswith("jdbc:"):
        raise InvalidInput("it is a JDBC URL: remove jdbc:, and write the user and password before the host.")
    return _target(_from_url(text) if "://" in text else _from_pairs(text))


# ── The two forms, read as parameters with libpq's names ─────────────────────────────────────


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


# ── What each parameter means ──────────────────────────────────────────────────────────────

_APPLIED: Final = """
    host hostaddr port dbname user password passfile options connect_timeout sslrootcert sslcert sslkey sslpassword
    sslcrl sslcrldir
"""

# duro sets session names, keepalives, pools and schemas itself. The second part belongs to other clients:
# providers and templates add these parameters to their URLs.
_IGNORED: Final = """
    application_name fallback_application_name keepalives keepalives_idle keepalives_interval keepalives_count
    tcp_user_timeout krbsrvname gsslib gssdelegation sslcompression sslsni sslkeylogfile

    pgbouncer schema currentSchema search_path connection_limit pool_timeout pool_size pool pool_mode max_overflow
    pool_max_conns pool_min_conns pool_max_conn_lifetime pool_max_conn_idle_time pool_health_check_period
    socket_timeout statement_cache_size prepared_statement_cache_size statement_cache_capacity
    default_query_exec_mode prepared_statements prepareThreshold preparedStatementCacheQueries
    uselibpqcompat supa conn_max_age ApplicationName tcpKeepAlive loginTimeout socketTimeout
"""

_WITH_ANY_VALUE: Final = frozenset((_APPLIED + _IGNORED).split())

# Accepted with these values only: with others, duro could not do what the operator asks for.
_ALLOWED: Final[Mapping[str, tuple[frozenset[str], str]]] = {
    "gssencmode": (
        frozenset({"disable", "prefer"}),
        "duro encrypts with TLS, not with Kerberos; set sslmode",
    ),
    "client_encoding": (frozenset({"auto", "utf8", "utf-8", "unicode"}), "duro uses UTF8; remove it"),
    "encoding": (frozenset({"utf8", "utf-8", "unicode"}), "duro uses UTF8; remove it"),
    "replication": (frozenset({"false", "off", "no", "0"}), "duro needs ordinary sessions; remove it"),
    "require_auth": (frozenset(), "duro cannot choose the login method; use sslmode=verify-full instead"),
    "requirepeer": (frozenset(), "duro does not check the server's user; remove it"),
    "sslcertmode": (frozenset({"allow", "disable"}), "use allow or disable"),
    "service": (frozenset(), "service files are not read; write their contents into DURO_DATABASE_URL"),
    "servicefile": (frozenset(), "service files are not read; write their contents into DURO_DATABASE_URL"),
    "min_protocol_version": (frozenset({"3.0"}), "duro uses protocol 3.0; remove it"),
    "max_protocol_version": (frozenset({"3.0", "3.2", "latest"}), "duro uses protocol 3.0; remove it"),
    "scram_client_key": (frozenset(), "it is for foreign-data wrappers; use the password"),
    "scram_server_key": (frozenset(), "it is for foreign-data wrappers; use the password"),
    "sslidentity": (frozenset(), "set the client certificate with sslcert and sslkey"),
    "target_session_attrs": (
        frozenset({"any", "read-write", "primary"}),
        "duro writes; use read-write, or remove it",
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
    given = {name: value for name, value in parameters.items() if value}  # as in libpq, "" means not set
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
                raise _unreadable()  # probably the end of a password with an unencoded "?"
            raise InvalidInput(f"its parameter {name} is unknown to libpq and duro: correct or remove it.")


def _hosts(given: Mapping[str, str]) -> tuple[Host, ...]:
    """`hostaddr` is the address to connect to; only verify-full needs the name as well."""
    if "hostaddr" in given and given.get("sslmode", "").lower() == TlsMode.VERIFY_FULL.word:
        raise InvalidInput("its hostaddr cannot be combined with sslmode=verify-full: use only host.")
    names = (given.get("hostaddr") or given.get("host", "")).split(",")
    ports = given.get("port", "").split(",")
    if len(ports) == 1:
        ports *= len(names)
    if len(ports) != len(names):
        raise InvalidInput(
            f"it has {len(names)} hosts and {len(ports)} ports: write one port, or one per host."
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
    """As in libpq, 0 means no limit (here the longest), and 1 means 2."""
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
            "its sslrootcert=system needs sslmode=verify-full: public authorities certify any host."
        )
    if mode == TlsMode.REQUIRE and root:
        mode = TlsMode.VERIFY_CA  # as in libpq: an authority was set to be checked
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
        # Channel binding excludes a man in the middle. The driver lacks it; a verified certificate excludes
        # it too.
        if mode == TlsMode.DISABLE:
            raise InvalidInput("its channel_binding=require needs TLS: use another sslmode than disable.")
        mode = TlsMode.VERIFY_FULL
    return mode
