"""The clocks of the workers and of the database jump forwards and backwards."""

import asyncio
import shutil
import signal
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.fault_receiver import fails_first, fault_receiver, mostly_successful
from tests.faults.figures import Figures
from tests.faults.length import length
from tests.faults.own_server import OwnCluster, own_cluster
from tests.faults.scenario import scenario
from tests.faults.worker_group import environment, worker_group

HOUR, DAY = 3600, 86400
JUMPS = [HOUR, -2 * HOUR, DAY, -2 * DAY, 8 * DAY, -7 * DAY + HOUR]
"""Seconds of each jump. Eight days exceed the time after which a failing endpoint is disabled."""
DELIVERIES = length(1_000, 20_000)
RETRY_S = 1.0
JITTER = 0.1


async def test_jumping_worker_clocks_lose_nothing_and_keep_retry_times(
    db_url: str, key: bytes, figures: Figures
) -> None:
    """Only signatures use the worker's clock, so the receiver has a large tolerance."""
    async with (
        fault_receiver(tolerance_s=30 * DAY) as receiver,
        scenario(db_url, key, receiver, figures) as run,
        worker_group(run, 0, {**environment(run), "DURO_RETRY_SCHEDULE": f"{RETRY_S:.0f}s,1s,1s"}) as workers,
    ):
        receiver.timed = True
        jumps = ",".join(map(str, JUMPS))
        both = [await workers.start_worker(module=("tests.faults.jumping_worker", jumps)) for _ in range(2)]
        producing = run.produce(DELIVERIES)
        for nth in range(len(JUMPS)):
            moment = DELIVERIES * (nth + run.chance.uniform(0.1, 0.9)) / len(JUMPS)
            await receiver.until(
                lambda moment=moment: len(receiver.requests) >= moment, f"{moment:.0f} deliveries"
            )
            for member in both:
                member.process.send(signal.SIGUSR1)
                figures.count("jumps")
        await producing
        await run.check_deliveries(workers.workers)
        assert figures.duplicates == 0
        assert max(receiver.stamps) - min(receiver.stamps) > HOUR, "the clocks jumped"
        waits = [times[1] - times[0] for pair, times in receiver.arrived.items() if fails_first(*pair)]
        assert min(waits) >= RETRY_S * (1 - JITTER), "no retry was early"
        assert [member.process.stderr for member in both] == ["", ""]
        figures.notes.append(
            f"{len(waits)} retries due after {RETRY_S:.0f} s came after {min(waits):.1f} to {max(waits):.1f} s"
        )


@pytest.fixture
def stopped_server() -> Iterator[OwnCluster]:
    with own_cluster() as cluster:
        yield cluster


@pytest.fixture
def moved_clock() -> Iterator[tuple[Path, Path]]:
    """Yields the library for LD_PRELOAD, and the file with the seconds by which it moves the clock."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("moving PostgreSQL's clock needs a C compiler (cc)")
    with tempfile.TemporaryDirectory(prefix="duro-test-") as directory:
        library, clock = Path(directory, "moved_clock.so"), Path(directory, "clock")
        source = Path(__file__).with_name("moved_clock.c")
        subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
        clock.write_bytes(struct.pack("q", 0))
        for path in (Path(directory), library, clock):
            path.chmod(0o755)
        yield library, clock


def move(clock: Path, seconds: int) -> None:
    with clock.open("r+b") as file:
        file.write(struct.pack("q", seconds))


async def test_a_database_clock_jump_repeats_only_deliveries_in_flight(
    stopped_server: OwnCluster, moved_clock: tuple[Path, Path], figures: Figures
) -> None:
    """Retries and leases use its clock: future retries become due and every lease expires."""
    library, clock = moved_clock
    variables = {"LD_PRELOAD": str(library), "MOVED_CLOCK": str(clock)}
    url = stopped_server.url_at("127.0.0.1")
    with stopped_server.running(variables=variables):
        async with (
            fault_receiver(mostly_successful) as receiver,
            scenario(url, stopped_server.key, receiver, figures) as run,
            worker_group(run, 2) as workers,
        ):
            producing = run.produce(DELIVERIES)
            await receiver.until(lambda: len(receiver.requests) >= DELIVERIES / 2, "half of the deliveries")
            before = await run.owner.fetchval("SELECT now()")
            figures.in_flight += await run.leased()
            move(clock, HOUR)
            figures.count("jumps")
            assert (await run.owner.fetchval("SELECT now()") - before).total_seconds() > HOUR - 1
            await producing
            await run.check_deliveries(await run.workers())
            assert len(await run.workers()) == len(workers.members)
            await asyncio.sleep(0)
