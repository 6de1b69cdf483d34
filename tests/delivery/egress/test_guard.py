import asyncio
from collections.abc import Sequence
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from delivery.egress.endpoint_url import parse_endpoint_url
from delivery.egress.guard import Blocked, EgressGuard, EgressPolicy, parse_cidrs
from delivery.egress.resolver import DnsFailed
from schema.errors import InvalidInput


class Names:
    """A resolver with a fixed result, which records the names asked for."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = [ip_address(text) for text in addresses]
        self.asked: list[str] = []

    async def resolve(self, host: str, _deadline: float) -> Sequence[IPv4Address | IPv6Address]:
        self.asked.append(host)
        if not self.addresses:
            raise DnsFailed("name or service not known")
        return self.addresses

    def cached(self, _host: str) -> Sequence[IPv4Address | IPv6Address] | None:
        return self.addresses or None


class Silence:
    async def resolve(self, _host: str, _deadline: float) -> Sequence[IPv4Address | IPv6Address]:
        raise TimeoutError


def policy(*networks: str) -> EgressPolicy:
    return EgressPolicy(tuple(map(ip_network, networks)))


async def checked(url: str, names: Names, allow: EgressPolicy | None = None) -> list[str]:
    """Resolves with and without waiting for DNS, and checks that both decide the same."""
    guard = EgressGuard(allow or policy(), names)
    parsed = parse_endpoint_url(url)
    waited = at_once = None
    try:
        waited = await guard.resolve(parsed, asyncio.get_running_loop().time() + 1)
    finally:
        if names.addresses:
            with suppress(Blocked, DnsFailed):
                at_once = guard.resolve_cached(parsed)
            assert at_once == waited
    return [address.text for address in waited]


async def test_addresses_are_unique_and_alternate_families_ipv4_first() -> None:
    answer = Names("2600::1", "2600::2", "8.8.8.8", "1.1.1.1", "::ffff:8.8.8.8")
    assert await checked("https://a.test/", answer) == ["8.8.8.8", "2600::1", "1.1.1.1", "2600::2"]


@pytest.mark.parametrize(
    "bad", ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "64:ff9b::7f00:1", "fe80::1%eth0"]
)
async def test_one_forbidden_address_blocks_the_whole_name(bad: str) -> None:
    good = ("8.8.8.8", "2600::1")
    for answer in ((bad, *good), (*good, bad), (bad,)):
        with pytest.raises(Blocked):
            await checked("https://a.test/", Names(*answer))


@pytest.mark.parametrize(
    "url",
    [
        "https://127.0.0.1/",
        "https://[::1]/",
        "https://[::]/",
        "https://0.0.0.0/",
        "https://10.1.2.3/",
        "https://169.254.169.254/latest/meta-data/",
        "https://[::ffff:127.0.0.1]/",
        "https://[::127.0.0.1]/",
        "https://[::ffff:0:127.0.0.1]/",
        "https://[64:ff9b::127.0.0.1]/",
        "https://[64:ff9b:1::127.0.0.1]/",
        "https://[2002:7f00:1::]/",
        "https://[2001:0:7f00:1::]/",
        "https://[2001:0:808:808::80ff:fffe]/",
        "https://[fd00:ec2::254]/",
        "https://[fec0::1]/",
        "https://[5f00::1]/",
    ],
)
async def test_forbidden_literals_are_blocked_without_dns(url: str) -> None:
    names = Names("8.8.8.8")
    with pytest.raises(Blocked):
        await checked(url, names)
    assert names.asked == []


@pytest.mark.parametrize("host", ["localhost", "localhost.", "LOCALHOST", "a.localhost", "a.b.localhost."])
async def test_localhost_is_loopback_without_dns(host: str) -> None:
    names = Names("8.8.8.8")
    with pytest.raises(Blocked, match="loopback"):
        await checked(f"https://{host}/", names)
    assert await checked(f"http://{host}:1/", names, policy("127.0.0.0/8")) == ["127.0.0.1"]
    assert await checked(f"http://{host}:1/", names, policy("::1/128")) == ["::1"]
    both = policy("127.0.0.0/8", "::1/128")
    assert await checked("http://localhost:1/", names, both) == ["127.0.0.1", "::1"]
    assert names.asked == []


async def test_names_that_only_look_like_localhost_go_to_dns() -> None:
    names = Names("8.8.8.8")
    for host in ("notlocalhost", "localhost.example"):
        await checked(f"https://{host}/", names)
    assert names.asked == ["notlocalhost", "localhost.example"]


async def test_plain_http_and_other_ports_need_allowed_addresses() -> None:
    inside = policy("10.0.0.0/8")
    for url in ("http://a.test/", "http://a.test:8080/", "https://a.test:9000/"):
        assert await checked(url, Names("10.0.0.1", "10.0.0.2"), inside) == ["10.0.0.1", "10.0.0.2"]
        for answer in (("8.8.8.8",), ("10.0.0.1", "8.8.8.8"), ("10.0.0.1", "192.168.0.1")):
            with pytest.raises(Blocked):
                await checked(url, Names(*answer), inside)
    assert await checked("https://a.test:8443/", Names("8.8.8.8")) == ["8.8.8.8"]


async def test_a_mapped_address_is_checked_and_dialled_as_ipv4() -> None:
    assert await checked("https://a.test/", Names("::ffff:8.8.8.8")) == ["8.8.8.8"]
    assert await checked("https://a.test/", Names("::ffff:10.0.0.1"), policy("10.0.0.0/8")) == ["10.0.0.1"]
    with pytest.raises(Blocked):
        await checked("https://a.test/", Names("::ffff:10.0.0.1"), policy("::/0"))


@given(st.ip_addresses(v=4, network="10.0.0.0/8"))
def test_an_allowed_ipv4_network_excludes_embedded_addresses(address: IPv4Address) -> None:
    allowed = policy("10.0.0.0/8")
    assert allowed.refusal("https", 443, address) is None
    for prefix, shift in (("64:ff9b::", 0), ("64:ff9b:1::", 0), ("::", 0), ("2002::", 80), ("2001::", 64)):
        wrapped = IPv6Address(int(IPv6Address(prefix)) | (int(address) << shift))
        assert allowed.refusal("https", 443, wrapped)


@given(st.ip_addresses(), st.sampled_from(["http", "https"]), st.integers(1, 65535))
def test_an_allowed_network_overrides_all_rules(
    address: IPv4Address | IPv6Address, scheme: str, port: int
) -> None:
    everything = policy("0.0.0.0/0", "::/0")
    assert everything.refusal(scheme, port, address) is None


async def test_a_blocked_error_does_not_contain_the_address() -> None:
    with pytest.raises(Blocked) as blocked:
        await checked("https://intranet.test/", Names("10.11.12.13"))
    assert str(blocked.value) == "the target is a private address"


async def test_changed_addresses_are_checked_again() -> None:
    names = Names("8.8.8.8")
    guard = EgressGuard(policy(), names)
    url = parse_endpoint_url("https://a.test/")
    for _ in range(2):
        assert guard.resolve_cached(url) is not None
    names.addresses = [ip_address("8.8.8.8"), ip_address("10.0.0.1")]
    for _ in range(2):
        with pytest.raises(Blocked):
            guard.resolve_cached(url)
    names.addresses = []
    assert guard.resolve_cached(url) is None


async def test_an_empty_dns_result_is_a_failure() -> None:
    class Empty(Names):
        async def resolve(self, _host: str, _deadline: float) -> Sequence[IPv4Address | IPv6Address]:
            return []

    with pytest.raises(DnsFailed):
        await checked("https://a.test/", Empty())


@pytest.mark.parametrize(
    "url", ["https://127.0.0.1/", "https://localhost./", "http://8.8.8.8/", "https://8.8.8.8:22/"]
)
async def test_saving_a_forbidden_url_names_the_setting(url: str) -> None:
    with pytest.raises(InvalidInput, match="DURO_EGRESS_ALLOW"):
        await EgressGuard(policy(), Names()).check_at_save(parse_endpoint_url(url))


async def test_saving_resolves_the_name_and_checks_it() -> None:
    url = parse_endpoint_url("https://a.test/")
    await EgressGuard(policy(), Names("8.8.8.8")).check_at_save(url)
    with pytest.raises(InvalidInput, match="a private address"):
        await EgressGuard(policy(), Names("8.8.8.8", "10.0.0.1")).check_at_save(url)


@pytest.mark.parametrize("resolver", [Names(), Silence()])
async def test_saving_accepts_an_unresolved_name_for_https_only(resolver: Names | Silence) -> None:
    guard = EgressGuard(policy("10.0.0.0/8"), resolver)
    await guard.check_at_save(parse_endpoint_url("https://soon.test/"))
    for url in ("http://soon.test/", "https://soon.test:9000/"):
        with pytest.raises(InvalidInput, match="does not resolve"):
            await guard.check_at_save(parse_endpoint_url(url))


def test_a_list_of_networks_is_parsed() -> None:
    assert parse_cidrs("") == parse_cidrs("  ") == ()
    assert parse_cidrs("127.0.0.0/8, 10.1.2.3 ,FD00::/8") == (
        ip_network("127.0.0.0/8"),
        ip_network("10.1.2.3/32"),
        ip_network("fd00::/8"),
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("10.0.0.1/8", "did you mean 10.0.0.0/8"),
        ("fd00::1/8", "did you mean fd00::/8"),
        ("10.0.0.0/33", "not a network"),
        ("10.0.0.0/8,", "not a network"),
        (",", "not a network"),
        ("10.0.0.0/8 127.0.0.0/8", "not a network"),
        ("localhost", "not a network"),
        ("10", "not a network"),
        ("fe80::1%eth0", "not a network"),
        ("::ffff:10.0.0.0/104", "IPv4 written as IPv6"),
    ],
)
def test_an_invalid_network_is_refused_by_name(text: str, says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        parse_cidrs(text)
