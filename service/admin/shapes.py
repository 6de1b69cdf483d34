"""Formats rows as public JSON: camelCase, prefixed ids, times in UTC with milliseconds."""

from collections.abc import Callable
from datetime import datetime
from typing import Any, TypeVar

import orjson

from delivery.health.breaker import State, state_of
from schema import ids
from schema.core.endpoints import Endpoint
from schema.core.tenants import Tenant
from schema.deliveries.delivery_history import AttemptDetail, Delivery, DeliveryDetail
from schema.event_catalog import EventType
from schema.event_log.events import Event, EventDelivery, EventDetail
from schema.event_log.log import ConsumerStatus
from schema.ids import format_id
from schema.modes import Mode
from schema.pages import Keyed, Page
from schema.timestamps import iso_millis

Shape = dict[str, Any]
T = TypeVar("T", bound=Keyed)


def page_shape(page: Page[T], shape: Callable[[T], Shape]) -> Shape:
    return {
        "items": [shape(item) for item in page.items],
        "nextCursor": page.next_cursor,
        "hasMore": page.has_more,
    }


def tenant_shape(tenant: Tenant) -> Shape:
    return {
        "id": format_id(ids.TENANT, tenant.id),
        "name": tenant.name,
        "createdAt": iso_millis(tenant.created_at),
    }


def endpoint_shape(endpoint: Endpoint) -> Shape:
    """Contains no secret, and of the custom headers only whether any exist, because their values may be credentials."""
    return {
        "id": format_id(ids.ENDPOINT, endpoint.id),
        "tenantId": format_id(ids.TENANT, endpoint.tenant_id),
        "mode": endpoint.mode.value,
        "url": endpoint.url,
        "description": endpoint.description,
        "eventTypes": list(endpoint.event_types),
        "hasCustomHeaders": endpoint.sealed_headers is not None,
        "validSecrets": endpoint.secrets,
        "enabled": endpoint.enabled,
        "disabledReason": endpoint.disabled_reason,
        "paused": endpoint.paused,
        "rateLimit": endpoint.rate_limit,
        "createdAt": iso_millis(endpoint.created_at),
        "updatedAt": iso_millis(endpoint.updated_at),
        "health": _health_shape(endpoint),
    }


def endpoint_state(endpoint: Endpoint) -> State:
    health = endpoint.health
    return state_of(
        enabled=endpoint.enabled,
        failing_since=health.failing_since,
        open_until=health.open_until,
        now=health.as_of,
    )


def _health_shape(endpoint: Endpoint) -> Shape:
    health = endpoint.health
    return {
        "state": endpoint_state(endpoint).value,
        "consecutiveFailures": health.consecutive_failures,
        "failingSince": _time(health.failing_since),
        "lastSuccessAt": _time(health.last_success_at),
        "lastFailureAt": _time(health.last_failure_at),
        "lastError": health.last_error,
        "breakerOpenUntil": _time(health.open_until),
        "disablesAt": _time(health.disables_at),
    }


def event_shape(event: Event) -> Shape:
    return {
        "id": format_id(ids.EVENT, event.id),
        "type": event.type,
        "createdAt": iso_millis(event.created_at),
        "data": _as_stored(event.data),
    }


def event_type_shape(event_type: EventType) -> Shape:
    return {
        "type": event_type.name,
        "description": event_type.description,
        "schema": event_type.schema,
        "example": event_type.example,
    }


def shown_event_shape(event: EventDetail, tenant: str, mode: Mode) -> Shape:
    """`tenant` is `ten_…`. The position is null until the event is sequenced."""
    return {
        "id": format_id(ids.EVENT, event.id),
        "tenantId": tenant,
        "mode": mode.value,
        "type": event.type,
        "createdAt": iso_millis(event.created_at),
        "position": event.pos,
        "data": _as_stored(event.data),
        "deliveries": [_summary_shape(delivery) for delivery in event.deliveries],
    }


def delivery_shape(delivery: Delivery) -> Shape:
    """`attempts` is the number of attempts made; `createdAt` is the event's."""
    return {
        "id": format_id(ids.DELIVERY, delivery.id),
        "endpointId": format_id(ids.ENDPOINT, delivery.endpoint_id),
        "eventId": format_id(ids.EVENT, delivery.event_id),
        "eventType": delivery.event_type,
        "status": delivery.status,
        "attempts": delivery.attempts,
        "createdAt": iso_millis(delivery.created_at),
        "dueAt": _time(delivery.due_at),
        "settledAt": _time(delivery.settled_at),
    }


def shown_delivery_shape(delivery: DeliveryDetail, tenant: str, mode: Mode) -> Shape:
    """`attempts` is a list, oldest first; `tenant` is `ten_…`."""
    return {
        "id": format_id(ids.DELIVERY, delivery.id),
        "tenantId": tenant,
        "mode": mode.value,
        "endpointId": format_id(ids.ENDPOINT, delivery.endpoint_id),
        "eventId": format_id(ids.EVENT, delivery.event_id),
        "eventType": delivery.event_type,
        "status": delivery.status,
        "attemptsMade": delivery.attempts_made,
        "inFlight": delivery.in_flight,
        "createdAt": iso_millis(delivery.created_at),
        "dueAt": _time(delivery.due_at),
        "settledAt": _time(delivery.settled_at),
        "attempts": [_attempt_shape(attempt) for attempt in delivery.attempts],
    }


def consumer_shape(mode: Mode, status: ConsumerStatus) -> Shape:
    return {
        "mode": mode.value,
        "consumer": status.consumer,
        "position": status.pos,
        "end": status.last_pos,
        "unsequenced": status.unsequenced,
        "lagEvents": status.lag,
        "lagSeconds": round(status.lag_seconds or 0.0, 3),
        "dead": status.dead,
        "movedAt": _time(status.moved_at),
    }


def _summary_shape(delivery: EventDelivery) -> Shape:
    return {
        "id": format_id(ids.DELIVERY, delivery.id),
        "endpointId": format_id(ids.ENDPOINT, delivery.endpoint_id),
        "status": delivery.status,
        "attempts": delivery.attempts,
    }


def _attempt_shape(attempt: AttemptDetail) -> Shape:
    return {
        "id": format_id(ids.ATTEMPT, attempt.id),
        "startedAt": iso_millis(attempt.started_at),
        "replay": attempt.replay,
        "outcome": attempt.outcome,
        "statusCode": attempt.status_code,
        "error": attempt.error,
        "address": attempt.address,
        "dnsMs": _millis(attempt.dns_ms),
        "connectMs": _millis(attempt.connect_ms),
        "tlsMs": _millis(attempt.tls_ms),
        "firstByteMs": _millis(attempt.first_byte_ms),
        "totalMs": _millis(attempt.total_ms),
        "responseBody": attempt.response_body.decode(errors="replace"),
        "settled": attempt.settled,
    }


def _as_stored(data: str) -> orjson.Fragment:
    """Keeps numbers as written, such as `1.10` and 12345678901234567890123."""
    return orjson.Fragment(data)


def _time(time: datetime | None) -> str | None:
    return None if time is None else iso_millis(time)


def _millis(value: float | None) -> float | None:
    """Rounds a `real`, which has seven digits."""
    return None if value is None else round(value, 3)
