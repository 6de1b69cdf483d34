"""The worker id of a process. It changes after others declared the worker dead."""

from tests.faults.scenario import Scenario
from tests.faults.worker_group import WorkerProcess


async def id_of(run: Scenario, member: WorkerProcess) -> int | None:
    """Returns its current worker id, or None. Workers are named HOST/PID."""
    found: int | None = await run.owner.fetchval(
        "SELECT id FROM core.workers WHERE name LIKE '%/' || $1::text", str(member.process.pid)
    )
    return found


async def has_new_id(run: Scenario, member: WorkerProcess) -> bool:
    return await id_of(run, member) not in {None, member.worker}
