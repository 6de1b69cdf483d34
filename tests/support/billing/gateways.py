"""Gateways that are in trouble, or that a test holds in its hand."""

import asyncio
from uuid import UUID

from service.billing.gateway.gateway import Order, Outcome
from tests.support.asking import PATIENCE_S
from tests.support.billing.billing_world import Business, CountingGateway


class HeldGateway(CountingGateway):
    """Knows of an order at once, and answers those that it holds when they are let go."""

    def __init__(self) -> None:
        super().__init__()
        self._news = asyncio.Condition()
        self._holds = False
        self._let_go = asyncio.Event()

    def hold(self) -> None:
        """Whoever asks from now on."""
        self._holds = True
        self._let_go.clear()

    def hold_no_more(self) -> None:
        """Whoever asks from now on has an answer at once; the others still wait."""
        self._holds = False

    def let_go(self) -> None:
        self._holds = False
        self._let_go.set()

    async def charge(self, order: Order) -> Outcome:
        return await self._when_let_go(await super().charge(order))

    async def refund(self, order: Order, of: str) -> Outcome:
        return await self._when_let_go(await super().refund(order, of))

    async def has_been_asked(self, times: int) -> None:
        """In all, for charges."""
        async with asyncio.timeout(PATIENCE_S), self._news:
            await self._news.wait_for(lambda: self.charged.total() >= times)

    async def _when_let_go(self, outcome: Outcome) -> Outcome:
        async with self._news:
            self._news.notify_all()
        if self._holds:
            await self._let_go.wait()
        return outcome


async def renewing(shop: Business, gateway: HeldGateway) -> UUID:
    """A subscription whose renewal the gateway has been asked for, and has not answered."""
    sub = await shop.subscribe()
    await begin_renewal(shop, gateway, sub)
    return sub


async def begin_renewal(shop: Business, gateway: HeldGateway, sub: UUID) -> None:
    gateway.hold()
    shop.clock.advance((await shop.subscription(sub)).current_period_end)
    assert await shop.step("renewals") == 1
    await gateway.has_been_asked(2)
