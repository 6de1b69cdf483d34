"""The count of places against a plain list of what is out: the limits hold, lane AGAIN never has more than half of any
share, and every place given back can be taken again.
"""

from collections import Counter
from dataclasses import dataclass
from random import Random
from uuid import UUID

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from delivery.capacity import Capacity, CapacityLimits, Manner, Place
from schema.deliveries import Lane

TOTAL, UNDER_WAY, PER_TENANT, PER_ENDPOINT, SIZE = 12, 10, 6, 5, 50
PLACES = [Place(UUID(int=n % 3), UUID(int=10 + n)) for n in range(9)]
EITHER_LANE = [place._replace(lane=lane) for place in PLACES for lane in Lane]


def half(places: int) -> int:
    return max(1, places // 2)


@dataclass(frozen=True)
class Out:
    place: Place
    size: int


class Bookkeeping(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.count = Capacity(
            CapacityLimits(TOTAL, PER_TENANT, PER_ENDPOINT, SIZE, largest=1, under_way=UNDER_WAY)
        )
        self.under_way: list[Out] = []
        self.answered: list[Out] = []

    # One at a time, as fan-out reserves

    @rule(place=st.sampled_from(EITHER_LANE), size=st.integers(0, 30))
    def reserve(self, place: Place, size: int) -> None:
        room = self.room_by_the_list(place)
        fits = not self.everything() or self.weight() + size <= SIZE
        assert self.count.room(place) == room
        assert self.count.reserve(place, size) == (room > 0 and fits)
        if room > 0 and fits:
            self.under_way.append(Out(place, size))

    # Many at a time, as a claim takes them: unseen, then weighed, and some of them not there

    @rule(
        waiting=st.lists(st.sampled_from(PLACES), unique=True, max_size=5),
        lane=st.sampled_from(Lane),
        found=st.randoms(use_true_random=False),
    )
    def claim(self, waiting: list[Place], lane: Lane, found: Random) -> None:
        for place, number in self.count.shares([place._replace(lane=lane) for place in waiting]):
            self.count.take(place, number)
            got = found.randint(0, number)
            self.count.give_back(place, number - got)
            self.count.weigh(got)
            self.under_way += [Out(place, 1)] * got

    # The way back, in its two steps or at once

    @precondition(lambda self: self.under_way)
    @rule(data=st.data())
    def is_answered(self, data: st.DataObject) -> None:
        out = self.under_way.pop(data.draw(st.integers(0, len(self.under_way) - 1)))
        self.count.answered(out.place)
        self.answered.append(out)

    @precondition(lambda self: self.answered)
    @rule(data=st.data())
    def is_written(self, data: st.DataObject) -> None:
        out = self.answered.pop(data.draw(st.integers(0, len(self.answered) - 1)))
        self.count.written(size=out.size)

    @precondition(lambda self: self.under_way)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        out = self.under_way.pop(data.draw(st.integers(0, len(self.under_way) - 1)))
        self.count.give_back(out.place, size=out.size)

    # What places an endpoint earns and loses

    @rule(place=st.sampled_from(PLACES), manner=st.sampled_from(Manner))
    def learn(self, place: Place, manner: Manner) -> None:
        before = self.count.allowed(place.endpoint_id)
        self.count.learn(place.endpoint_id, manner)
        after = self.count.allowed(place.endpoint_id)
        assert 1 <= after <= min(PER_ENDPOINT, before + 1)
        assert (after < before) == (manner is Manner.HUNG and before > 1) or manner is Manner.SLOW

    @rule(place=st.sampled_from(PLACES))
    def start_slowly(self, place: Place) -> None:
        self.count.start_slowly(place.endpoint_id)
        assert self.count.allowed(place.endpoint_id) == 1

    @precondition(lambda self: not self.everything())
    @rule(place=st.sampled_from(EITHER_LANE))
    def an_empty_count_has_room_for_anybody_however_large(self, place: Place) -> None:
        assert self.count.reserve(place, 10**9)
        self.count.give_back(place, size=10**9)

    # By the list

    def everything(self) -> list[Out]:
        return self.under_way + self.answered

    def weight(self) -> int:
        return sum(out.size for out in self.everything())

    def free_by_the_list(self) -> int:
        return min(TOTAL - len(self.everything()), UNDER_WAY - len(self.under_way))

    def room_by_the_list(self, place: Place) -> int:
        allowed = self.count.allowed(place.endpoint_id)
        out = [o.place for o in self.under_way]
        of_tenant = [p for p in out if p.tenant_id == place.tenant_id]
        of_endpoint = [p for p in out if p.endpoint_id == place.endpoint_id]
        room = min(self.free_by_the_list(), PER_TENANT - len(of_tenant), allowed - len(of_endpoint))
        if place.lane is Lane.FIRST:
            return room
        return min(
            room,
            half(UNDER_WAY) - again(out),
            half(PER_TENANT) - again(of_tenant),
            half(allowed) - again(of_endpoint),
        )

    @invariant()
    def nothing_is_lost_or_gained(self) -> None:
        assert self.count.in_flight == len(self.everything()) <= TOTAL
        assert self.count.free == self.free_by_the_list()
        assert len(self.under_way) <= UNDER_WAY
        assert self.count._size == self.weight()
        assert self.count.under_way == {
            lane: sum(out.place.lane is lane for out in self.under_way) for lane in Lane
        }

    @invariant()
    def no_share_is_exceeded(self) -> None:
        out = [o.place for o in self.under_way]
        assert again(out) <= half(UNDER_WAY)
        for key, limit in (("tenant_id", PER_TENANT), ("endpoint_id", PER_ENDPOINT)):
            taken = Counter(getattr(place, key) for place in out)
            retries = Counter(getattr(place, key) for place in out if place.lane is Lane.AGAIN)
            assert max(taken.values(), default=0) <= limit
            assert max(retries.values(), default=0) <= half(limit)
        if len(self.everything()) > 1:
            assert self.weight() <= SIZE

    def teardown(self) -> None:
        """When all is answered and written, nothing is left."""
        for out in self.under_way:
            self.count.answered(out.place)
        for out in self.everything():
            self.count.written(size=out.size)
        assert (self.count.in_flight, self.count._size, self.count._again) == (0, 0, 0)
        assert not self.count._tenants
        assert not self.count._endpoints


def again(places: list[Place]) -> int:
    return sum(place.lane is Lane.AGAIN for place in places)


TestBookkeeping = Bookkeeping.TestCase
