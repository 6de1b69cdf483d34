"""Loops wait until a stop, retry transient errors only, and poll immediately after a hint."""

import asyncio
from collections.abc import Awaitable, Callable

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schema.connections.error_kinds import is_data_fault, is_query_canceled
from schema.polling import PollTimer, sleep_unless, through_outages

MUCH_TOO_LONG = 3600.0


class Flaky:
    """Fails with the given errors, then succeeds."""

    def __init__(self, *failures: BaseException) -> None:
        self._failures = list(failures)
        self.calls = 0

    async def __call__(self) -> str:
        self.calls += 1
        if self._failures:
            raise self._failures.pop(0)
        return "done"


async def soon(work: Awaitable[object]) -> object:
    return await asyncio.wait_for(work, 10)


TRANSIENT = [
    ConnectionRefusedError(),
    ConnectionResetError(),
    TimeoutError(),
    asyncpg.InterfaceError("connection is closed"),
    asyncpg.InternalClientError("cannot switch to state 11; another operation (2) is in progress"),
    asyncpg.ConnectionDoesNotExistError("gone"),
    asyncpg.CannotConnectNowError("starting up"),
    asyncpg.AdminShutdownError("terminated"),
    asyncpg.TooManyConnectionsError("too many clients"),
    asyncpg.DeadlockDetectedError("deadlock"),
    asyncpg.SerializationError("serialize"),
    asyncpg.ReadOnlySQLTransactionError("a standby"),
    asyncpg.UndefinedTableError("not migrated yet"),
    asyncpg.InsufficientPrivilegeError("not granted yet"),
    asyncpg.QueryCanceledError("cancelled"),
]
OWN_FAULT = [
    ValueError("a defect"),
    asyncpg.UniqueViolationError("twice"),
]


@pytest.mark.parametrize("error", TRANSIENT, ids=lambda error: type(error).__name__)
async def test_transient_errors_are_retried_until_they_pass(error: Exception) -> None:
    assert not is_data_fault(error)
    operation = Flaky(error, error, error)
    assert await soon(through_outages(asyncio.Event(), "a test", operation, 0.01)) == "done"
    assert operation.calls == 4


@pytest.mark.parametrize("error", OWN_FAULT, ids=lambda error: type(error).__name__)
async def test_other_errors_are_raised_immediately(error: Exception) -> None:
    assert is_data_fault(error)
    operation = Flaky(error)
    with pytest.raises(type(error)):
        await soon(through_outages(asyncio.Event(), "a test", operation))
    assert operation.calls == 1


def test_a_canceled_statement_is_recognized_for_a_smaller_batch() -> None:
    """Unlike a silent server, which is an outage."""
    assert is_query_canceled(asyncpg.QueryCanceledError("canceling statement due to statement timeout"))
    assert not is_query_canceled(TimeoutError())


async def test_cancellation_is_not_an_outage() -> None:
    operation = Flaky(asyncio.CancelledError())
    with pytest.raises(asyncio.CancelledError):
        await through_outages(asyncio.Event(), "a test", operation)
    assert operation.calls == 1


async def test_a_stop_ends_the_retries_of_an_outage() -> None:
    stop, failing = asyncio.Event(), asyncio.Event()

    failures = Flaky(*[ConnectionRefusedError()] * 1000)

    async def operation() -> str:
        failing.set()
        return await failures()

    waiting = asyncio.create_task(through_outages(stop, "a test", operation))
    await failing.wait()
    stop.set()
    assert await soon(waiting) is None


async def test_after_a_stop_there_is_one_try() -> None:
    stop = asyncio.Event()
    stop.set()
    assert await soon(through_outages(stop, "a test", Flaky())) == "done"
    operation = Flaky(ConnectionRefusedError(), ConnectionRefusedError())
    assert await soon(through_outages(stop, "a test", operation)) is None
    assert operation.calls == 1


async def test_a_hint_ends_the_wait_and_shortens_the_next() -> None:
    poll_timer = PollTimer(first=MUCH_TOO_LONG, most=MUCH_TOO_LONG)
    waiting = asyncio.create_task(poll_timer.wait(found=False))
    await asyncio.sleep(0)
    poll_timer.hint()
    await soon(waiting)


async def test_a_hint_before_the_wait_counts_once() -> None:
    poll_timer = PollTimer(first=MUCH_TOO_LONG, most=MUCH_TOO_LONG)
    poll_timer.hint()
    poll_timer.hint()
    await soon(poll_timer.wait(found=False))
    waiting = asyncio.create_task(poll_timer.wait(found=False))
    done, _ = await asyncio.wait([waiting], timeout=0.05)
    assert not done
    waiting.cancel()


async def test_a_wait_returns_whether_there_was_a_hint() -> None:
    poll_timer = PollTimer(first=0.001, most=0.001)
    assert not await poll_timer.wait(found=False)
    for found in (True, False):
        poll_timer.hint()
        assert await poll_timer.wait(found=found)
        assert not await poll_timer.wait(found=found), "it counts once"
    poll_timer = PollTimer(first=MUCH_TOO_LONG, most=MUCH_TOO_LONG)
    waiting = asyncio.create_task(poll_timer.wait(found=False))
    await asyncio.sleep(0)
    poll_timer.hint()
    assert await soon(waiting)


async def test_only_the_next_wait_can_be_shortened() -> None:
    poll_timer = PollTimer(first=MUCH_TOO_LONG, most=MUCH_TOO_LONG)
    poll_timer.no_later_than(0.01)
    poll_timer.no_later_than(MUCH_TOO_LONG)
    assert not await soon(poll_timer.wait(found=False))
    waiting = asyncio.create_task(poll_timer.wait(found=False))
    done, _ = await asyncio.wait([waiting], timeout=0.05)
    assert not done
    waiting.cancel()


async def test_a_limit_never_makes_a_wait_longer() -> None:
    poll_timer = PollTimer(first=0.001, most=MUCH_TOO_LONG)
    poll_timer.no_later_than(MUCH_TOO_LONG)
    await soon(poll_timer.wait(found=False))


async def test_there_is_no_pause_while_there_is_work() -> None:
    poll_timer = PollTimer(first=MUCH_TOO_LONG, most=MUCH_TOO_LONG)
    await soon(poll_timer.wait(found=True))


async def test_endless_work_lets_other_tasks_run() -> None:
    """A loop that always finds work must not starve the event loop."""
    ran = asyncio.Event()
    asyncio.get_running_loop().call_soon(ran.set)
    await PollTimer(first=MUCH_TOO_LONG, most=MUCH_TOO_LONG).wait(found=True)
    assert ran.is_set()


@given(st.lists(st.sampled_from(["found", "idle", "hint"]), max_size=30))
def test_intervals_grow_while_idle_up_to_the_maximum(history: list[str]) -> None:
    poll_timer = PollTimer(first=1e-6, most=5e-6)

    async def live() -> None:
        for moment in history:
            before = poll_timer._interval
            if moment == "hint":
                poll_timer.hint()
            await poll_timer.wait(found=moment == "found")
            expected = min(5e-6, before * 1.5) if moment == "idle" else 1e-6
            assert poll_timer._interval == expected

    asyncio.run(live())


@pytest.mark.parametrize("set_it", [asyncio.Event.set, lambda _stop: None])
async def test_a_sleep_ends_at_stop_or_timeout(set_it: Callable[[asyncio.Event], None]) -> None:
    stop = asyncio.Event()
    set_it(stop)
    await soon(sleep_unless(stop, MUCH_TOO_LONG if stop.is_set() else 0.01))
