"""Endpoints as text."""

from datetime import datetime
from typing import Final

from rich.console import Console

from delivery.health.breaker import State
from schema.core.endpoints import Endpoint
from schema.ids import ENDPOINT, TENANT, format_id
from schema.pages import Page
from service.admin.shapes import endpoint_state
from service.cli.views import fields, more, table

_STATES: Final = {
    State.HEALTHY: "enabled",
    State.FAILING: "enabled, failing",
    State.OPEN: "enabled, circuit breaker open",
    State.HALF_OPEN: "enabled, circuit breaker half-open",
}


def show_created(out: Console, endpoint_id: str, secret: str) -> None:
    fields(out, {"Endpoint": endpoint_id, "Secret": secret})
    out.print("Save the secret in the receiver: it cannot be shown again.")


def show_rotated(out: Console, endpoint_id: str, secret: str, until: datetime) -> None:
    fields(out, {"Endpoint": endpoint_id, "Secret": secret, "Old secret signs until": until})
    out.print("Save the secret in the receiver: it cannot be shown again.")


def show_endpoint(out: Console, endpoint: Endpoint) -> None:
    fields(
        out,
        {
            "Endpoint": format_id(ENDPOINT, endpoint.id),
            "Tenant": format_id(TENANT, endpoint.tenant_id),
            "Mode": endpoint.mode,
            "URL": endpoint.url,
            "Description": endpoint.description,
            "Event types": _event_types(endpoint),
            "Custom headers": "yes, not shown" if endpoint.sealed_headers else "none",
            "Active secrets": endpoint.secrets,
            "State": _state(endpoint),
            **_health(endpoint),
            "Rate limit": _rate_limit(endpoint),
            "Created": endpoint.created_at,
            "Updated": endpoint.updated_at,
        },
    )


def show_page(out: Console, page: Page[Endpoint]) -> None:
    rows = [(format_id(ENDPOINT, e.id), _state(e), _event_types(e), e.url) for e in page.items]
    none = "No endpoints. Create one: duro endpoint create --help."
    table(out, ("Endpoint", "State", "Event types", "URL"), rows, none)
    more(out, page)


def _state(endpoint: Endpoint) -> str:
    state = _STATES.get(endpoint_state(endpoint), f"disabled: {endpoint.disabled_reason}")
    return f"{state}, paused" if endpoint.paused else state


def _health(endpoint: Endpoint) -> dict[str, object]:
    health = endpoint.health
    return {
        "Last success": health.last_success_at,
        "Failing since": health.failing_since,
        "Last error": health.last_error,
        "Breaker open until": health.open_until,
        "Will be disabled at": health.disables_at,
    }


def _rate_limit(endpoint: Endpoint) -> str:
    return "none" if endpoint.rate_limit is None else f"{endpoint.rate_limit} deliveries per second"


def _event_types(endpoint: Endpoint) -> str:
    return ", ".join(endpoint.event_types) or "all"
