"""`duro endpoint test | backfill`: deliveries on request."""

from datetime import timedelta
from typing import Final
from uuid import UUID

import click
from rich.console import Console

from schema.connections.database import Database
from schema.deliveries.delivery_history import DeliveryDetail
from schema.errors import Conflict
from schema.ids import DELIVERY, ENDPOINT, EVENT, TENANT, format_id
from service.admin.endpoint_probe import SentTest, first_attempt, send_test
from service.admin.replay_jobs import begin_backfill
from service.admin.replay_shape import replay_shape
from service.admin.shapes import shown_delivery_shape
from service.cli import options
from service.cli.app import App, command
from service.cli.deliveries.delivery_views import answer_of
from service.cli.deliveries.replaying import read_span, run_job, show_job, span
from service.cli.tenants.endpoint_group import ID, endpoint
from service.cli.views import fields

_MIN_WAIT: Final = timedelta(seconds=30)
_BEYOND_ATTEMPT: Final = timedelta(seconds=5)


@command(endpoint, "test")
@click.argument("endpoint_id", type=ID)
@click.option(
    "--timeout",
    type=options.Duration(timedelta(seconds=1), timedelta(minutes=10)),
    help="How long to wait for the first attempt.  [default: 30s, or DURO_ATTEMPT_TIMEOUT + 5s if that is longer]",
)
@click.option("--no-wait", is_flag=True, help="Record the event without waiting.")
def test(app: App, endpoint_id: UUID, timeout: timedelta | None, *, no_wait: bool) -> None:
    """Send a test event to an endpoint and show the answer. The exit status is 1 when the answer is not 2xx.

    The event is a webhook_test. A worker delivers it like any other event, but to this endpoint only, whatever event
    types the endpoint receives. A failed test is retried like any other delivery.

    \b
    Example:
      duro endpoint test we_01HKBZ4PQ9Z3K7T8V9X2Y1B5C6
    """

    async def run(database: Database) -> tuple[SentTest, DeliveryDetail | None]:
        sent = await send_test(database, endpoint_id)
        if no_wait:
            return sent, None
        app.progress(f"Event {format_id(EVENT, sent.event_id)} is recorded; waiting for a worker")
        data = database.data(sent.endpoint.mode)
        longest = app.settings.attempt_timeout
        wait = timeout or longer_than(longest)
        return sent, await first_attempt(data, sent, wait.total_seconds(), longest)

    sent, delivery = app.with_database(run)
    shown = {
        "eventId": format_id(EVENT, sent.event_id),
        "endpointId": format_id(ENDPOINT, endpoint_id),
        "delivery": delivery
        and shown_delivery_shape(delivery, format_id(TENANT, sent.endpoint.tenant_id), sent.endpoint.mode),
    }
    app.result(shown, lambda out: _show_tested(out, sent, delivery))
    if delivery is not None and not _succeeded(delivery):
        raise Conflict(_failure(delivery))


def longer_than(attempt: timedelta) -> timedelta:
    """The default wait: longer than one attempt."""
    return max(_MIN_WAIT, attempt + _BEYOND_ATTEMPT)


def _succeeded(delivery: DeliveryDetail) -> bool:
    return any(attempt.outcome == "ok" for attempt in delivery.attempts)


def _failure(delivery: DeliveryDetail) -> str:
    shown = format_id(DELIVERY, delivery.id)
    if not delivery.attempts:
        return (
            f"The test was not sent because the endpoint was just disabled: see duro delivery show {shown}."
        )
    next_one = " It will be retried." if delivery.due_at is not None else ""
    return f"The test was not delivered: see the error above, or duro delivery show {shown}.{next_one}"


def _show_tested(out: Console, sent: SentTest, delivery: DeliveryDetail | None) -> None:
    rows: dict[str, object] = {
        "Endpoint": format_id(ENDPOINT, sent.endpoint.id),
        "URL": sent.endpoint.url,
        "Event": format_id(EVENT, sent.event_id),
    }
    if delivery is not None:
        rows["Delivery"] = format_id(DELIVERY, delivery.id)
        for attempt in delivery.attempts[:1]:
            rows |= {
                "Outcome": attempt.outcome,
                "Status": attempt.status_code,
                "Took": f"{attempt.total_ms:.0f} ms",
                "Error": attempt.error,
                "Answer": answer_of(attempt),
            }
    fields(out, rows)


@command(endpoint, "backfill")
@click.argument("endpoint_id", type=ID)
@span
def backfill(
    app: App,
    endpoint_id: UUID,
    since: str | None,
    until: str | None,
    since_pos: int | None,
    until_pos: int | None,
) -> None:
    """Deliver past events to a new endpoint: events of its types for which it has no delivery.

    New events go first. A backfill can be stopped, resumed and repeated at any time; it delivers no event twice.

    \b
    Example:
      duro endpoint backfill we_… --since 30d
      duro endpoint backfill we_… --since-pos 18467
    """
    events = read_span(since, until, since_pos, until_pos)
    if events is None:
        raise click.UsageError(
            "Choose the events with --since or --since-pos; --since-pos 0 means all events."
        )
    job = run_job(app, lambda database: begin_backfill(database, endpoint_id, events))
    app.result(replay_shape(job.mode, job.replay), lambda out: show_job(out, job))
