"""The gateway's slots: a gateway is asked for so many at once and no more, whoever looks for work, and who finds no place
free does not ask the database either.
"""

import asyncio
from datetime import timedelta

import pytest

from service.billing.charges import ChargeProcessor
from service.billing.gateway.gateway import Outcome
from service.billing.scanning import Scanner, scanners
from tests.support.billing.billing_world import Business, at_work
from tests.support.billing.gateways import HeldGateway

PLACES = 5


def small(shop: Business) -> tuple[ChargeProcessor, dict[str, Scanner]]:
    """A worker with few places."""
    ledger = shop.engine.ledger
    charges = ChargeProcessor(ledger, shop.gateway, shop.engine.charges._tokens, places=PLACES)
    return charges, {scanner.name: scanner for scanner in scanners(ledger, charges)}


async def much_due(shop: Business) -> None:
    """More than there are places for, of each of three kinds."""
    plan, trial = await shop.plan(interval="week"), await shop.plan(trial_days=7)
    failing = [await shop.subscribe(plan) for _ in range(PLACES + 1)]
    shop.gateway.answers = lambda order: Outcome("processor_error") if order.number == 1 else None
    shop.clock.advance(shop.clock.time + timedelta(weeks=1))
    await shop.step("renewals")
    await shop.engine.charges.settled()
    assert {(await shop.subscription(sub)).status for sub in failing} == {"past_due"}
    shop.gateway.answers = lambda _order: None
    for _ in range(PLACES + 1):
        await shop.subscribe(plan)
        await shop.subscribe(trial)
    shop.clock.advance(shop.clock.time + timedelta(weeks=1))


async def test_scanners_at_once_take_no_more_than_there_are_places(
    held: tuple[Business, HeldGateway],
) -> None:
    shop, gateway = held
    await much_due(shop)
    charges, named = small(shop)
    gateway.hold()
    before = gateway.charged.total()
    found = await asyncio.gather(*(scanner.step() for scanner in named.values()))
    assert sum(found) == PLACES
    assert charges.room == 0
    await gateway.has_been_asked(before + PLACES)
    async with at_work(charges):
        gateway.let_go()
        await charges.settled()
    assert charges.room == PLACES


async def test_all_of_much_is_charged_over_few_places(held: tuple[Business, HeldGateway]) -> None:
    shop, gateway = held
    await much_due(shop)
    charges, named = small(shop)
    before, stop = gateway.charged.total(), asyncio.Event()
    async with at_work(charges):
        running = [asyncio.create_task(scanner.run(stop)) for scanner in named.values()]
        await gateway.has_been_asked(before + 3 * (PLACES + 1))
        await charges.settled()
        stop.set()
        await asyncio.gather(*running)
    assert await shop.step("recoveries") + await shop.step("renewals") + await shop.step("trials") == 0


async def test_a_scanner_without_a_place_asks_nobody_and_waits(
    held: tuple[Business, HeldGateway], monkeypatch: pytest.MonkeyPatch
) -> None:
    shop, gateway = held
    await much_due(shop)
    charges, named = small(shop)
    gateway.hold()
    assert await named["trials"].step() == PLACES
    looks = 0
    once = shop.engine.ledger.once

    async def counted(work: object) -> object:
        nonlocal looks
        looks += 1
        return await once(work)

    monkeypatch.setattr(shop.engine.ledger, "once", counted)
    stop = asyncio.Event()
    running = [asyncio.create_task(scanner.run(stop)) for scanner in named.values()]
    with monkeypatch.context() as steps:
        taken: list[str] = []
        step = Scanner.step

        async def noted(scanner: Scanner) -> int:
            taken.append(scanner.name)
            return await step(scanner)

        steps.setattr(Scanner, "step", noted)
        await asyncio.sleep(0.5)
    stop.set()
    await asyncio.gather(*running)
    assert looks == 0
    assert len(taken) <= 3 * len(named)
    async with at_work(charges):
        gateway.let_go()
        await charges.settled()


async def test_a_scanner_does_not_look_again_and_again_at_what_waits_for_a_refund(
    held: tuple[Business, HeldGateway],
) -> None:
    """While a refund is under way nothing is charged; a scanner that found it due all the same would never rest."""
    shop, gateway = held
    sub = await shop.subscribe(await shop.plan(interval="week"))
    (charge,) = await shop.payments()
    gateway.answers = lambda order: Outcome("processor_error") if order.number == 1 else None
    shop.clock.advance(shop.clock.time + timedelta(weeks=1))
    await shop.step("renewals")
    await shop.engine.charges.settled()
    gateway.answers = lambda _order: None
    gateway.hold()
    await shop.subscriptions.refund(charge.id)
    assert await shop.step("recoveries") == 0
    gateway.let_go()
    await shop.engine.charges.settled()
    assert await shop.step("recoveries") == 1
    await shop.engine.charges.settled()
    assert (await shop.subscription(sub)).status == "active"
