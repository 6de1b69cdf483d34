"""In-flight limits against a plain list of deliveries: no limit is exceeded, lane RETRY has at most half of each, and every
slot released can be taken again.
"""

from collections import Counter
from dataclasses import dataclass
from random import Random
from uuid import UUID

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from delivery.engine.capacity import Capacity, CapacityLimits, ResponseTime, Slot
from schema.deliveries.deliveries import Lane

TOTAL, UNDER_WAY, PER_TENANT, PER_ENDPOINT, SIZE = 12, 10, 6, 5, 50
SLOTS = [Slot(UUID(int=n % 3), UUID(int=10 + n)) for n in range(9)]
EITHER_LANE = [slot._replace(lane=lane) for slot in SLOTS for lane in Lane]


def half(slots: int) -> int:
    return max(1, slots // 2)


@dataclass(frozen=True)
class Out:
    slot: Slot
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

    @rule(slot=st.sampled_from(EITHER_LANE), size=st.integers(0, 30))
    def reserve(self, slot: Slot, size: int) -> None:
        free = self.free_for_by_the_list(slot)
        fits = not self.everything() or self.weight() + size <= SIZE
        assert self.count.free_for(slot) == free
        assert self.count.reserve(slot, size) == (free > 0 and fits)
        if free > 0 and fits:
            self.under_way.append(Out(slot, size))

    # Many at a time, as a claim takes them: of unknown size, and some of them not found

    @rule(
        waiting=st.lists(st.sampled_from(SLOTS), unique=True, max_size=5),
        lane=st.sampled_from(Lane),
        found=st.randoms(use_true_random=False),
    )
    def claim(self, waiting: list[Slot], lane: Lane, found: Random) -> None:
        for slot, number in self.count.shares([slot._replace(lane=lane) for slot in waiting]):
            self.count.take(slot, number)
            got = found.randint(0, number)
            self.count.release(slot, number - got)
            self.count.add_sizes(got)
            self.under_way += [Out(slot, 1)] * got

    # Release, in two steps or one

    @precondition(lambda self: self.under_way)
    @rule(data=st.data())
    def is_answered(self, data: st.DataObject) -> None:
        out = self.under_way.pop(data.draw(st.integers(0, len(self.under_way) - 1)))
        self.count.release_slot(out.slot)
        self.answered.append(out)

    @precondition(lambda self: self.answered)
    @rule(data=st.data())
    def is_written(self, data: st.DataObject) -> None:
        out = self.answered.pop(data.draw(st.integers(0, len(self.answered) - 1)))
        self.count.release_memory(size=out.size)

    @precondition(lambda self: self.under_way)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        out = self.under_way.pop(data.draw(st.integers(0, len(self.under_way) - 1)))
        self.count.release(out.slot, size=out.size)

    # The limit of an endpoint

    @rule(slot=st.sampled_from(SLOTS), response_time=st.sampled_from(ResponseTime))
    def adjust(self, slot: Slot, response_time: ResponseTime) -> None:
        before = self.count.allowed(slot.endpoint_id)
        self.count.adjust(slot.endpoint_id, response_time)
        after = self.count.allowed(slot.endpoint_id)
        assert 1 <= after <= min(PER_ENDPOINT, before + 1)
        assert (after < before) == (
            response_time is ResponseTime.HUNG and before > 1
        ) or response_time is ResponseTime.SLOW

    @rule(slot=st.sampled_from(SLOTS))
    def start_slowly(self, slot: Slot) -> None:
        self.count.start_slowly(slot.endpoint_id)
        assert self.count.allowed(slot.endpoint_id) == 1

    @precondition(lambda self: not self.everything())
    @rule(slot=st.sampled_from(EITHER_LANE))
    def one_delivery_of_any_size_fits_when_nothing_is_in_flight(self, slot: Slot) -> None:
        assert self.count.reserve(slot, 10**9)
        self.count.release(slot, size=10**9)

    # By the list

    def everything(self) -> list[Out]:
        return self.under_way + self.answered

    def weight(self) -> int:
        return sum(out.size for out in self.everything())

    def free_by_the_list(self) -> int:
        return min(TOTAL - len(self.everything()), UNDER_WAY - len(self.under_way))

    def free_for_by_the_list(self, slot: Slot) -> int:
        allowed = self.count.allowed(slot.endpoint_id)
        out = [o.slot for o in self.under_way]
        of_tenant = [p for p in out if p.tenant_id == slot.tenant_id]
        of_endpoint = [p for p in out if p.endpoint_id == slot.endpoint_id]
        free = min(self.free_by_the_list(), PER_TENANT - len(of_tenant), allowed - len(of_endpoint))
        if slot.lane is Lane.FIRST:
            return free
        return min(
            free,
            half(UNDER_WAY) - retries_in(out),
            half(PER_TENANT) - retries_in(of_tenant),
            half(allowed) - retries_in(of_endpoint),
        )

    @invariant()
    def nothing_is_lost_or_gained(self) -> None:
        assert self.count.in_flight == len(self.everything()) <= TOTAL
        assert self.count.free == self.free_by_the_list()
        assert len(self.under_way) <= UNDER_WAY
        assert self.count._size == self.weight()
        assert self.count.under_way == {
            lane: sum(out.slot.lane is lane for out in self.under_way) for lane in Lane
        }

    @invariant()
    def no_share_is_exceeded(self) -> None:
        out = [o.slot for o in self.under_way]
        assert retries_in(out) <= half(UNDER_WAY)
        for key, limit in (("tenant_id", PER_TENANT), ("endpoint_id", PER_ENDPOINT)):
            taken = Counter(getattr(slot, key) for slot in out)
            retries = Counter(getattr(slot, key) for slot in out if slot.lane is Lane.RETRY)
            assert max(taken.values(), default=0) <= limit
            assert max(retries.values(), default=0) <= half(limit)
        if len(self.everything()) > 1:
            assert self.weight() <= SIZE

    def teardown(self) -> None:
        """When everything is released, nothing is left."""
        for out in self.under_way:
            self.count.release_slot(out.slot)
        for out in self.everything():
            self.count.release_memory(size=out.size)
        assert (self.count.in_flight, self.count._size, self.count._retries) == (0, 0, 0)
        assert not self.count._tenants
        assert not self.count._endpoints


def retries_in(slots: list[Slot]) -> int:
    return sum(slot.lane is Lane.RETRY for slot in slots)


TestBookkeeping = Bookkeeping.TestCase
