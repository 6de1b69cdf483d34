"""Test events: each goes to one endpoint only, and is recorded and delivered like any other event."""

import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Final
from uuid import UUID

from consumers.event_type_matching import TEST
from schema.connections.database import Database, Pool
from schema.core import endpoints
from schema.core.endpoints import Endpoint
from schema.deliveries import delivery_history
from schema.deliveries.delivery_history import DeliveryDetail
from schema.durations import format_duration
from schema.errors import Conflict, Unavailable
from schema.event_log import events
from schema.event_log.events import EventDetail
from schema.ids import DELIVERY, ENDPOINT, EVENT, format_id
from schema.polling import PollTimer

MESSAGE: Final = "A test event. Verify its signature like that of any other event."


@dataclass(frozen=True, slots=True)
class SentTest:
    endpoint: Endpoint
    event_id: UUID


async def send_test(database: Database, endpoint_id: UUID) -> SentTest:
    """Records a test event. Raises NotFound, and Conflict while the endpoint is disabled or paused."""
    endpoint = await endpoints.show(database.core, endpoint_id)
    shown = format_id(ENDPOINT, endpoint_id)
    if not endpoint.enabled:
        raise Conflict(f"Endpoint {shown} is disabled: run duro endpoint enable {shown}, then test it.")
    if endpoint.paused:
        raise Conflict(f"Endpoint {shown} is paused: run duro endpoint resume {shown}, then test it.")
    data = {"endpointId": shown, "message": MESSAGE}
    return SentTest(
        endpoint, await events.record(database.data(endpoint.mode), endpoint.tenant_id, TEST, data)
    )


async def first_attempt(
    data: Pool, sent: SentTest, within_s: float, attempt_timeout: timedelta
) -> DeliveryDetail:
    """Waits for the first attempt and returns the delivery. After `within_s`, raises Unavailable and says how far it got.

    `attempt_timeout` is only for that message: how long the attempt in flight may take.
    """
    deadline = time.monotonic() + within_s
    poll_timer = PollTimer(first=0.02, most=0.5)
    while True:
        event = await events.show(data, sent.endpoint.tenant_id, sent.event_id)
        in_flight = False
        for delivery in event.deliveries:
            shown = await delivery_history.show(data, sent.endpoint.tenant_id, delivery.id)
            if shown.attempts or shown.settled_at is not None:
                return shown
            in_flight = shown.in_flight
        left = deadline - time.monotonic()
        if left <= 0:
            raise Unavailable(_being_sent(event, attempt_timeout) if in_flight else _how_far(event, within_s))
        poll_timer.no_later_than(left)
        await poll_timer.wait(found=False)


def _being_sent(event: EventDetail, attempt_timeout: timedelta) -> str:
    delivery = format_id(DELIVERY, event.deliveries[0].id)
    return (
        f"Delivery {delivery} is in flight and has no answer yet: an attempt may take up to "
        f"{format_duration(attempt_timeout)} (DURO_ATTEMPT_TIMEOUT). Then see duro delivery show {delivery}."
    )


def _how_far(event: EventDetail, within_s: float) -> str:
    shown = format_id(EVENT, event.id)
    if event.pos is None:
        return (
            f"No worker processed event {shown} within {within_s:g} s: start one with duro up or duro work. "
            "The event is then delivered."
        )
    if not event.deliveries:
        return f"Event {shown} was not fanned out within {within_s:g} s: check the lag with duro consumers status."
    delivery = format_id(DELIVERY, event.deliveries[0].id)
    return (
        f"Delivery {delivery} had no attempt within {within_s:g} s, because others wait before it or the endpoint is "
        f"failing: see duro endpoint show {format_id(ENDPOINT, event.deliveries[0].endpoint_id)}, and later "
        f"duro delivery show {delivery}."
    )
