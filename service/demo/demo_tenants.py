"""The demo's two tenants. They have endpoints in both modes: plain, filtered, and with custom headers."""

import secrets
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Final
from uuid import UUID

from delivery.egress.guard import parse_cidrs
from schema.connections.database import Database
from schema.core import tenants
from schema.errors import Conflict
from schema.modes import Mode
from schema.secret_repr import HidesSecrets
from service.admin.endpoint_admin import EndpointAdmin, EndpointInput, endpoint_admin
from service.settings import Settings

EGRESS_ALLOW: Final = "127.0.0.0/8"


@dataclass(frozen=True, slots=True)
class EndpointPlan:
    name: str
    mode: Mode
    event_types: tuple[str, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)


PLAN: Final[Mapping[str, Sequence[EndpointPlan]]] = {
    "Ikeja Fitness Club": (
        EndpointPlan("app", Mode.LIVE),
        EndpointPlan("ledger", Mode.LIVE, ("subscription_payment_*", "invoice_created")),
        EndpointPlan("staging", Mode.TEST),
    ),
    "Bodija Books": (
        EndpointPlan("store", Mode.LIVE),
        EndpointPlan("crm", Mode.LIVE, ("subscription_*",), {"Authorization": "Bearer bodija-crm"}),
        EndpointPlan(
            "trial-run",
            Mode.TEST,
            ("subscription_payment_*", "subscription_cancelled"),
            {"X-Store": "bodija", "X-Environment": "test"},
        ),
    ),
}


@dataclass(frozen=True, slots=True)
class Endpoint(HidesSecrets):
    id: UUID
    mode: Mode
    path: str
    """Identifies the endpoint at the receiver."""
    event_types: tuple[str, ...]
    headers: Mapping[str, str]
    secret: str = field(repr=False)

    def subscribes_to(self, event_type: str) -> bool:
        """Uses independent matching code, so that it checks the product's."""
        return not self.event_types or any(fnmatchcase(event_type, pattern) for pattern in self.event_types)


@dataclass(frozen=True, slots=True)
class DemoTenant:
    id: UUID
    name: str
    endpoints: Sequence[Endpoint]

    def recipients(self, mode: Mode, event_type: str) -> frozenset[str]:
        """Returns the paths of the endpoints that should receive such an event."""
        return frozenset(e.path for e in self.endpoints if e.mode is mode and e.subscribes_to(event_type))


async def create_tenants(database: Database, receiver_url: str) -> list[DemoTenant]:
    """Creates the tenants and endpoints.

    Paths are unique to this run, so other webhooks are not mistaken for its own.
    """
    run = secrets.token_hex(8)
    async with endpoint_admin(Settings(egress_allow=parse_cidrs(EGRESS_ALLOW)), database) as admin:
        demo_tenants = []
        for name, plans in PLAN.items():
            tenant_id, _api_keys = await tenants.create(database.core, f"{name} (demo)")
            base_path = f"/{run}/{name.lower().replace(' ', '-')}"
            made = [
                await _create(admin, tenant_id, receiver_url, f"{base_path}/{plan.name}", plan)
                for plan in plans
            ]
            demo_tenants.append(DemoTenant(tenant_id, name, made))
    return demo_tenants


async def _create(
    admin: EndpointAdmin, tenant_id: UUID, receiver_url: str, path: str, plan: EndpointPlan
) -> Endpoint:
    fields = EndpointInput(description="duro demo", event_types=plan.event_types, headers=plan.headers)
    endpoint_id, secret = await admin.create(tenant_id, plan.mode, receiver_url + path, fields, None)
    return Endpoint(endpoint_id, plan.mode, path, plan.event_types, plan.headers, secret)


async def disable_endpoints(database: Database, demo_tenants: Iterable[DemoTenant]) -> None:
    """Disables the endpoints in a database that outlives the demo, because their receiver no longer exists."""
    async with endpoint_admin(Settings(), database) as admin:
        for endpoint in (e for tenant in demo_tenants for e in tenant.endpoints):
            with suppress(Conflict):
                await admin.disable(endpoint.id, "The demo has ended.")
