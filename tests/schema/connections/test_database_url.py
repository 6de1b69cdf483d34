"""DURO_DATABASE_URL: every parameter is applied, ignored or refused with a sentence that quotes no value."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schema.connections.database_target import DatabaseTarget, Host, TlsMode, TlsSettings
from schema.connections.database_url import parse_database_url
from schema.errors import InvalidInput

HOST = Host("h")
PLAIN = DatabaseTarget((HOST,), "d", "u", "p")


def with_tls(mode: TlsMode, root: str | None = None, **settings: object) -> DatabaseTarget:
    return replace(PLAIN, tls=TlsSettings(mode, root, **settings))


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("postgresql://u:p@h:5432/d", PLAIN),
        ("postgres://u:p@h/d", PLAIN),
        ("PostgreSQL://u:p@h/d", PLAIN),
        ("postgresql+asyncpg://u:p@h/d", PLAIN),
        ("  postgresql://u:p@h/d\n", PLAIN),
        ("postgresql://u:p@h/d?", PLAIN),
        ("postgresql://h/d?user=u&password=p", PLAIN),
        ("postgresql:///?host=h&user=u&password=p&dbname=d", PLAIN),
        ("postgresql://u:p@elsewhere:1/other?host=h&port=5432&dbname=d", PLAIN),
        ("host=h user=u password=p dbname=d", PLAIN),
        ("host = 'h'  user=u\npassword='p' port=5432 dbname=d", PLAIN),
        (r"host=h user=u password='it\'s \\ a' dbname=d", replace(PLAIN, password=r"it's \ a")),
        (r"host=h user=u password=a\ b dbname=d", replace(PLAIN, password="a b")),
        ("host=h user=u password='' dbname=d", replace(PLAIN, password=None)),
        ("postgresql://u:%40%2F%3F%23%25+%C3%A9@h/d", replace(PLAIN, password="@/?#%+é")),
        ("postgresql://u:p#q@h/d", replace(PLAIN, password="p#q")),
        ("postgresql://u:a:b@h/d", replace(PLAIN, password="a:b")),
        ("postgresql://h/d", DatabaseTarget((HOST,), "d")),
        ("postgresql://@h/d", DatabaseTarget((HOST,), "d")),
        ("postgresql://:p@h/d", DatabaseTarget((HOST,), "d", None, "p")),
        ("postgresql://u@h", DatabaseTarget((HOST,), "u", "u")),
        ("postgresql:///d", DatabaseTarget((Host(""),), "d")),
        ("postgresql://:6432/d", DatabaseTarget((Host("", 6432),), "d")),
        ("postgresql://u:p@h/a%20b%2Fc", replace(PLAIN, database="a b/c")),
        ("postgresql://u:p@%2Fvar%2Frun%2Fpostgresql/d", replace(PLAIN, hosts=(Host("/var/run/postgresql"),))),
        ("postgresql://u:p@/d?host=/cloudsql/a:b:c", replace(PLAIN, hosts=(Host("/cloudsql/a:b:c"),))),
        ("postgresql://u:p@[::1]:5433/d", replace(PLAIN, hosts=(Host("::1", 5433),))),
        ("postgresql://u:p@[fe80::1%25eth0]/d", replace(PLAIN, hosts=(Host("fe80::1%eth0"),))),
        ("postgresql://u:p@h:1,i,j:3/d", replace(PLAIN, hosts=(Host("h", 1), Host("i"), Host("j", 3)), writable=True)),
        ("host=h,i port=5433 user=u password=p dbname=d", replace(PLAIN, hosts=(Host("h", 5433), Host("i", 5433)), writable=True)),
        ("postgresql://u:p@h,i/d?target_session_attrs=any", replace(PLAIN, hosts=(HOST, Host("i")))),
        ("postgresql://u:p@h/d?target_session_attrs=primary", replace(PLAIN, writable=True)),
        ("postgresql://u:p@h/d?hostaddr=10.0.0.1", replace(PLAIN, hosts=(Host("10.0.0.1"),))),
        ("postgresql://u:p@h/d?connect_timeout=30", replace(PLAIN, connect_timeout=30)),
        ("postgresql://u:p@h/d?connect_timeout=1", replace(PLAIN, connect_timeout=2)),
        ("postgresql://u:p@h/d?connect_timeout=2", replace(PLAIN, connect_timeout=2)),
        ("postgresql://u:p@h/d?connect_timeout=60", replace(PLAIN, connect_timeout=60)),
        ("postgresql://u:p@h/d?connect_timeout=61", replace(PLAIN, connect_timeout=60)),
        ("postgresql://u:p@h/d?connect_timeout=0", replace(PLAIN, connect_timeout=60)),
        ("postgresql://u@h/d?passfile=/x", replace(PLAIN, password=None, passfile="/x")),
        ("postgresql://u:p@h/d?passfile=/x", PLAIN),
        ("postgresql://u:p@h/d?options=endpoint%3Dep-1", replace(PLAIN, options="endpoint=ep-1")),
        ("postgresql://u:p@h/d?options=endpoint=ep-1", replace(PLAIN, options="endpoint=ep-1")),
        ("postgresql://u:p@h/d?sslmode=disable", with_tls(TlsMode.DISABLE)),
        ("postgresql://u:p@h/d?sslmode=allow", PLAIN),
        ("postgresql://u:p@h/d?sslmode=prefer", PLAIN),
        ("postgresql://u:p@h/d?sslmode=require", with_tls(TlsMode.REQUIRE)),
        ("postgresql://u:p@h/d?sslmode=no-verify", with_tls(TlsMode.REQUIRE)),
        ("postgresql://u:p@h/d?sslmode=require&sslrootcert=/ca", with_tls(TlsMode.VERIFY_CA, "/ca")),
        ("postgresql://u:p@h/d?sslmode=verify-ca", with_tls(TlsMode.VERIFY_CA, "system")),
        ("postgresql://u:p@h/d?sslmode=verify-full", with_tls(TlsMode.VERIFY_FULL, "system")),
        ("postgresql://u:p@h/d?sslmode=verify-full&sslrootcert=/ca", with_tls(TlsMode.VERIFY_FULL, "/ca")),
        ("postgresql://u:p@h/d?sslrootcert=system", with_tls(TlsMode.VERIFY_FULL, "system")),
        ("postgresql://u:p@h/d?sslrootcert=/ca", PLAIN),
        ("postgresql://u:p@h/d?requiressl=1", with_tls(TlsMode.REQUIRE)),
        ("postgresql://u:p@h/d?requiressl=0", PLAIN),
        ("postgresql://u:p@h/d?ssl=true", with_tls(TlsMode.REQUIRE)),
        ("postgresql://u:p@h/d?ssl=false", with_tls(TlsMode.DISABLE)),
        ("postgresql://u:p@h/d?sslaccept=strict", with_tls(TlsMode.VERIFY_FULL, "system")),
        ("postgresql://u:p@h/d?sslaccept=accept_invalid_certs", PLAIN),
        ("postgresql://u:p@h/d?sslmode=require&channel_binding=require", with_tls(TlsMode.VERIFY_FULL, "system")),
        ("postgresql://u:p@h/d?channel_binding=prefer", PLAIN),
        (
            "postgresql://u:p@h/d?sslmode=require&sslcert=/c&sslkey=/k&sslpassword=s",
            with_tls(TlsMode.REQUIRE, certificate="/c", key="/k", key_password="s"),
        ),
        ("postgresql://u:p@h/d?sslmode=require&sslcert=/c&sslcertmode=disable", with_tls(TlsMode.REQUIRE)),
        (
            "postgresql://u:p@h/d?sslmode=verify-ca&sslrootcert=/ca&sslcrl=/l&sslcrldir=/m",
            with_tls(TlsMode.VERIFY_CA, "/ca", revocations="/l", revocations_dir="/m"),
        ),
        (
            "postgresql://u:p@h/d?sslmode=require&ssl_min_protocol_version=TLSv1.3&ssl_max_protocol_version=tlsv1.3",
            with_tls(TlsMode.REQUIRE, minimum="TLSv1.3", maximum="TLSv1.3"),
        ),
        ("postgresql://u:p@h/d?sslmode=require&sslnegotiation=direct", with_tls(TlsMode.REQUIRE, direct=True)),
        ("postgresql://u:p@h/d?sslnegotiation=postgres", PLAIN),
    ],
)  # fmt: skip
def test_a_url_is_parsed_like_libpq(text: str, target: DatabaseTarget) -> None:
    assert parse_database_url(text) == target


@pytest.mark.parametrize(
    "parameters",
    [
        "application_name=x&fallback_application_name=y",
        "keepalives=1&keepalives_idle=30&keepalives_interval=10&keepalives_count=5&tcp_user_timeout=1000",
        "gssencmode=disable&krbsrvname=postgres&gsslib=gssapi&gssdelegation=0",
        "load_balance_hosts=random",
        "sslcompression=0&sslsni=1&sslcertmode=allow",
        "client_encoding=UTF8",
        "replication=false",
        "pgbouncer=true&schema=public&connection_limit=5&pool_timeout=10&socket_timeout=3",  # Prisma
        "supa=base-pooler.x",  # Supabase
        "pool_max_conns=5&default_query_exec_mode=simple_protocol",  # pgx
        "service=&require_auth=&requirepeer=",  # empty is left out
    ],
)
def test_a_parameter_without_effect_is_ignored(parameters: str) -> None:
    assert parse_database_url(f"postgresql://u:p@h/d?{parameters}") == PLAIN


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "write postgresql://"),
        ("not a url", "write postgresql://"),
        ("mysql://u:SECRET@h/d", "write postgresql://"),
        ("https://u:SECRET@h/d", "write postgresql://"),
        ("jdbc:postgresql://h/d?user=u&password=SECRET", "JDBC"),
        ('"postgresql://u:SECRET@h/d"', "quotation marks"),
        ("postgresql://h", "names no database"),
        ("postgresql://u:SEC@RET@h/d", "percent-encoded"),
        ("postgresql://u:SEC/RET@h/d", "percent-encoded"),
        ("postgresql://u:5432/SECRET@h/d", "percent-encoded"),
        ("postgresql://u:SECRET?a=b@h/d", "percent-encoded"),
        ("postgresql://u:SECRET?@h/d", "percent-encoded"),
        ("postgresql://u:SECRET%@h/d", "percent-encoded"),
        ("postgresql://u:SECRET%zz@h/d", "percent-encoded"),
        ("postgresql://u:SECRET%00@h/d", "percent-encoded"),
        ("postgresql://u:SECRET%ff@h/d", "percent-encoded"),
        ("postgresql://u:p@h:SECRET/d", "its port is not a number from 1 to 65535"),
        ("postgresql://u:p@h:0/d", "its port"),
        ("postgresql://u:p@h:65536/d", "its port"),
        ("postgresql://u:p@[::1/d", "cannot be read"),
        ("postgresql://u:p@h i/d", "its host is not a name"),
        ("postgresql://u:p@h,i/d?port=1,2,3", "2 hosts and 3 ports"),
        ("host=h dbname='d", "values quoted"),
        ("host=h dbname", "values quoted"),
        ("host=h colour=SECRET dbname=d", "its parameter colour is unknown"),
        ("postgresql://u:p@h/d?colour=SECRET", "its parameter colour is unknown"),
        ("postgresql://u:p@h/d?sslmode", "cannot be read"),
        ("postgresql://u:p@h/d?sslmode=SECRET", "sslmode cannot be used with this value: use disable, prefer"),
        ("postgresql://u:p@h/d?connect_timeout=SECRET", "connect_timeout is not a whole number"),
        ("postgresql://u:p@h/d?gssencmode=require", "gssencmode"),
        ("postgresql://u:p@h/d?target_session_attrs=standby", "duro writes"),
        ("postgresql://u:p@h/d?target_session_attrs=prefer-standby", "duro writes"),
        ("postgresql://u:p@h/d?target_session_attrs=read-only", "duro writes"),
        ("postgresql://u:p@h/d?service=SECRET", "service files are not read"),
        ("postgresql://u:p@h/d?require_auth=scram-sha-256", "require_auth"),
        ("postgresql://u:p@h/d?requirepeer=postgres", "requirepeer"),
        ("postgresql://u:p@h/d?replication=database", "replication"),
        ("postgresql://u:p@h/d?client_encoding=latin1", "client_encoding"),
        ("postgresql://u:p@h/d?sslcertmode=require", "sslcertmode"),
        ("postgresql://u:p@h/d?ssl_min_protocol_version=SSLv3", "TLSv1.2 or TLSv1.3"),
        ("postgresql://u:p@h/d?sslrootcert=system&sslmode=require", "sslrootcert=system needs sslmode=verify-full"),
        ("postgresql://u:p@h/d?sslrootcert=system&sslmode=verify-ca", "sslrootcert=system needs sslmode=verify-full"),
        ("postgresql://u:p@h/d?sslmode=disable&channel_binding=require", "channel_binding=require needs TLS"),
        ("postgresql://u:p@h/d?sslnegotiation=direct", "direct needs sslmode=require"),
        ("postgresql://u:p@h/d?hostaddr=10.0.0.1&sslmode=verify-full", "hostaddr"),
        ("postgresql://u:p@h/d?load_balance_hosts=SECRET", "load_balance_hosts"),
    ],
)  # fmt: skip
def test_an_invalid_url_is_one_sentence_without_secrets(text: str, sentence: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_database_url(text)
    said = str(caught.value)
    assert sentence in said
    assert said.endswith(".")
    assert said.isprintable()
    assert "SEC" not in said
    assert "RET" not in said


# PostgreSQL 16's documentation, 34.1.2 "Parameter Key Words".
LIBPQ = """
    host hostaddr port dbname user password passfile require_auth channel_binding connect_timeout client_encoding options
    application_name fallback_application_name keepalives keepalives_idle keepalives_interval keepalives_count
    tcp_user_timeout replication gssencmode sslmode requiressl sslcompression sslcert sslkey sslpassword sslcertmode
    sslrootcert sslcrl sslcrldir sslsni requirepeer ssl_min_protocol_version ssl_max_protocol_version krbsrvname gsslib
    gssdelegation service target_session_attrs load_balance_hosts
"""


def refusal(text: str) -> str | None:
    try:
        parse_database_url(text)
    except InvalidInput as refused:
        return str(refused)
    return None


@pytest.mark.parametrize("name", LIBPQ.split())
def test_every_libpq_parameter_is_handled(name: str) -> None:
    assert "not known" not in (refusal(f"host=h dbname=d {name}=1") or "")


def test_environment_and_home_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOST", "PORT", "USER", "PASSWORD", "DATABASE", "SSLMODE", "TARGETSESSIONATTRS", "OPTIONS"):
        monkeypatch.setenv(f"PG{name}", "elsewhere")
    monkeypatch.setenv("HOME", "/nowhere")
    assert parse_database_url("postgresql:///d") == DatabaseTarget((Host(""),), "d")


def test_a_target_shows_no_secret() -> None:
    text = (
        "postgresql://duro_owner:SECRET@db.example:5433/duro?sslmode=require&sslcert=c&sslkey=k&sslpassword=SECRET"
        "&options=SECRET"
    )
    target = parse_database_url(text)
    assert str(target) == "postgresql://duro_owner@db.example:5433/duro"
    assert "SECRET" not in f"{target!r}"


def test_another_login_has_no_owner_credentials() -> None:
    owner = "postgresql://h:5433/duro?user=o&password=OWNERS&sslmode=require&sslcert=/c&sslkey=/k&passfile=/x"
    url = parse_database_url(owner).with_login("duro_live_analyst", "a b").url()
    assert url == "postgresql://duro_live_analyst:a%20b@h:5433/duro?sslmode=require"


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12)
maybe = st.none() | texts
hosts = st.builds(
    Host,
    st.sampled_from(["", "h", "db.example", "a_b", "10.0.0.1", "::1", "fe80::1%eth0", "/run", "/a b/ü:c@"]),
    st.integers(1, 65535) | st.just(5432),
)  # fmt: skip


@st.composite
def tls_settings(draw: st.DrawFn) -> TlsSettings:
    mode = draw(st.sampled_from(TlsMode))
    if mode == TlsMode.DISABLE:
        return TlsSettings(mode)
    verifies = mode >= TlsMode.VERIFY_CA
    certificate = draw(maybe)
    return TlsSettings(
        mode,
        (draw(maybe.filter(lambda root: root != "system")) or "system") if verifies else None,
        certificate,
        draw(maybe) if certificate else None,
        draw(maybe) if certificate else None,
        draw(maybe) if verifies else None,
        draw(maybe) if verifies else None,
        draw(st.sampled_from([None, "TLSv1.2", "TLSv1.3"])),
        draw(st.sampled_from([None, "TLSv1.2", "TLSv1.3"])),
        draw(st.booleans()) and mode >= TlsMode.REQUIRE,
    )


@st.composite
def targets(draw: st.DrawFn) -> DatabaseTarget:
    password = draw(maybe)
    return DatabaseTarget(
        tuple(draw(st.lists(hosts, min_size=1, max_size=3))),
        draw(texts),
        draw(maybe),
        password,
        None if password else draw(maybe),
        draw(tls_settings()),
        draw(maybe),
        draw(st.booleans()),
        float(draw(st.integers(2, 60))),
    )


@given(targets())
def test_a_target_round_trips_through_its_url(target: DatabaseTarget) -> None:
    assert parse_database_url(target.url()) == target


@given(st.text(max_size=80) | st.text(st.sampled_from("postgresql://u:p@h,[]%25?=&' \\"), max_size=40))
def test_any_text_is_parsed_or_refused_with_a_sentence(text: str) -> None:
    for candidate in (text, f"postgresql://{text}", f"host={text}"):
        assert (refusal(candidate) or "understood.").endswith(".")
