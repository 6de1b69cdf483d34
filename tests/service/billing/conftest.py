from collections.abc import AsyncIterator

import pytest

from schema.connections.database import Database
from tests.support.billing.billing_world import TenantBilling, idle_tenant_billing, tenant_billing
from tests.support.billing.gateways import HeldGateway


@pytest.fixture
async def billing(database: Database) -> AsyncIterator[TenantBilling]:
    """A merchant in test mode, on the 30th of November 2026."""
    async with tenant_billing(database) as made:
        yield made


@pytest.fixture
async def idle_billing(database: Database) -> TenantBilling:
    """Billing whose charge processor does not run."""
    return await idle_tenant_billing(database)


@pytest.fixture
async def held(database: Database) -> AsyncIterator[tuple[TenantBilling, HeldGateway]]:
    """The same, and its gateway in the test's hand."""
    gateway = HeldGateway()
    async with tenant_billing(database, gateway=gateway) as billing:
        yield billing, gateway
        gateway.release()
