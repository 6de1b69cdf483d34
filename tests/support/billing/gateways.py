"""A gateway whose answers a test can hold back."""

import asyncio
from uuid import UUID

from service.billing.gateway.gateway import Order, Outcome
from tests.support.billing.billing_world import CountingGateway, TenantBilling
from tests.support.database_waits import PATIENCE_S


class HeldGateway(CountingGateway):
    """Accepts an order immediately, and answers held ones after `release`."""

    def __init__(self) -> None:
        super().__init__()
        self._news = asyncio.Condition()
        self._holds = False
        self._released = asyncio.Event()

    def hold(self) -> None:
        """Holds the answers of new requests."""
        self._holds = True
        self._released.clear()

    def stop_holding(self) -> None:
        """Answers new requests immediately; held ones still wait."""
        self._holds = False

    def release(self) -> None:
        self._holds = False
        self._released.set()

    async def charge(self, order: Order) -> Outcome:
        return await self._when_released(await super().charge(order))

    async def refund(self, order: Order, of: str) -> Outcome:
        return await self._when_released(await super().refund(order, of))

    async def wait_for_charges(self, times: int) -> None:
        """Waits for that many charge requests in total."""
        async with asyncio.timeout(PATIENCE_S), self._news:
            await self._news.wait_for(lambda: self.charged.total() >= times)

    async def _when_released(self, outcome: Outcome) -> Outcome:
        async with self._news:
            self._news.notify_all()
        if self._holds:
            await self._released.wait()
        return outcome


async def start_held_renewal(billing: TenantBilling, gateway: HeldGateway) -> UUID:
    """Returns a subscription whose renewal charge the gateway holds."""
    sub = await billing.subscribe()
    await begin_renewal(billing, gateway, sub)
    return sub


async def begin_renewal(billing: TenantBilling, gateway: HeldGateway, sub: UUID) -> None:
    gateway.hold()
    billing.clock.advance((await billing.subscription(sub)).current_period_end)
    assert await billing.step("renewals") == 1
    await gateway.wait_for_charges(2)
