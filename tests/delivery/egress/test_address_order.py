"""The order in which a host's addresses are tried, and the time for each."""

import asyncio
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from delivery.egress.address_order import MIN_SHARE, interleave, share
from delivery.egress.guard import Blocked, CheckedAddress
from delivery.egress.preferred_addresses import REMEMBERED, PreferredAddresses
from delivery.http.attempt_contract import Outcome
from delivery.http.attempt_failed import AttemptFailed
from delivery.http.local_faults import OutOfDescriptors
from delivery.http.sockets import first_reached

hosts = st.lists(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)), min_size=1, max_size=12)
HOST = ("a.test", 443)


@given(hosts)
def test_every_address_comes_once_and_families_alternate(answer: list[IPv4Address | IPv6Address]) -> None:
    order = interleave(answer)
    assert sorted(map(str, order)) == sorted({str(address) for address in answer})
    for version in (4, 6):
        family = [address for address in dict.fromkeys(answer) if address.version == version]
        assert [address for address in order if address.version == version] == family
    versions = [address.version for address in order]
    pairs = min(versions.count(4), versions.count(6))
    assert versions[: 2 * pairs] == [4, 6] * pairs


@given(st.floats(0.001, 60), st.integers(1, 64))
def test_time_shares_fill_the_time_and_keep_a_minimum(seconds: float, addresses: int) -> None:
    left = seconds
    for count in range(addresses, 0, -1):
        given_ = share(left, count)
        assert min(left, MIN_SHARE) <= given_ <= left
        left -= given_
    assert left == pytest.approx(0, abs=1e-9)


def test_two_addresses_have_half_the_time_each_and_a_single_one_has_all() -> None:
    assert (share(5, 2), share(2.5, 1), share(5, 1)) == (2.5, 2.5, 5)
    assert (share(5, 64), share(0.1, 2)) == (MIN_SHARE, 0.1)


def candidates(answer: list[IPv4Address | IPv6Address]) -> tuple[CheckedAddress, ...]:
    return tuple(CheckedAddress(address, str(address)) for address in interleave(answer))


@given(hosts, st.data())
def test_an_attempt_begins_with_the_preferred_address(
    answer: list[IPv4Address | IPv6Address], data: st.DataObject
) -> None:
    addresses, first = candidates(answer), PreferredAddresses()
    if len(addresses) == 1:
        return
    assert first.order(HOST, addresses) == addresses
    used = data.draw(st.sampled_from(addresses))
    first.answered(HOST, used.text)
    order = first.order(HOST, addresses)
    assert order[0] == used
    assert sorted(order, key=addresses.index) == list(addresses)
    first.failed(HOST, used.text, order)
    assert first.order(HOST, addresses)[0] == order[1]
    assert first.order(("b.test", 443), addresses) == addresses


@given(hosts, hosts)
def test_a_removed_address_is_never_tried(
    before: list[IPv4Address | IPv6Address], now: list[IPv4Address | IPv6Address]
) -> None:
    first = PreferredAddresses()
    for address in candidates(before):
        first.answered(HOST, address.text)
        order = first.order(HOST, candidates(now))
        assert sorted(each.text for each in order) == sorted(each.text for each in candidates(now))


def test_repeated_failures_rotate_through_all_addresses() -> None:
    addresses, first = candidates([ip_address(f"192.0.2.{n}") for n in range(4)]), PreferredAddresses()
    begun = []
    for _ in range(5):
        begun.append(first.order(HOST, addresses)[0].text)
        first.failed(HOST, begun[-1], addresses)
    assert begun == ["192.0.2.0", "192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.0"]


def test_the_oldest_preferred_address_is_forgotten_at_the_limit() -> None:
    addresses, first = candidates([ip_address("192.0.2.1"), ip_address("192.0.2.2")]), PreferredAddresses()
    for port in range(REMEMBERED + 1):
        first.answered(("a.test", port), "192.0.2.2")
    assert len(first._preferred) == REMEMBERED
    assert first.order(("a.test", 0), addresses)[0].text == "192.0.2.1"
    assert first.order(("a.test", 1), addresses)[0].text == "192.0.2.2"


REFUSED = AttemptFailed(Outcome.CONNECT, "connection refused")


async def reach(*failures: Exception | None) -> tuple[object, int]:
    """The result of trying this many addresses, and how many were tried."""
    tried = 0

    async def connect(failure: Exception | None, _until: float) -> str:
        nonlocal tried
        tried += 1
        if failure is not None:
            raise failure
        return "reached"

    try:
        return await first_reached(failures, asyncio.get_running_loop().time() + 5, connect), tried
    except Exception as failure:  # noqa: BLE001  it is looked at
        return failure, tried


async def test_the_first_address_that_connects_is_used() -> None:
    assert await reach(REFUSED, TimeoutError(), None, None) == ("reached", 3)


async def test_the_last_failure_is_reported() -> None:
    assert await reach(TimeoutError(), REFUSED) == (REFUSED, 2)
    failure, _ = await reach(REFUSED, TimeoutError())
    assert isinstance(failure, AttemptFailed)
    assert (failure.outcome, failure.error) == (Outcome.TIMEOUT, "timed out waiting for the TCP connection")


@pytest.mark.parametrize("failure", [Blocked("no"), OutOfDescriptors(), ZeroDivisionError()])
async def test_a_failure_of_no_address_ends_the_search(failure: Exception) -> None:
    assert await reach(REFUSED, failure, None) == (failure, 2)


async def test_no_address_is_tried_after_the_deadline() -> None:
    async def connect(_address: int, _until: float) -> None:
        raise AssertionError

    with pytest.raises(AttemptFailed, match="timed out"):
        await first_reached([1, 2], asyncio.get_running_loop().time(), connect)
