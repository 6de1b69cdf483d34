from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from delivery.egress.special_addresses import embedded_ipv4, special_reason, unmapped

Wrap = Callable[[int], int]

MAPPED: Wrap = lambda ipv4: (0xFFFF << 32) | ipv4  # noqa: E731  a table of formulas
NAT64: Wrap = lambda ipv4: int(IPv6Address("64:ff9b::")) | ipv4  # noqa: E731
WRAPPINGS: dict[str, Wrap] = {
    "compatible": lambda ipv4: ipv4,
    "mapped": MAPPED,
    "translated": lambda ipv4: (0xFFFF << 48) | ipv4,
    "NAT64": NAT64,
    "local NAT64": lambda ipv4: int(IPv6Address("64:ff9b:1::")) | ipv4,
    "6to4": lambda ipv4: (0x2002 << 112) | (ipv4 << 80),
    "Teredo server": lambda ipv4: (0x2001 << 112) | (ipv4 << 64) | (~0x08080808 & 0xFFFFFFFF),
    "Teredo client": lambda ipv4: (0x2001 << 112) | (0x08080808 << 64) | (~ipv4 & 0xFFFFFFFF),
}


@pytest.mark.parametrize(
    "text",
    [
        *(
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "10.255.255.255",
            "100.64.0.1",
            "100.100.100.200",
            "100.127.255.255",
        ),
        *("127.0.0.1", "127.255.255.255", "168.63.129.16", "169.254.0.1", "169.254.169.254", "169.254.170.2"),
        *(
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.1",
            "192.0.0.9",
            "192.0.0.192",
            "192.0.2.1",
            "192.31.196.1",
        ),
        *("192.52.193.1", "192.88.99.1", "192.168.1.1", "192.175.48.1", "198.18.0.1", "198.19.255.255"),
        *("198.51.100.1", "203.0.113.1", "224.0.0.1", "224.0.1.1", "239.255.255.255", "240.0.0.1"),
        *("255.255.255.255", "::", "::1", "::2", "::8.8.8.8", "::ffff:0:8.8.8.8", "64:ff9b:1::8.8.8.8"),
        *(
            "100::1",
            "100:0:0:1::1",
            "1::1",
            "2001::1",
            "2001:0:808:808::1",
            "2001:2::1",
            "2001:10::1",
            "2001:20::1",
        ),
        *("2001:4:112::1", "2001:db8::1", "2002:808:808::1", "2620:4f:8000::1", "3fff::1", "3fff:fff::1"),
        *("4000::1", "5f00::1", "8000::1", "fc00::1", "fd00:ec2::254", "fd12::1", "fe00::1", "fe80::1"),
        *("fe80::1%eth0", "febf::1", "fec0::1", "feff::1", "ff02::1", "ff0e::1", "2600::1%eth0"),
    ],
)
def test_special_addresses_have_a_reason(text: str) -> None:
    assert special_reason(ip_address(text))


@pytest.mark.parametrize(
    "text",
    [
        *(
            "1.1.1.1",
            "8.8.8.8",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
        ),
        *("128.0.0.0", "169.253.255.255", "172.15.255.255", "172.32.0.0", "192.167.255.255", "192.169.0.0"),
        *(
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "2001:200::1",
            "2606:4700:4700::1111",
            "2a00:1450::1",
        ),
        *("::ffff:8.8.8.8", "64:ff9b::8.8.8.8"),
    ],
)
def test_public_addresses_pass(text: str) -> None:
    assert special_reason(ip_address(text)) is None


def test_a_mapped_address_is_its_ipv4_address() -> None:
    assert unmapped(ip_address("::ffff:192.0.2.1")) == IPv4Address("192.0.2.1")
    for text in ("192.0.2.1", "::192.0.2.1", "2600::1"):
        assert unmapped(ip_address(text)) == ip_address(text)


forbidden = st.ip_addresses(v=4).filter(special_reason) | st.ip_addresses(v=4, network="127.0.0.0/8")


@pytest.mark.parametrize("name", WRAPPINGS)
@given(ipv4=forbidden)
def test_a_forbidden_ipv4_address_stays_forbidden_when_embedded(name: str, ipv4: IPv4Address) -> None:
    assert special_reason(IPv6Address(WRAPPINGS[name](int(ipv4))))


@pytest.mark.parametrize("name", WRAPPINGS)
@given(ipv4=st.ip_addresses(v=4))
def test_an_embedded_ipv4_address_is_found(name: str, ipv4: IPv4Address) -> None:
    assert ipv4 in embedded_ipv4(IPv6Address(WRAPPINGS[name](int(ipv4))))


@given(ipv4=st.ip_addresses(v=4))
def test_only_nat64_and_mapping_lead_to_a_public_ipv4_address(ipv4: IPv4Address) -> None:
    for name, wrap in WRAPPINGS.items():
        passes = special_reason(IPv6Address(wrap(int(ipv4)))) is None
        assert passes == (wrap in {MAPPED, NAT64} and special_reason(ipv4) is None), name


@given(st.ip_addresses())
def test_addresses_not_global_in_the_stdlib_never_pass(address: IPv4Address | IPv6Address) -> None:
    if not unmapped(address).is_global:
        assert special_reason(address)
