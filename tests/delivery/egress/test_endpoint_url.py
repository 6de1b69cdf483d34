from ipaddress import IPv4Address, IPv6Address
from urllib.parse import urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from yarl import URL

from delivery.egress.endpoint_url import EndpointUrl, parse_endpoint_url
from schema.errors import InvalidInput

LONGEST = ".".join(["a" * 49] * 5) + ".abc"
"""253 characters."""


def test_the_parts_are_ready_to_use() -> None:
    url = parse_endpoint_url("HTTPS://Hooks.Example.COM:8443/a/%7Eb?x=1&y=%2F")
    assert url == EndpointUrl("https", "hooks.example.com", 8443, "/a/%7Eb?x=1&y=%2F", None)
    assert (url.host_header, url.tls_name) == ("hooks.example.com:8443", "hooks.example.com")
    assert str(url) == "https://hooks.example.com:8443/a/%7Eb?x=1&y=%2F"


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("https://a.test", "https://a.test/"),
        ("https://a.test:443/", "https://a.test/"),
        ("http://a.test:80/", "http://a.test/"),
        ("http://a.test:443/", "http://a.test:443/"),
        ("https://a.test:0443/", "https://a.test/"),
        ("https://a.test?x", "https://a.test/?x"),
        ("https://a.test/?", "https://a.test/"),
        ("https://a.test//b/../c", "https://a.test//b/../c"),
        ("https://a.test/ü?q=ü€", "https://a.test/%C3%BC?q=%C3%BC%E2%82%AC"),
        ('https://a.test/"<>^`{|}[]', "https://a.test/%22%3C%3E%5E%60%7B%7C%7D%5B%5D"),
        ("https://xn--bcher-kva.example/", "https://xn--bcher-kva.example/"),
        ("https://a.test./", "https://a.test./"),
        ("https://[2001:DB8:0:0::1]:8443/", "https://[2001:db8::1]:8443/"),
        ("https://9.example/", "https://9.example/"),
        ("https://1.2.3.example/", "https://1.2.3.example/"),
        ("https://A_B.example.com/", "https://a_b.example.com/"),
        ("https://_hooks._tcp.example.com/", "https://_hooks._tcp.example.com/"),
        ("https://a-.example.com/", "https://a-.example.com/"),
        ("https://-a.example.com/", "https://-a.example.com/"),
        ("https://receiver:8443/", "https://receiver:8443/"),
        (f"https://{'a' * 63}.test/", f"https://{'a' * 63}.test/"),
        (f"https://{LONGEST}/", f"https://{LONGEST}/"),
        (f"https://{LONGEST}./", f"https://{LONGEST}./"),
    ],
)
def test_a_url_has_one_canonical_form(text: str, canonical: str) -> None:
    assert str(parse_endpoint_url(text)) == canonical


def test_literal_hosts_are_addresses() -> None:
    assert parse_endpoint_url("https://192.0.2.1/").literal == IPv4Address("192.0.2.1")
    six = parse_endpoint_url("https://[::FFFF:127.0.0.1]/")
    assert six.literal == IPv6Address("::ffff:127.0.0.1")
    assert six.host_header == f"[{six.host}]"
    assert parse_endpoint_url("https://a.test/").literal is None


@pytest.mark.parametrize(
    "host",
    [
        "2130706433",
        "0x7f000001",
        "0X7F.0.0.1",
        "127.1",
        "127.0.1",
        "0177.0.0.1",
        "127.0.0.01",
        "127.0.0.1.",
        "127.0.0.256",
        "1.2.3.4.5",
        "a.0x",
        "a.1",
        "①②⑦.0.0.1",
        "127。0。0。1",
        "ｌｏｃａｌｈｏｓｔ",  # noqa: RUF001  full-width letters are the point
        "bücher.example",
        "::1",
        "[127.0.0.1]",
        "[::1",
        "::1]",
        "[::1]x",
        "[fe80::1%25eth0]",
        "[fe80::1%eth0]",
        "[v1.x]",
        "[]",
        "[[::1]]",
        "a%2eb",
        "127.0.0.1%20",
        "a..b",
        ".a",
        "a..",
        ".",
        "a,b.test",
        "*.test",
        "a" * 64 + ".test",
        LONGEST + "a",
        "a+b.test",
        "a~b.test",
        ".".join(["a" * 60] * 5),
        "",
    ],
)
def test_a_host_that_two_parsers_could_read_differently_is_refused(host: str) -> None:
    with pytest.raises(InvalidInput):
        parse_endpoint_url(f"https://{host}/")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("ftp://a.test/", "https://"),
        ("file:///etc/passwd", "https://"),
        ("a.test", "https://"),
        ("//a.test/", "https://"),
        ("https:a.test", "https://"),
        ("https:/a.test", "https://"),
        ("", "https://"),
        ("https:///path", "no host"),
        ("https://:443/", "no host"),
        ("https://me@a.test/", "user name"),
        ("https://me:pw@a.test/", "user name"),
        ("https://a.test@127.0.0.1/", "user name"),
        ("https://a.test/#x", "fragment"),
        ("https://a.test/#", "fragment"),
        ("https://a.test:0/", "port"),
        ("https://a.test:65536/", "port"),
        ("https://a.test:/", "port"),
        ("https://a.test:-1/", "port"),
        ("https://a.test:４43/", "ASCII"),  # noqa: RUF001  a full-width digit
        ("https://[::1]:x/", "port"),
        ("https://a.test/%", "%25"),
        ("https://a.test/%zz", "%25"),
        ("https://a.test/?q=%2", "%25"),
        ("https://a.test/a b", "whitespace"),
        (" https://a.test/", "whitespace"),
        ("https://a.test/\n", "whitespace"),
        ("https://a.\ttest/", "whitespace"),
        ("https://a.test\\@b.test/", "backslash"),
        ("https://a.test/\x00", "unprintable"),
        ("https://a.test/\x7f", "unprintable"),
        ("https://a.test/\u3000", "whitespace"),
        ("https://a.test/\u202e", "unprintable"),
        ("https://a.test/\udc80", "unprintable"),
        ("https://a.test/" + "a" * 2048, "longer"),
        ("https://a.test/" + "ü" * 500, "longer"),
        ("https://bücher.example/", "punycode"),
    ],
)
def test_an_invalid_url_is_refused_in_one_sentence(text: str, says: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        parse_endpoint_url(text)
    message = str(refused.value)
    assert says in message
    assert message.isprintable()
    assert message.endswith(".")


def test_no_message_repeats_the_url() -> None:
    for text in ("https://me:secret@a.test/", "https://a.test/secret#", "https://a.test/%zsecret"):
        with pytest.raises(InvalidInput) as refused:
            parse_endpoint_url(text)
        assert "secret" not in str(refused.value)


def test_a_repr_does_not_show_the_path() -> None:
    assert "secret" not in repr(parse_endpoint_url("https://a.test/secret?secret"))


hosts = st.one_of(
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(lambda address: f"[{address}]"),
    st.from_regex(r"[a-zA-Z0-9_-]{1,20}(\.[a-zA-Z0-9_-]{1,20}){0,3}\.?", fullmatch=True),
    st.text(alphabet="0123456789abcdefx.:[]%@①。ü", max_size=20),
)
urls = st.builds(
    "{}://{}{}{}".format,
    st.sampled_from(["http", "https", "HTTPS"]),
    hosts,
    st.one_of(st.just(""), st.integers(-1, 70000).map(lambda port: f":{port}")),
    st.text(max_size=30).map(lambda rest: f"/{rest}"),
)


@given(st.one_of(urls, st.text(), st.text(alphabet="htps:/?#[]@%.\\1a \n")))
@example("https://[::ffff:1.2.3.4]/?#")
def test_any_text_is_refused_or_round_trips(text: str) -> None:
    try:
        url = parse_endpoint_url(text)
    except InvalidInput:
        return
    assert parse_endpoint_url(str(url)) == url
    assert str(url).isascii()
    assert len(str(url)) <= 2048


@given(urls)
def test_other_parsers_read_accepted_urls_the_same_way(text: str) -> None:
    """urllib.parse and yarl."""
    try:
        url = parse_endpoint_url(text)
    except InvalidInput:
        return
    split = urlsplit(str(url))
    assert (split.scheme, split.hostname, split.port or url.port) == (url.scheme, url.host, url.port)
    assert split.username is split.password is None
    assert not split.fragment
    by_yarl = URL(f"http://192.0.2.1:1{url.target}", encoded=True)
    assert by_yarl.raw_path_qs == url.target
    assert by_yarl.raw_host == "192.0.2.1"
