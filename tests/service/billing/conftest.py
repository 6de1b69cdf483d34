from collections.abc import AsyncIterator

import pytest

from schema.connections.database import Database
from tests.support.billing.billing_world import Business, business, idle_business
from tests.support.billing.gateways import HeldGateway


@pytest.fixture
async def shop(database: Database) -> AsyncIterator[Business]:
    """A merchant in test mode, on the 30th of November 2026."""
    async with business(database) as made:
        yield made


@pytest.fixture
async def idle_shop(database: Database) -> Business:
    """The same, and nobody writes what the gateway answers."""
    return await idle_business(database)


@pytest.fixture
async def held(database: Database) -> AsyncIterator[tuple[Business, HeldGateway]]:
    """The same, and its gateway in the test's hand."""
    gateway = HeldGateway()
    async with business(database, gateway=gateway) as shop:
        yield shop, gateway
        gateway.let_go()
