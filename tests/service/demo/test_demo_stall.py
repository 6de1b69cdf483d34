"""When nothing arrives, the demo does not wait for ever: it says so, and what is missing."""

import asyncpg

from schema.ids import EVENT, format_id
from schema.modes import Mode
from service.backbone import Backbone
from service.demo.progress import no_progress
from service.demo.show import perform
from tests.support.connections import Connect


async def stop_sequencing(session: asyncpg.Connection) -> None:
    """No worker gets the sequencers' locks any more while this session's transaction is open."""
    await session.execute("BEGIN")
    for mode in Mode:
        await session.execute(f"LOCK TABLE {mode.schema}.sequencer_lock IN EXCLUSIVE MODE")


async def test_a_stalled_log_is_told_within_the_patience_there_is(
    connect: Connect, superuser: asyncpg.Connection, db_url: str, key: bytes
) -> None:
    await stop_sequencing(superuser)
    base = Backbone(db_url, key, embedded=False)
    outcome = await perform(base, 40, lasting=True, watch=no_progress, patience_s=0.5)
    told = {problem.what: problem.examples for problem in outcome.verdict.problems}
    assert next(iter(told)) == "Nothing arrived for 0.5 s, so the demo stopped waiting."
    greetings = [
        row["id"]
        for mode in Mode
        for row in await superuser.fetch(
            f"SELECT id FROM {mode.schema}.events WHERE type = 'subscription_created'"
        )
    ]
    assert len(greetings) == outcome.verdict.figures.committed == 4
    unplaced = next(examples for what, examples in told.items() if "no position" in what)
    assert set(unplaced) == {format_id(EVENT, event_id) for event_id in greetings}
    assert outcome.verdict.figures.lost == outcome.verdict.figures.expected == 4
