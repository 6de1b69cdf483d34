"""In-flight limits are never exceeded, and every slot taken is free again after its release."""

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from delivery.engine.capacity import FIRST_SLOTS, Capacity, CapacityLimits, ResponseTime, Slot
from schema.deliveries.deliveries import Lane

TENANT, OTHER = UUID(int=1), UUID(int=2)
A, B, C = (Slot(TENANT, UUID(int=10 + n)) for n in range(3))
D = Slot(OTHER, UUID(int=13))
E = Slot(UUID(int=3), UUID(int=14))
SLOTS = [Slot(UUID(int=n % 3), UUID(int=10 + n)) for n in range(9)]
EITHER_LANE = [slot._replace(lane=lane) for slot in SLOTS for lane in Lane]


def retry(slot: Slot) -> Slot:
    return slot._replace(lane=Lane.RETRY)


def capacity(
    total: int = 100, per_tenant: int = 100, per_endpoint: int = 4, size: int = 1000, largest: int = 1
) -> Capacity:
    return Capacity(CapacityLimits(total, per_tenant, per_endpoint, size, largest))


# Slots


def test_slots_are_limited_per_endpoint_per_tenant_and_in_total() -> None:
    count = capacity(total=7, per_tenant=5, per_endpoint=3)
    count.take(A, 3)
    assert (count.free_for(A), count.free_for(B), count.free_for(D)) == (0, 2, 3)
    count.take(B, 2)
    assert (count.free_for(B), count.free_for(C), count.free_for(D), count.free) == (0, 0, 2, 2)
    count.take(D, 2)
    assert (count.free_for(D), count.free, count.in_flight) == (0, 0, 7)


def test_taking_more_slots_than_are_free_fails_and_takes_none() -> None:
    count = capacity(per_endpoint=2)
    with pytest.raises(ValueError, match="more slots taken"):
        count.take(A, 3, size=10)
    assert (count.in_flight, count.free_for(A)) == (0, 2)


def test_releasing_more_slots_than_were_taken_fails() -> None:
    count = capacity()
    count.take(A)
    for slot, number in ((A, 2), (B, 1)):
        with pytest.raises(ValueError, match="more slots released"):
            count.release(slot, number)
    assert count.in_flight == 1


def test_endpoints_without_slots_are_forgotten() -> None:
    count = capacity()
    for number in range(100):
        slot = Slot(UUID(int=number), UUID(int=number))
        count.take(slot, size=1)
        count.release(slot, size=1)
    assert not count._endpoints
    assert not count._tenants


# Memory


def test_memory_is_limited_but_one_delivery_always_fits() -> None:
    """A delivery larger than the limit is sent, alone."""
    count = capacity(size=100)
    assert count.reserve(A, 5000)
    assert not count.reserve(B, 0)
    count.release(A, size=5000)
    assert count.reserve(A, 60)
    assert not count.reserve(B, 41)
    assert count.reserve(B, 40)


def test_a_delivery_of_unknown_size_counts_as_the_largest() -> None:
    count = capacity(size=1000, largest=250)
    assert count.free_unsized == 4
    count.take(A, 2)
    count.add_sizes(800)
    assert count.free_unsized == 0
    count.release(A, size=700)
    assert count.free_unsized == 3


def test_one_delivery_may_be_claimed_when_nothing_is_in_flight() -> None:
    count = capacity(size=10, largest=250)
    assert count.free_unsized == 1
    count.take(A)
    assert count.free_unsized == 0


def test_a_claim_takes_500_deliveries_at_most() -> None:
    assert Capacity(CapacityLimits(size=500 * 16 * 1024)).free_unsized == 500
    assert Capacity(CapacityLimits(size=501 * 16 * 1024)).free_unsized == 500
    assert Capacity(CapacityLimits(size=500 * 16 * 1024 - 1)).free_unsized == 499


def test_the_largest_recent_size_predicts_the_next() -> None:
    """16 Ki characters at least, `largest` at most; the prediction falls by a tenth with each claim."""
    count = Capacity(CapacityLimits(size=1_000_000, largest=100_000))
    assert count.free_unsized == 1_000_000 // 16_384
    for largest, expected in ((20_000, 20_000), (1, 18_000), (1, 16_384), (300_000, 100_000)):
        count.add_sizes(0, largest)
        assert count.free_unsized == 1_000_000 // expected


# The limit of an endpoint


def test_each_quick_response_adds_a_slot_up_to_the_limit() -> None:
    count = capacity(per_endpoint=6)
    assert count.allowed(A.endpoint_id) == FIRST_SLOTS == 4
    for limit in (5, 6, 6):
        count.adjust(A.endpoint_id, ResponseTime.QUICK)
        assert count.allowed(A.endpoint_id) == limit
    assert count.free_for(A) == 6
    assert count.free_for(B) == 4, "other endpoints are unaffected"


def test_slow_responses_halve_the_slots_only_while_slots_are_scarce() -> None:
    """And never below the initial few."""
    count = capacity(total=20, per_endpoint=16)
    for limit in range(5, 13):
        count.adjust(A.endpoint_id, ResponseTime.SLOW)
        assert count.allowed(A.endpoint_id) == limit
    for slot in (A, A, B, C):
        count.take(slot, 4)
    for limit in (6, FIRST_SLOTS, FIRST_SLOTS):
        count.adjust(A.endpoint_id, ResponseTime.SLOW)
        assert count.allowed(A.endpoint_id) == limit


@pytest.mark.parametrize(("taken", "limit"), [(15, 9), (16, 4)])
def test_slots_are_scarce_below_a_quarter(taken: int, limit: int) -> None:
    count = capacity(total=20, per_endpoint=16)
    for _ in range(4):
        count.adjust(A.endpoint_id, ResponseTime.QUICK)
    for number in range(taken):
        count.take(Slot(OTHER, UUID(int=100 + number)))
    count.adjust(A.endpoint_id, ResponseTime.SLOW)
    assert count.allowed(A.endpoint_id) == limit


def test_an_odd_number_of_slots_is_halved_down() -> None:
    count = capacity(per_endpoint=9)
    for limit in (5, 6, 7):
        count.adjust(A.endpoint_id, ResponseTime.QUICK)
        assert count.allowed(A.endpoint_id) == limit
    for limit in (3, 1):
        count.adjust(A.endpoint_id, ResponseTime.HUNG)
        assert count.allowed(A.endpoint_id) == limit


def test_each_hung_attempt_halves_the_slots_down_to_one() -> None:
    count = capacity()
    for left in (2, 1, 1):
        count.adjust(A.endpoint_id, ResponseTime.HUNG)
        assert count.allowed(A.endpoint_id) == left


def test_an_endpoint_that_recovers_reaches_its_limit_again() -> None:
    count = capacity(per_endpoint=50)
    for _ in range(20):
        count.adjust(A.endpoint_id, ResponseTime.HUNG)
    for _ in range(49):
        count.adjust(A.endpoint_id, ResponseTime.QUICK)
    assert count.allowed(A.endpoint_id) == 50


def test_no_slot_is_free_above_a_lowered_limit() -> None:
    count = capacity()
    count.take(A, 4)
    count.adjust(A.endpoint_id, ResponseTime.HUNG)
    count.release(A)
    assert count.free_for(A) <= 0
    count.release(A, 2)
    assert count.free_for(A) == 1


def test_the_number_of_known_endpoints_is_bounded() -> None:
    count = capacity(per_endpoint=9)
    for number in range(10_100):
        count.adjust(UUID(int=number), ResponseTime.QUICK)
    assert len(count._allowed) == 10_000


def test_the_endpoint_whose_limit_changed_longest_ago_is_forgotten_first() -> None:
    count = capacity(per_endpoint=9)
    count.start_slowly(A.endpoint_id)
    for number in range(100, 100 + 9_999):
        count.adjust(UUID(int=number), ResponseTime.QUICK)
    count.adjust(A.endpoint_id, ResponseTime.HUNG)
    count.adjust(B.endpoint_id, ResponseTime.QUICK)
    assert count.allowed(A.endpoint_id) == 1
    assert UUID(int=100) not in count._allowed


# A slow start


def test_a_slow_start_begins_with_one_slot_and_grows() -> None:
    count = capacity(per_endpoint=6)
    count.take(A, 3)
    count.start_slowly(A.endpoint_id)
    assert count.free_for(A) < 0, "three were under way when the breaker opened"
    count.release_slot(A, 3)
    count.release_memory(3)
    for allowed in (1, 2, 3):
        assert (count.free_for(A), count.free_for(retry(A))) == (allowed, max(1, allowed // 2))
        count.adjust(A.endpoint_id, ResponseTime.QUICK)


def test_a_single_slot_serves_one_lane_at_a_time() -> None:
    count = capacity()
    count.start_slowly(A.endpoint_id)
    for first, other in ((A, retry(A)), (retry(A), A)):
        count.take(first)
        assert count.free_for(other) == 0
        count.release(first)


# Lanes


def test_retries_get_half_of_every_limit() -> None:
    count = capacity(total=12, per_tenant=8, per_endpoint=6)
    count.adjust(A.endpoint_id, ResponseTime.QUICK)
    count.adjust(A.endpoint_id, ResponseTime.QUICK)
    retries = [retry(slot) for slot in (A, B, C, D)]
    assert [count.free_for(slot) for slot in retries] == [3, 2, 2, 2]
    count.take(retries[0], 3)
    assert [count.free_for(slot) for slot in retries] == [0, 1, 1, 2], "half of the tenant's eight slots"
    count.take(retries[1])
    count.take(retries[3], 2)
    assert count.free_for(retry(E)) == 0, "half of all slots"
    assert [count.free_for(slot) for slot in (A, B, D, E)] == [3, 3, 2, 4]


def test_first_attempts_may_take_every_slot() -> None:
    count = capacity(total=8, per_tenant=8, per_endpoint=4)
    count.take(A, 4)
    count.take(B, 4)
    assert (count.free, count.free_for(retry(C))) == (0, 0)


def test_the_response_frees_the_slot_and_the_write_the_memory() -> None:
    """A slow database holds up no endpoint, and memory stays bounded."""
    count = capacity(total=4, per_tenant=2, per_endpoint=2, size=100)
    for _ in range(2):
        assert count.reserve(A, 30)
        assert count.reserve(A, 20)
        assert not count.reserve(A, 0)
        count.release_slot(A, 2)
    assert (count.free_for(A), count.in_flight, count.under_way[Lane.FIRST]) == (0, 4, 0)
    count.release_memory(2, size=50)
    assert (count.free_for(A), count.in_flight) == (2, 2)
    assert not count.reserve(A, 51)
    assert count.reserve(A, 50)


def test_attempts_under_way_have_a_limit_of_their_own() -> None:
    """It bounds connections, the total bounds memory."""
    count = Capacity(CapacityLimits(total=10, per_endpoint=4, under_way=6))
    assert count.slots == 6
    count.take(A, 4)
    count.take(B, 2)
    assert (count.free, count.free_for(C), count.free_unsized) == (0, 0, 0)
    count.release_slot(A, 4)
    assert (count.free, count.in_flight) == (4, 6)
    count.take(A, 4)
    assert (count.free, count.in_flight) == (0, 10)
    count.release_slot(A, 4)
    assert (count.free, count.free_for(A)) == (0, 0), "now memory is full"
    count.release_memory(4)
    assert count.free == 4


# Shares


@pytest.mark.parametrize(
    ("total", "per_tenant", "taken", "waiting", "shares"),
    [
        pytest.param(10, 100, {}, [], [], id="none waiting"),
        pytest.param(10, 100, {}, [A], [(A, 4)], id="one endpoint gets its own limit"),
        pytest.param(6, 100, {}, [A, B, C], [(A, 2), (B, 2), (C, 2)], id="equal shares"),
        pytest.param(7, 100, {A: 3}, [A, B], [(A, 1), (B, 2)], id="no more than its own limit"),
        pytest.param(2, 100, {}, [A, B, C], [(A, 1), (B, 1)], id="fewer slots than endpoints"),
        pytest.param(4, 100, {A: 4}, [A, B], [], id="nothing is free"),
        pytest.param(12, 5, {}, [A, B, D], [(A, 2), (B, 2), (D, 4)], id="equal shares within a tenant"),
        pytest.param(12, 2, {}, [A, B, C], [(A, 1), (B, 1)], id="a tenant's limit for all its endpoints"),
        pytest.param(
            *(12, 4, {}, [retry(A), retry(B), retry(C)], [(retry(A), 1), (retry(B), 1)]),
            id="half of a tenant's limit for retries",
        ),
        pytest.param(12, 4, {A: 4}, [A, B, D], [(D, 2)], id="a tenant at its limit leaves slots to others"),
        pytest.param(6, 100, {}, [retry(A), retry(B)], [(retry(A), 1), (retry(B), 1)], id="half for retries"),
        pytest.param(
            6, 100, {retry(C): 2}, [retry(A), retry(B)], [(retry(A), 1)], id="the rest of that half"
        ),
    ],
)
def test_shares_are_equal_within_each_limit(
    total: int,
    per_tenant: int,
    taken: dict[Slot, int],
    waiting: list[Slot],
    shares: list[tuple[Slot, int]],
) -> None:
    count = capacity(total, per_tenant)
    for slot, number in taken.items():
        count.take(slot, number)
    assert count.shares(waiting) == shares


@given(
    total=st.integers(1, 40),
    per_tenant=st.integers(1, 20),
    per_endpoint=st.integers(1, 10),
    size=st.integers(1, 100),
    taken=st.lists(st.tuples(st.sampled_from(EITHER_LANE), st.integers(0, 20)), max_size=40),
    waiting=st.lists(st.sampled_from(SLOTS), unique=True),
    lane=st.sampled_from(Lane),
)
def test_every_share_can_be_taken(
    total: int,
    per_tenant: int,
    per_endpoint: int,
    size: int,
    taken: list[tuple[Slot, int]],
    waiting: list[Slot],
    lane: Lane,
) -> None:
    """Whatever is in flight in either lane: no share is empty, all can be taken together, and there is a share if an endpoint
    has a free slot."""
    count = capacity(total, per_tenant, per_endpoint, size, largest=7)
    for slot, weight in taken:
        count.reserve(slot, weight)
    waiting = [Slot(slot.tenant_id, slot.endpoint_id, lane) for slot in waiting]
    shares = count.shares(waiting)
    assert sum(number for _, number in shares) <= count.free_unsized
    if count.free_unsized and any(count.free_for(slot) > 0 for slot in waiting):
        assert shares, "an endpoint has a free slot"
    for slot, number in shares:
        assert number > 0
        count.take(slot, number)
