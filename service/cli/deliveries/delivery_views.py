"""Deliveries as text."""

from typing import Final

from rich.console import Console

from schema.deliveries.delivery_history import AttemptDetail, Delivery, DeliveryDetail
from schema.ids import DELIVERY, ENDPOINT, EVENT, format_id
from schema.pages import Page
from service.admin.lookup import Location
from service.cli.views import fields, more, table

_LONGEST_BODY: Final = 120


def show_page(out: Console, page: Page[Delivery]) -> None:
    rows = [
        (
            format_id(DELIVERY, d.id),
            d.event_type,
            format_id(ENDPOINT, d.endpoint_id),
            d.status,
            d.attempts,
            d.created_at,
        )
        for d in page.items
    ]
    headings = ("Delivery", "Event type", "Endpoint", "Status", "Attempts", "Created")
    table(out, headings, rows, none="No deliveries found.")
    more(out, page)


def show_delivery(out: Console, location: Location, delivery: DeliveryDetail) -> None:
    fields(
        out,
        {
            "Delivery": format_id(DELIVERY, delivery.id),
            "Tenant": location.tenant,
            "Mode": location.mode,
            "Endpoint": format_id(ENDPOINT, delivery.endpoint_id),
            "Event": format_id(EVENT, delivery.event_id),
            "Type": delivery.event_type,
            "Created": delivery.created_at,
            "Status": _status(delivery),
        },
    )
    out.print()
    headings = ("Attempt at", "Outcome", "Status", "Took", "Error", "Answer")
    table(out, headings, map(_attempt, delivery.attempts), none="No attempts yet.")


def _status(delivery: DeliveryDetail) -> str:
    if delivery.in_flight:
        return "pending, an attempt is in flight"
    if delivery.due_at is not None:
        return f"pending, due at {delivery.due_at:%Y-%m-%d %H:%M:%S} UTC"
    return delivery.status


def _attempt(attempt: AttemptDetail) -> tuple[object, ...]:
    notes = [
        note for note, applies in (("replay", attempt.replay), ("too late", not attempt.settled)) if applies
    ]
    outcome = f"{attempt.outcome} ({', '.join(notes)})" if notes else attempt.outcome
    took = f"{attempt.total_ms:.0f} ms"
    return attempt.started_at, outcome, attempt.status_code, took, attempt.error, answer_of(attempt)


def answer_of(attempt: AttemptDetail) -> str:
    """The beginning of the body, on one line."""
    body = " ".join(attempt.response_body.decode(errors="replace").split())
    return body if len(body) <= _LONGEST_BODY else f"{body[:_LONGEST_BODY]}…"
