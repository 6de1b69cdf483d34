"""Timeouts of one length expire at their time, in order, unless stopped."""

import asyncio
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from delivery.http.timeouts import FixedTimeouts


class Loop:
    """A clock with at most one timer."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[asyncio.TimerHandle] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: object) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, (), self)
        self.timers.append(handle)
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        self.timers.remove(handle)

    def advance(self, seconds: float) -> None:
        end = self.now + seconds
        while self.timers and self.timers[0].when() <= end:
            handle = self.timers.pop(0)
            self.now = max(self.now, handle.when())
            handle._callback()
            assert len(self.timers) <= 1
        self.now = end

    def get_debug(self) -> bool:
        return False


@dataclass(eq=False)
class Item:
    clock: Loop
    expired_at: list[float] = field(default_factory=list)

    def expire(self) -> None:
        self.expired_at.append(self.clock.now)


steps = st.lists(
    st.one_of(
        st.floats(0.0, 4.0).map(lambda s: ("wait", s)),
        st.just(("start", 0.0)),
        st.integers(0, 9).map(lambda n: ("stop", n)),
    ),
    max_size=30,
)


@given(steps)
def test_each_timeout_expires_once_unless_it_was_stopped(steps: list[tuple[str, float]]) -> None:
    clock = Loop()
    timeouts: FixedTimeouts[Item] = FixedTimeouts(clock, 5.0)
    expected: dict[Item, float] = {}
    items: list[Item] = []
    for step, number in steps:
        if step == "start":
            items.append(Item(clock))
            expected[items[-1]] = timeouts.start(items[-1])
        elif step == "stop" and int(number) < len(items):
            item = items[int(number)]
            timeouts.stop(item)
            if not item.expired_at:
                expected.pop(item, None)
        elif step == "wait":
            clock.advance(number)
    assert len(timeouts) == len([due for item, due in expected.items() if not item.expired_at])
    clock.advance(10.0)
    assert {item: [due] for item, due in expected.items()} == {
        item: item.expired_at for item in items if item.expired_at
    }
    assert not timeouts
    assert not clock.timers


def test_closing_leaves_no_timer() -> None:
    clock = Loop()
    timeouts: FixedTimeouts[Item] = FixedTimeouts(clock, 5.0)
    item = Item(clock)
    timeouts.start(item)
    timeouts.close()
    assert (len(timeouts), clock.timers) == (0, [])
    clock.advance(10.0)
    assert not item.expired_at
