"""When nothing arrives, the demo stops waiting and reports what is missing."""

import asyncpg

from schema.ids import EVENT, format_id
from schema.modes import Mode
from service.database_access import DatabaseAccess
from service.demo.demo_run import run_demo
from service.demo.progress_display import no_progress
from tests.support.servers.connections import Connect


async def stop_sequencing(session: asyncpg.Connection) -> None:
    """Blocks the sequencers while this session's transaction is open."""
    await session.execute("BEGIN")
    for mode in Mode:
        await session.execute(f"LOCK TABLE {mode.schema}.sequencer_lock IN EXCLUSIVE MODE")


async def test_a_stalled_log_fails_the_demo_in_time(
    connect: Connect, superuser: asyncpg.Connection, db_url: str, key: bytes
) -> None:
    await stop_sequencing(superuser)
    base = DatabaseAccess(db_url, key, embedded=False)
    outcome = await run_demo(base, 40, persistent=True, progress=no_progress, patience_s=0.5)
    problems = {problem.what: problem.examples for problem in outcome.verdict.problems}
    assert next(iter(problems)) == "Nothing arrived for 0.5 s, so the demo stopped waiting."
    first_events = [
        row["id"]
        for mode in Mode
        for row in await superuser.fetch(
            f"SELECT id FROM {mode.schema}.events WHERE type = 'subscription_created'"
        )
    ]
    assert len(first_events) == outcome.verdict.figures.committed == 4
    unsequenced = next(examples for what, examples in problems.items() if "no position" in what)
    assert set(unsequenced) == {format_id(EVENT, event_id) for event_id in first_events}
    assert outcome.verdict.figures.lost == outcome.verdict.figures.expected == 4
