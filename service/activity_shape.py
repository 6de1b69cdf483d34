"""A line of the activity feed as the outside world sees it, and what to say of its deliveries."""

import orjson

from schema.activity import Fares, FeedPage, Line
from schema.ids import CUSTOMER, ENDPOINT, EVENT, format_id
from schema.timestamps import iso_millis
from service.shapes import Shape, page_shape


def feed_shape(feed: FeedPage) -> Shape:
    return {**page_shape(feed.page, _line_shape), "asOf": iso_millis(feed.as_of)}


def trouble(fares: Fares) -> str:
    """`2 of 3 deliveries failed (we_…)`; nothing while none has failed or was skipped."""
    if not fares.troubled:
        return ""
    told = ((fares.failed, "failed"), (fares.skipped, "skipped"), (fares.retrying, "failed so far"))
    (first, what), *others = [(count, what) for count, what in told if count]
    of = f"{'' if fares.all_seen else 'the first '}{fares.deliveries}"
    deliveries = "delivery" if fares.deliveries == 1 else "deliveries"
    return (
        ", ".join((f"{first} of {of} {deliveries} {what}", *(f"{count} {what}" for count, what in others)))
        + f" ({_endpoints(fares)})"
    )


def _line_shape(line: Line) -> Shape:
    """`createdAt` is the event's. `subject`, `customer` and `amount` are null where the event names none."""
    return {
        "id": format_id(EVENT, line.id),
        "type": line.type,
        "createdAt": iso_millis(line.created_at),
        "position": line.pos,
        "line": line.line,
        "subject": format_id(*line.subject) if line.subject else None,
        "customer": format_id(CUSTOMER, line.customer_id) if line.customer_id else None,
        "amount": line.amount,
        "currency": line.currency,
        "links": orjson.Fragment(line.links),
        "deliveries": _fares_shape(line.fares),
    }


def _fares_shape(fares: Fares) -> Shape:
    """`endpoints` are some of those to which something did not arrive; `trouble` is the same in words, or null."""
    return {
        "total": fares.deliveries,
        "failed": fares.failed,
        "skipped": fares.skipped,
        "retrying": fares.retrying,
        "allSeen": fares.all_seen,
        "endpoints": [format_id(ENDPOINT, endpoint) for endpoint in fares.endpoints],
        "trouble": trouble(fares) or None,
    }


def _endpoints(fares: Fares) -> str:
    named = ", ".join(format_id(ENDPOINT, endpoint) for endpoint in fares.endpoints)
    others = fares.troubled - len(fares.endpoints)
    return f"{named} and {others} more" if others > 0 else named
