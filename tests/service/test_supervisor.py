"""Stages start in order and stop in reverse, a failing part is started again alone, and a stop ends in bounded time."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from service import supervisor as supervisor_module
from service.settings import Settings
from service.supervisor import Part, Supervisor
from service.worker.composition import Worker, worker
from tests.support.arrivals import Arrivals
from tests.support.lifecycle_stress import stress_lifecycle
from tests.support.servers.tcp_proxy import proxying

Log = Arrivals[str]


class Recorded:
    """Writes down when it starts and when it has drained."""

    def __init__(self, name: str, log: Log, drain: Callable[[], Awaitable[object]] | None = None) -> None:
        self._name = name
        self._log = log
        self._drain = drain

    async def run(self, stop: asyncio.Event) -> None:
        self._log.add(f"{self._name} starts")
        await stop.wait()
        self._log.add(f"{self._name} stops")
        if self._drain is not None:
            await self._drain()
        self._log.add(f"{self._name} has stopped")


class Crashing:
    """Fails so many times, then works."""

    def __init__(self, times: int, log: Log) -> None:
        self._left = times
        self._log = log

    async def run(self, stop: asyncio.Event) -> None:
        if self._left:
            self._left -= 1
            self._log.add("failed")
            raise RuntimeError("a defect")
        self._log.add("works")
        await stop.wait()


@pytest.fixture
def log() -> Log:
    return Arrivals()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor_module, "_FIRST_BACKOFF_S", 0.001)
    monkeypatch.setattr(supervisor_module, "CANCEL_WITHIN_S", 0.05)


def start(supervisor: Supervisor) -> tuple[asyncio.Event, asyncio.Task[None]]:
    stop = asyncio.Event()
    return stop, asyncio.create_task(supervisor.run(stop))


def total(supervisor: Supervisor) -> int:
    """How often its parts have failed."""
    return sum(part.total for part in supervisor.failures)


async def ends(task: asyncio.Task[None]) -> None:
    async with asyncio.timeout(10):
        await task


async def test_stages_start_in_order_and_stop_in_reverse(log: Log) -> None:
    names = ("writes", "sends", "takes in")
    supervisor = Supervisor([[Part(name, Recorded(name, log))] for name in names])
    stop, task = start(supervisor)
    await log.count(3)
    stop.set()
    await ends(task)
    assert list(log) == [
        "writes starts",
        "sends starts",
        "takes in starts",
        "takes in stops",
        "takes in has stopped",
        "sends stops",
        "sends has stopped",
        "writes stops",
        "writes has stopped",
    ]
    assert total(supervisor) == 0


async def test_parts_of_one_stage_drain_at_the_same_time(log: Log) -> None:
    """Else ten workers that each take a while would take ten whiles."""
    both = asyncio.Barrier(2)
    parts = [Part(name, Recorded(name, log, both.wait)) for name in ("one", "two")]
    stop, task = start(Supervisor([parts]))
    await log.count(2)
    stop.set()
    await ends(task)


async def test_a_failing_part_is_restarted_and_others_are_unaffected(log: Log, quick: None) -> None:
    quiet: Log = Arrivals()
    supervisor = Supervisor([[Part("q", Recorded("q", quiet)), Part("x", Crashing(3, log))]])
    stop, task = start(supervisor)
    await log.until(lambda words: "works" in words)
    assert list(log) == ["failed", "failed", "failed", "works"]
    assert list(quiet) == ["q starts"]
    assert total(supervisor) == 3
    stop.set()
    await ends(task)


async def test_restart_backoff_grows_and_resets_after_a_long_run(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor_module, "_FIRST_BACKOFF_S", 1.0)
    monkeypatch.setattr(supervisor_module, "_LONGEST_BACKOFF_S", 4.0)
    waits: list[float] = []

    async def note_the_wait(_stop: asyncio.Event, seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr(supervisor_module, "sleep_unless", note_the_wait)
    stop, task = start(Supervisor([[Part("x", Crashing(5, log))]]))
    await log.until(lambda words: "works" in words)
    assert waits == [1.0, 2.0, 4.0, 4.0, 4.0]
    stop.set()
    await ends(task)

    waits.clear()
    monkeypatch.setattr(supervisor_module, "_LONGEST_BACKOFF_S", -1.0)  # so that each run counts as long
    more: Log = Arrivals()
    stop, task = start(Supervisor([[Part("x", Crashing(2, more))]]))
    await more.until(lambda words: "works" in words)
    assert waits[0] == 1.0
    stop.set()
    await ends(task)


async def test_a_part_that_ends_is_restarted_with_backoff(quick: None) -> None:
    """A `run` that returns before its stop is a defect; it must not freeze everything else."""
    runs: Arrivals[None] = Arrivals()

    class Deserter:
        async def run(self, _stop: asyncio.Event) -> None:
            runs.add(None)
            await asyncio.sleep(0)

    supervisor = Supervisor([[Part("deserter", Deserter())]])
    stop, task = start(supervisor)
    await runs.count(3)
    stop.set()
    await ends(task)
    assert total(supervisor) >= 2


async def test_a_stop_ends_a_wait_to_start_again(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor_module, "_FIRST_BACKOFF_S", 3600.0)
    stop, task = start(Supervisor([[Part("x", Crashing(9, log))]]))
    await log.count(1)
    stop.set()
    await ends(task)


async def test_a_stop_that_takes_too_long_is_cut_off(
    log: Log, quick: None, caplog: pytest.LogCaptureFixture
) -> None:
    """The part that hangs is cancelled, and so are the stages before it, whose turn never came."""
    hangs = Recorded("hangs", log, asyncio.Event().wait)
    before = Recorded("before", log)
    stop, task = start(Supervisor([[Part("before", before)], [Part("hangs", hangs)]], patience_s=0.05))
    await log.count(2)
    stop.set()
    await ends(task)
    assert list(log) == ["before starts", "hangs starts", "hangs stops"]
    assert "stopping took longer" in caplog.text


async def test_what_does_not_even_end_when_cancelled_is_left_behind(log: Log, quick: None) -> None:
    """A driver can wait for a silent database in its clean-up; the process must end all the same."""
    set_free = asyncio.Event()

    async def clean_up_for_ever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await set_free.wait()

    stop, task = start(Supervisor([[Part("x", Recorded("x", log, clean_up_for_ever))]], patience_s=0.05))
    await log.count(1)
    stop.set()
    await ends(task)
    set_free.set()


async def test_an_error_instead_of_a_cancellation_does_not_restart(log: Log, quick: None) -> None:
    """Its stop is not set yet, for the stage after it hangs."""

    class CleansUpBadly:
        async def run(self, _stop: asyncio.Event) -> None:
            log.add("starts")
            try:
                await asyncio.Event().wait()
            finally:
                if list(log).count("starts") == 1:
                    raise RuntimeError("the clean-up failed")

    hangs = Recorded("hangs", log, asyncio.Event().wait)
    supervisor = Supervisor([[Part("bad", CleansUpBadly())], [Part("hangs", hangs)]], patience_s=0.05)
    stop, task = start(supervisor)
    await log.count(2)
    stop.set()
    await ends(task)
    assert list(log) == ["starts", "hangs starts", "hangs stops"]


async def test_a_stop_before_the_start_runs_through(log: Log) -> None:
    stop = asyncio.Event()
    stop.set()
    supervisor = Supervisor([[Part("one", Recorded("one", log))], [Part("two", Recorded("two", log))]])
    async with asyncio.timeout(10):
        await supervisor.run(stop)


async def test_a_supervisor_is_a_part_like_any_other(log: Log) -> None:
    inner = Supervisor([[Part("one", Recorded("one", log))], [Part("two", Recorded("two", log))]])
    outer = Supervisor([[Part("http", Recorded("http", log))], [Part("worker", inner)]])
    stop, task = start(outer)
    await log.count(3)
    stop.set()
    await ends(task)
    assert [line for line in log if "has stopped" in line] == [
        "two has stopped",
        "one has stopped",
        "http has stopped",
    ]


async def test_a_part_that_waits_to_start_again_still_counts_as_failing(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time after which a running part counts as well does not run on."""
    monkeypatch.setattr(supervisor_module, "WELL_AFTER_S", 0.01)
    supervisor = Supervisor([[Part("crashing", Crashing(1, log))]])
    stop, task = start(supervisor)
    await log.count(1)
    await asyncio.sleep(0.03)
    assert [part.any for part in supervisor.failures] == [True]
    stop.set()
    await ends(task)


# The contract, kept by every long-lived thing there is


@pytest.fixture
async def whole_worker(db_url: str, key: bytes) -> AsyncIterator[Worker]:
    async with worker(Settings(), db_url, key) as whole:
        await whole.register()
        yield whole


PARTS = [
    "presence",
    "housekeeping",
    "analyst watch",
    "attempt folder test",
    "health watch test",
    "settler test",
    "dispatcher test",
    "fanout test",
    "activity test",
    "rollups test",
    "sequencer test",
]


async def test_a_silent_database_does_not_keep_a_stop_waiting(db_url: str, key: bytes, quick: None) -> None:
    """No answer, no error, no end of a connection: within its patience the worker stops all the same."""
    async with proxying(db_url) as proxy:
        async with worker(Settings(), proxy.url(db_url), key) as far:
            await far.register()
            stop, task = start(Supervisor(far.stages(), patience_s=0.3))
            await asyncio.sleep(0.1)
            proxy.stop_forwarding()
            await asyncio.sleep(0.1)
            stop.set()
            async with asyncio.timeout(3):
                await task
            closing = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() - closing < 1


@pytest.mark.parametrize("name", PARTS)
async def test_every_part_of_a_worker_keeps_the_lifecycle_s_contract(whole_worker: Worker, name: str) -> None:
    parts = {part.name: part.runs for stage in whole_worker.stages() for part in stage}
    assert set(parts) == {*PARTS, *(part.replace(" test", " live") for part in PARTS)}
    if name != "presence":  # the others' work is done in a living worker's name
        await whole_worker.presence.check()
    await stress_lifecycle(parts[name])


async def test_a_whole_worker_keeps_the_lifecycle_s_contract(
    whole_worker: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    supervisor = Supervisor(whole_worker.stages(), patience_s=5)
    with caplog.at_level(logging.ERROR):
        await stress_lifecycle(supervisor, turns=6)
    assert total(supervisor) == 0, caplog.text
