"""Clocks that jump, forwards and backwards: those of the workers, and the database's own."""

import asyncio
import shutil
import signal
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.crew import crew, environment
from tests.faults.figures import Figures
from tests.faults.length import length
from tests.faults.merchant import human, merchant, troubled
from tests.faults.own_server import OwnCluster, own_cluster
from tests.faults.world import world

HOUR, DAY = 3600, 86400
JUMPS = [HOUR, -2 * HOUR, DAY, -2 * DAY, 8 * DAY, -7 * DAY + HOUR]
"""Seconds; the sum of them is where a clock ends. Eight days are more than an endpoint may fail before it is disabled."""
DELIVERIES = length(1_000, 20_000)
RETRY_S = 1.0
JITTER = 0.1


async def test_workers_whose_clocks_jump_lose_nothing_and_keep_every_retry_to_its_time(
    db_url: str, key: bytes, figures: Figures
) -> None:
    """Only what they sign is of their own time, so the merchant here is tolerant of that."""
    async with (
        merchant(tolerance_s=30 * DAY) as shop,
        world(db_url, key, shop, figures) as here,
        crew(here, 0, {**environment(here), "DURO_RETRY_SCHEDULE": f"{RETRY_S:.0f}s,1s,1s"}) as workers,
    ):
        shop.timed = True
        jumps = ",".join(map(str, JUMPS))
        both = [await workers.hire(module=("tests.faults.jumping_worker", jumps)) for _ in range(2)]
        producing = here.produce(DELIVERIES)
        for nth in range(len(JUMPS)):
            moment = DELIVERIES * (nth + here.chance.uniform(0.1, 0.9)) / len(JUMPS)
            await shop.until(lambda moment=moment: len(shop.requests) >= moment, f"{moment:.0f} deliveries")
            for member in both:
                member.process.send(signal.SIGUSR1)
                figures.count("jumps")
        await producing
        await here.check_deliveries(workers.workers)
        assert figures.duplicates == 0
        assert max(shop.stamps) - min(shop.stamps) > HOUR, "the clocks did jump"
        waits = [times[1] - times[0] for pair, times in shop.arrived.items() if troubled(*pair)]
        assert min(waits) >= RETRY_S * (1 - JITTER), "none came early"
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
    """The library for LD_PRELOAD, and the file that says by how many seconds it moves the clock."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler (cc) to build a library that moves PostgreSQL's clock")
    with tempfile.TemporaryDirectory(prefix="duro-test-") as place:
        library, clock = Path(place, "moved_clock.so"), Path(place, "clock")
        source = Path(__file__).with_name("moved_clock.c")
        subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
        clock.write_bytes(struct.pack("q", 0))
        for path in (Path(place), library, clock):
            path.chmod(0o755)
        yield library, clock


def move(clock: Path, seconds: int) -> None:
    with clock.open("r+b") as file:
        file.write(struct.pack("q", seconds))


async def test_a_database_whose_clock_jumps_ahead_at_worst_repeats_what_was_in_flight(
    stopped_server: OwnCluster, moved_clock: tuple[Path, Path], figures: Figures
) -> None:
    """Retries and leases are timed by it: those to come are due, and every lease is old."""
    library, clock = moved_clock
    variables = {"LD_PRELOAD": str(library), "MOVED_CLOCK": str(clock)}
    url = stopped_server.url_at("127.0.0.1")
    with stopped_server.running(variables=variables):
        async with (
            merchant(human) as shop,
            world(url, stopped_server.key, shop, figures) as here,
            crew(here, 2) as workers,
        ):
            producing = here.produce(DELIVERIES)
            await shop.until(lambda: len(shop.requests) >= DELIVERIES / 2, "half of the deliveries")
            before = await here.owner.fetchval("SELECT now()")
            figures.in_flight += await here.leased()
            move(clock, HOUR)
            figures.count("jumps")
            assert (await here.owner.fetchval("SELECT now()") - before).total_seconds() > HOUR - 1
            await producing
            await here.check_deliveries(await here.workers())
            assert len(await here.workers()) == len(workers.ready)
            await asyncio.sleep(0)
