"""The gateway's slots: scanners together never exceed them, and a scanner without a free slot does not query."""

import asyncio
from datetime import timedelta

import pytest

from service.billing.charges import ChargeProcessor
from service.billing.gateway.gateway import Outcome
from service.billing.scanning import Scanner, scanners
from tests.support.billing.billing_world import TenantBilling, at_work
from tests.support.billing.gateways import HeldGateway

PLACES = 5


def small(billing: TenantBilling) -> tuple[ChargeProcessor, dict[str, Scanner]]:
    """A worker with few places."""
    ledger = billing.engine.ledger
    charges = ChargeProcessor(ledger, billing.gateway, billing.engine.charges._tokens, places=PLACES)
    return charges, {scanner.name: scanner for scanner in scanners(ledger, charges)}


async def much_due(billing: TenantBilling) -> None:
    """More than there are places for, of each of three kinds."""
    plan, trial = await billing.plan(interval="week"), await billing.plan(trial_days=7)
    failing = [await billing.subscribe(plan) for _ in range(PLACES + 1)]
    billing.gateway.answers = lambda order: Outcome("processor_error") if order.number == 1 else None
    billing.clock.advance(billing.clock.time + timedelta(weeks=1))
    await billing.step("renewals")
    await billing.engine.charges.settled()
    assert {(await billing.subscription(sub)).status for sub in failing} == {"past_due"}
    billing.gateway.answers = lambda _order: None
    for _ in range(PLACES + 1):
        await billing.subscribe(plan)
        await billing.subscribe(trial)
    billing.clock.advance(billing.clock.time + timedelta(weeks=1))


async def test_concurrent_scanners_respect_the_gateway_s_slots(
    held: tuple[TenantBilling, HeldGateway],
) -> None:
    billing, gateway = held
    await much_due(billing)
    charges, named = small(billing)
    gateway.hold()
    before = gateway.charged.total()
    found = await asyncio.gather(*(scanner.step() for scanner in named.values()))
    assert sum(found) == PLACES
    assert charges.room == 0
    await gateway.wait_for_charges(before + PLACES)
    async with at_work(charges):
        gateway.release()
        await charges.settled()
    assert charges.room == PLACES


async def test_many_charges_complete_with_few_slots(held: tuple[TenantBilling, HeldGateway]) -> None:
    billing, gateway = held
    await much_due(billing)
    charges, named = small(billing)
    before, stop = gateway.charged.total(), asyncio.Event()
    async with at_work(charges):
        running = [asyncio.create_task(scanner.run(stop)) for scanner in named.values()]
        await gateway.wait_for_charges(before + 3 * (PLACES + 1))
        await charges.settled()
        stop.set()
        await asyncio.gather(*running)
    assert (
        await billing.step("recoveries") + await billing.step("renewals") + await billing.step("trials") == 0
    )


async def test_a_scanner_without_a_slot_waits_without_queries(
    held: tuple[TenantBilling, HeldGateway], monkeypatch: pytest.MonkeyPatch
) -> None:
    billing, gateway = held
    await much_due(billing)
    charges, named = small(billing)
    gateway.hold()
    assert await named["trials"].step() == PLACES
    looks = 0
    once = billing.engine.ledger.once

    async def counted(work: object) -> object:
        nonlocal looks
        looks += 1
        return await once(work)

    monkeypatch.setattr(billing.engine.ledger, "once", counted)
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
        gateway.release()
        await charges.settled()


async def test_a_scanner_rests_while_a_refund_is_in_flight(
    held: tuple[TenantBilling, HeldGateway],
) -> None:
    """Nothing is charged while a refund is in flight. A scanner that still found it due would never rest."""
    billing, gateway = held
    sub = await billing.subscribe(await billing.plan(interval="week"))
    (charge,) = await billing.payments()
    gateway.answers = lambda order: Outcome("processor_error") if order.number == 1 else None
    billing.clock.advance(billing.clock.time + timedelta(weeks=1))
    await billing.step("renewals")
    await billing.engine.charges.settled()
    gateway.answers = lambda _order: None
    gateway.hold()
    await billing.subscriptions.refund(charge.id)
    assert await billing.step("recoveries") == 0
    gateway.release()
    await billing.engine.charges.settled()
    assert await billing.step("recoveries") == 1
    await billing.engine.charges.settled()
    assert (await billing.subscription(sub)).status == "active"
