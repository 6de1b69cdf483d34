"""Activity feed entries as JSON, and the sentence about their deliveries."""

import orjson

from schema.ids import CUSTOMER, ENDPOINT, EVENT, format_id
from schema.read_models.activity_feed import DeliverySummary, Entry, FeedPage
from schema.timestamps import iso_millis
from service.admin.shapes import Shape, page_shape


def feed_shape(feed: FeedPage) -> Shape:
    return {**page_shape(feed.page, _entry_shape), "asOf": iso_millis(feed.as_of)}


def problem(summary: DeliverySummary) -> str:
    """Says which deliveries failed, `2 of 3 deliveries failed (we_…)`. Empty when none failed or was skipped."""
    if not summary.not_delivered:
        return ""
    outcomes = ((summary.failed, "failed"), (summary.skipped, "skipped"), (summary.retrying, "failed so far"))
    (first, what), *others = [(count, what) for count, what in outcomes if count]
    of = f"{'' if summary.all_counted else 'the first '}{summary.total}"
    deliveries = "delivery" if summary.total == 1 else "deliveries"
    return (
        ", ".join((f"{first} of {of} {deliveries} {what}", *(f"{count} {what}" for count, what in others)))
        + f" ({_endpoints(summary)})"
    )


def _entry_shape(entry: Entry) -> Shape:
    """`createdAt` is the event's. `subject`, `customer` and `amount` are null where the event names none."""
    return {
        "id": format_id(EVENT, entry.id),
        "type": entry.type,
        "createdAt": iso_millis(entry.created_at),
        "position": entry.pos,
        "summary": entry.summary,
        "subject": format_id(*entry.subject) if entry.subject else None,
        "customer": format_id(CUSTOMER, entry.customer_id) if entry.customer_id else None,
        "amount": entry.amount,
        "currency": entry.currency,
        "links": orjson.Fragment(entry.links),
        "deliveries": _deliveries_shape(entry.deliveries),
    }


def _deliveries_shape(summary: DeliverySummary) -> Shape:
    """`endpoints` lists some endpoints of failed deliveries; `problem` is the same as a sentence, or null."""
    return {
        "total": summary.total,
        "failed": summary.failed,
        "skipped": summary.skipped,
        "retrying": summary.retrying,
        "allCounted": summary.all_counted,
        "endpoints": [format_id(ENDPOINT, endpoint) for endpoint in summary.endpoints],
        "problem": problem(summary) or None,
    }


def _endpoints(summary: DeliverySummary) -> str:
    named = ", ".join(format_id(ENDPOINT, endpoint) for endpoint in summary.endpoints)
    others = summary.not_delivered - len(summary.endpoints)
    return f"{named} and {others} more" if others > 0 else named
