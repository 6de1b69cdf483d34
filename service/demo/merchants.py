"""Who takes part: two merchants with endpoints in both modes, plain, filtered, and with headers of their own."""

import secrets
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Final
from uuid import UUID

from delivery.egress_guard import parse_cidrs
from schema import tenants
from schema.database import Database
from schema.errors import Conflict
from schema.modes import Mode
from service.endpoint_admin import EndpointAdmin, Wish, endpoint_admin
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
        EndpointPlan("shop", Mode.LIVE),
        EndpointPlan("crm", Mode.LIVE, ("subscription_*",), {"Authorization": "Bearer bodija-crm"}),
        EndpointPlan(
            "trial-run",
            Mode.TEST,
            ("subscription_payment_*", "subscription_cancelled"),
            {"X-Shop": "bodija", "X-Environment": "test"},
        ),
    ),
}


@dataclass(frozen=True, slots=True)
class Endpoint:
    id: UUID
    mode: Mode
    path: str
    """At the receiver; tells endpoints apart there."""
    event_types: tuple[str, ...]
    headers: Mapping[str, str]
    secret: str = field(repr=False)

    def wants(self, event_type: str) -> bool:
        """Decided without the product's own matching, so that the two check each other."""
        return not self.event_types or any(fnmatchcase(event_type, pattern) for pattern in self.event_types)


@dataclass(frozen=True, slots=True)
class Merchant:
    id: UUID
    name: str
    endpoints: Sequence[Endpoint]

    def recipients(self, mode: Mode, event_type: str) -> frozenset[str]:
        """Paths of the endpoints that should get such an event."""
        return frozenset(e.path for e in self.endpoints if e.mode is mode and e.wants(event_type))


async def enrol(database: Database, receiver_url: str) -> list[Merchant]:
    """Creates the tenants and endpoints. Paths are this run's own, so nobody else's webhook is taken for one."""
    run = secrets.token_hex(8)
    async with endpoint_admin(Settings(egress_allow=parse_cidrs(EGRESS_ALLOW)), database) as admin:
        merchants = []
        for name, plans in PLAN.items():
            tenant_id, _api_keys = await tenants.create(database.core, f"{name} (demo)")
            base_path = f"/{run}/{name.lower().replace(' ', '-')}"
            made = [
                await _create(admin, tenant_id, receiver_url, f"{base_path}/{plan.name}", plan)
                for plan in plans
            ]
            merchants.append(Merchant(tenant_id, name, made))
    return merchants


async def _create(
    admin: EndpointAdmin, tenant_id: UUID, receiver_url: str, path: str, plan: EndpointPlan
) -> Endpoint:
    wish = Wish(description="duro demo", event_types=plan.event_types, headers=plan.headers)
    endpoint_id, secret = await admin.create(tenant_id, plan.mode, receiver_url + path, wish, None)
    return Endpoint(endpoint_id, plan.mode, path, plan.event_types, plan.headers, secret)


async def retire(database: Database, merchants: Iterable[Merchant]) -> None:
    """Disables the endpoints in a database that outlives the demo: their receiver is gone."""
    async with endpoint_admin(Settings(), database) as admin:
        for endpoint in (e for merchant in merchants for e in merchant.endpoints):
            with suppress(Conflict):
                await admin.disable(endpoint.id, "The demo is over.")
