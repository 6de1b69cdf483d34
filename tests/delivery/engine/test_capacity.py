"""The count of places: what is taken never exceeds the limits, and nothing is lost or gained on the way."""

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from delivery.engine.capacity import FIRST_SLOTS, Capacity, CapacityLimits, Manner, Slot
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


# Places


def test_room_is_bounded_by_the_endpoint_the_tenant_and_the_whole() -> None:
    count = capacity(total=7, per_tenant=5, per_endpoint=3)
    count.take(A, 3)
    assert (count.free_for(A), count.free_for(B), count.free_for(D)) == (0, 2, 3)
    count.take(B, 2)
    assert (count.free_for(B), count.free_for(C), count.free_for(D), count.free) == (0, 0, 2, 2)
    count.take(D, 2)
    assert (count.free_for(D), count.free, count.in_flight) == (0, 0, 7)


def test_taking_more_than_there_is_room_for_is_refused_and_takes_nothing() -> None:
    count = capacity(per_endpoint=2)
    with pytest.raises(ValueError, match="more taken"):
        count.take(A, 3, size=10)
    assert (count.in_flight, count.free_for(A)) == (0, 2)


def test_giving_back_more_than_was_taken_is_refused_and_gives_nothing() -> None:
    count = capacity()
    count.take(A)
    for slot, number in ((A, 2), (B, 1)):
        with pytest.raises(ValueError, match="more given back"):
            count.release(slot, number)
    assert count.in_flight == 1


def test_the_count_does_not_grow_with_endpoints_that_have_come_and_gone() -> None:
    count = capacity()
    for number in range(100):
        slot = Slot(UUID(int=number), UUID(int=number))
        count.take(slot, size=1)
        count.release(slot, size=1)
    assert not count._endpoints
    assert not count._tenants


# Bytes


def test_bytes_bound_what_is_in_flight_but_never_all_of_it() -> None:
    """What alone is larger than the limit still goes out, alone."""
    count = capacity(size=100)
    assert count.reserve(A, 5000)
    assert not count.reserve(B, 0)
    count.release(A, size=5000)
    assert count.reserve(A, 60)
    assert not count.reserve(B, 41)
    assert count.reserve(B, 40)


def test_what_is_claimed_unseen_counts_as_the_largest_until_it_is_weighed() -> None:
    count = capacity(size=1000, largest=250)
    assert count.free_unsized == 4
    count.take(A, 2)
    count.add_sizes(800)
    assert count.free_unsized == 0
    count.release(A, size=700)
    assert count.free_unsized == 3


def test_one_unseen_may_always_go_when_nothing_is_in_flight() -> None:
    count = capacity(size=10, largest=250)
    assert count.free_unsized == 1
    count.take(A)
    assert count.free_unsized == 0


# Earned places


def test_an_endpoint_begins_with_few_places_and_earns_one_with_each_quick_attempt_up_to_the_limit() -> None:
    count = capacity(per_endpoint=6)
    assert count.allowed(A.endpoint_id) == FIRST_SLOTS == 4
    for earned in (5, 6, 6):
        count.learn(A.endpoint_id, Manner.QUICK)
        assert count.allowed(A.endpoint_id) == earned
    assert count.free_for(A) == 6
    assert count.free_for(B) == 4, "for itself alone"


def test_a_slow_answer_costs_places_only_while_they_are_scarce_and_never_the_first_few() -> None:
    count = capacity(total=20, per_endpoint=16)
    for earned in range(5, 13):
        count.learn(A.endpoint_id, Manner.SLOW)
        assert count.allowed(A.endpoint_id) == earned
    for slot in (A, A, B, C):
        count.take(slot, 4)
    for left in (6, FIRST_SLOTS, FIRST_SLOTS):
        count.learn(A.endpoint_id, Manner.SLOW)
        assert count.allowed(A.endpoint_id) == left


def test_each_attempt_that_hangs_takes_half_of_the_places_down_to_one() -> None:
    count = capacity()
    for left in (2, 1, 1):
        count.learn(A.endpoint_id, Manner.HUNG)
        assert count.allowed(A.endpoint_id) == left


def test_an_endpoint_that_recovers_is_soon_where_it_was() -> None:
    count = capacity(per_endpoint=50)
    for _ in range(20):
        count.learn(A.endpoint_id, Manner.HUNG)
    for _ in range(49):
        count.learn(A.endpoint_id, Manner.QUICK)
    assert count.allowed(A.endpoint_id) == 50


def test_places_that_are_lost_while_taken_leave_no_room_until_enough_are_given_back() -> None:
    count = capacity()
    count.take(A, 4)
    count.learn(A.endpoint_id, Manner.HUNG)
    count.release(A)
    assert count.free_for(A) <= 0
    count.release(A, 2)
    assert count.free_for(A) == 1


def test_what_is_remembered_of_endpoints_is_bounded() -> None:
    count = capacity(per_endpoint=9)
    for number in range(10_100):
        count.learn(UUID(int=number), Manner.QUICK)
    assert len(count._allowed) == 10_000


# A slow start


def test_a_slow_start_begins_with_one_place_and_grows_from_there() -> None:
    count = capacity(per_endpoint=6)
    count.take(A, 3)
    count.start_slowly(A.endpoint_id)
    assert count.free_for(A) < 0, "what was under way when the breaker opened"
    count.release_slot(A, 3)
    count.release_memory(3)
    for allowed in (1, 2, 3):
        assert (count.free_for(A), count.free_for(retry(A))) == (allowed, max(1, allowed // 2))
        count.learn(A.endpoint_id, Manner.QUICK)


def test_at_one_place_the_lanes_take_turns_and_never_both() -> None:
    count = capacity()
    count.start_slowly(A.endpoint_id)
    for first, other in ((A, retry(A)), (retry(A), A)):
        count.take(first)
        assert count.free_for(other) == 0
        count.release(first)


# Lanes


def test_retries_get_half_of_every_share() -> None:
    count = capacity(total=12, per_tenant=8, per_endpoint=6)
    count.learn(A.endpoint_id, Manner.QUICK)
    count.learn(A.endpoint_id, Manner.QUICK)
    retries = [retry(slot) for slot in (A, B, C, D)]
    assert [count.free_for(slot) for slot in retries] == [3, 2, 2, 2]
    count.take(retries[0], 3)
    assert [count.free_for(slot) for slot in retries] == [0, 1, 1, 2], "of the tenant's eight"
    count.take(retries[1])
    count.take(retries[3], 2)
    assert count.free_for(retry(E)) == 0, "of the whole"
    assert [count.free_for(slot) for slot in (A, B, D, E)] == [3, 3, 2, 4]


def test_fresh_deliveries_may_take_what_retries_do_not() -> None:
    count = capacity(total=8, per_tenant=8, per_endpoint=4)
    count.take(A, 4)
    count.take(B, 4)
    assert (count.free, count.free_for(retry(C))) == (0, 0)


def test_a_place_is_free_for_others_at_the_answer_and_the_memory_when_it_is_written() -> None:
    """So a database that is slow to settle holds nobody's endpoint up, and still bounds what is held."""
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


def test_attempts_under_way_have_a_limit_of_their_own_which_the_answer_relieves() -> None:
    """The one bounds connections, the other memory."""
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
    assert (count.free, count.free_for(A)) == (0, 0), "and now it is memory that is full"
    count.release_memory(4)
    assert count.free == 4


# Shares


@pytest.mark.parametrize(
    ("total", "per_tenant", "taken", "waiting", "shares"),
    [
        pytest.param(10, 100, {}, [], [], id="nobody waits"),
        pytest.param(10, 100, {}, [A], [(A, 4)], id="one gets what its own limit allows"),
        pytest.param(6, 100, {}, [A, B, C], [(A, 2), (B, 2), (C, 2)], id="alike for all"),
        pytest.param(7, 100, {A: 3}, [A, B], [(A, 1), (B, 2)], id="no more than its own room"),
        pytest.param(2, 100, {}, [A, B, C], [(A, 1), (B, 1)], id="fewer places than endpoints"),
        pytest.param(4, 100, {A: 4}, [A, B], [], id="nothing is free"),
        pytest.param(12, 5, {}, [A, B, D], [(A, 2), (B, 2), (D, 4)], id="alike for all of a tenant"),
        pytest.param(12, 4, {A: 4}, [A, B, D], [(D, 2)], id="a tenant without room leaves it to others"),
        pytest.param(6, 100, {}, [retry(A), retry(B)], [(retry(A), 1), (retry(B), 1)], id="half for retries"),
        pytest.param(
            6, 100, {retry(C): 2}, [retry(A), retry(B)], [(retry(A), 1)], id="of those half, what is left"
        ),
    ],
)
def test_shares(
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
def test_shares_can_be_taken_as_they_are(
    total: int,
    per_tenant: int,
    per_endpoint: int,
    size: int,
    taken: list[tuple[Slot, int]],
    waiting: list[Slot],
    lane: Lane,
) -> None:
    """Whatever is in flight, in either lane: every share fits beside the others, none is empty, all fit into the unseen places, and
    somebody gets something if anybody has room."""
    count = capacity(total, per_tenant, per_endpoint, size, largest=7)
    for slot, weight in taken:
        count.reserve(slot, weight)
    waiting = [Slot(slot.tenant_id, slot.endpoint_id, lane) for slot in waiting]
    shares = count.shares(waiting)
    assert sum(number for _, number in shares) <= count.free_unsized
    if count.free_unsized and any(count.free_for(slot) > 0 for slot in waiting):
        assert shares, "somebody has room"
    for slot, number in shares:
        assert number > 0
        count.take(slot, number)
