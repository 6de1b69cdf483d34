"""`duro consumers`."""

from collections.abc import Sequence
from itertools import product
from typing import Final

import click
from rich.console import Console

from schema.connections.database import Database
from schema.deliveries import retry_switch
from schema.errors import Conflict
from schema.event_log import log
from schema.event_log.log import ConsumerStatus
from schema.ids import EVENT, format_id
from schema.modes import Mode
from service.admin.dead_events import RetryOutcome, RetryResult, retry_dead_events
from service.admin.shapes import consumer_shape
from service.cli import options
from service.cli.app import App, command
from service.cli.log import consumers_rebuild
from service.cli.log.consumers_group import consumers
from service.cli.views import table
from service.worker.projection_consumers import CONSUMERS

__all__ = ["consumers", "consumers_rebuild"]

_Statuses = Sequence[tuple[Mode, ConsumerStatus]]
_Paused = Sequence[Mode]
_Results = Sequence[tuple[Mode, RetryResult]]
_HIGHEST_POS: Final = 2**63 - 1


@command(consumers, "status")
def status(app: App) -> None:
    """Show each consumer's position, its lag, and how many events are dead-lettered.

    Committed events without a position, as when no worker runs, count as lag.

    \b
    Example:
      duro consumers status
    """

    async def find(database: Database) -> tuple[_Statuses, _Paused]:
        found = [
            (mode, found)
            for mode in Mode
            for found in await log.consumer_status(database.data(mode), CONSUMERS)
        ]
        return found, [mode for mode in Mode if await retry_switch.retries_paused(database.data(mode))]

    found, paused = app.with_database(find)
    app.result(
        {
            "consumers": [consumer_shape(*row) for row in found],
            "retriesPausedIn": [mode.value for mode in paused],
        },
        lambda out: _show_status(out, found, paused),
    )


@command(consumers, "retry-dead")
@click.option("--consumer", type=click.Choice(CONSUMERS), help="Only this consumer.  [default: all]")
@click.option("--mode", type=options.ModeChoice(), help="Only in this mode.")
@click.option(
    "--pos", type=click.IntRange(1, _HIGHEST_POS), help="Only the event at this position; needs --mode."
)
def retry_dead(app: App, consumer: str | None, mode: Mode | None, pos: int | None) -> None:
    """Apply dead-lettered events again. Those that fail again stay dead-lettered, and make the exit status 1.

    \b
    Example:
      duro consumers retry-dead
      duro consumers retry-dead --consumer activity --mode live --pos 18467
    """
    if pos is not None and mode is None:
        raise click.UsageError("A position belongs to one mode: add --mode.")

    async def run(database: Database) -> _Results:
        results: list[tuple[Mode, RetryResult]] = []
        with app.counting("Retrying") as count:
            for each, name in product((mode,) if mode else Mode, (consumer,) if consumer else CONSUMERS):
                async for result in retry_dead_events(database.data(each), name, pos):
                    results.append((each, result))
                    count(f"Retrying: {len(results)} so far")
        return results

    results = app.with_database(run)
    app.result({"items": [_shape(*row) for row in results]}, lambda out: _show_results(out, results))
    failed = sum(result.result is RetryOutcome.FAILED for _, result in results)
    if failed:
        raise Conflict(
            f"{failed} of {len(results)} dead-lettered events failed again and stay dead-lettered: see their errors above."
        )


def _shape(mode: Mode, result: RetryResult) -> dict[str, object]:
    return {
        "mode": mode.value,
        "consumer": result.consumer,
        "position": result.pos,
        "eventId": format_id(EVENT, result.event_id),
        "result": result.result.value,
        "error": result.error,
    }


def _show_status(out: Console, found: _Statuses, paused: _Paused) -> None:
    rows = [
        (mode, s.consumer, s.pos, s.last_pos, s.lag, f"{s.lag_seconds or 0:.1f} s", s.dead)
        for mode, s in found
    ]
    headings = ("Mode", "Consumer", "Position", "End", "Behind", "Lag", "Dead-lettered")
    table(out, headings, rows, none="There are no consumers.")
    if any(s.dead for _, s in found):
        out.print("Dead-lettered events wait for: duro consumers retry-dead")
    for mode in paused:
        out.print(f"Retries are paused in mode {mode}: duro retries resume --mode {mode}")


def _show_results(out: Console, results: _Results) -> None:
    rows = [(mode, r.consumer, r.pos, format_id(EVENT, r.event_id), r.result, r.error) for mode, r in results]
    table(
        out,
        ("Mode", "Consumer", "Position", "Event", "Result", "Error"),
        rows,
        none="There are no dead-lettered events.",
    )
