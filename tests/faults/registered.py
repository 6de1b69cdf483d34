"""A worker process's place in the register, which is another one after others took it for dead."""

from tests.faults.crew import Member
from tests.faults.world import World


async def id_of(here: World, member: Member) -> int | None:
    """Its worker id now, if it is registered: workers are named HOST/PID."""
    found: int | None = await here.owner.fetchval(
        "SELECT id FROM core.workers WHERE name LIKE '%/' || $1::text", str(member.process.pid)
    )
    return found


async def has_new_id(here: World, member: Member) -> bool:
    return await id_of(here, member) not in {None, member.worker}
