"""The answer to a COMMIT is lost, or the COMMIT itself: what was done is done once, and whoever asked for it is told so."""

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from schema.billing import billing_cases
from schema.connections.database import Database
from service.billing import ledger
from service.billing.decisions.lifecycle import Action
from service.billing.decisions.renewal import act
from service.billing.engine import engine
from service.billing.ledger import CommitInDoubt, Ledger, Unit
from tests.support.billing.billing_world import Business, at_work
from tests.support.servers.tcp_proxy import Cut, TcpProxy, proxying

either_way = pytest.mark.parametrize("where", [Cut.BEFORE, Cut.AFTER])


@pytest.fixture
async def proxy(db_url: str) -> AsyncIterator[TcpProxy]:
    async with proxying(db_url) as proxy:
        yield proxy


@pytest.fixture
async def far(shop: Business, proxy: TcpProxy, db_url: str, key: bytes) -> AsyncIterator[Business]:
    """The shop as a worker beyond the proxy sees it."""
    async with Database.open(proxy.url(db_url), key, max_per_role=1) as database:
        made = engine(
            database,
            shop.engine.mode,
            shop.gateway,
            Ledger(database.data(shop.engine.mode), shop.clock),
        )
        async with at_work(made.charges):
            yield replace(shop, engine=made)


@either_way
async def test_who_subscribes_does_so_once(
    shop: Business, far: Business, proxy: TcpProxy, where: Cut
) -> None:
    plan, card = await shop.plan(), await shop.card()
    proxy.cut_at(b"COMMIT", where)
    made = await far.checkout.subscribe(shop.contact(), plan.id, card)
    await far.engine.charges.settled()
    assert proxy.was_cut.is_set()
    assert (await shop.subscription(made.id)).status == "active"
    assert list(shop.gateway.charged.values()) == [1]
    assert await shop.types() == [
        "subscription_created",
        "invoice_created",
        "subscription_payment_success",
        "subscription_activated",
    ]


@either_way
async def test_who_pauses_is_not_told_that_it_is_paused_already(
    shop: Business, far: Business, proxy: TcpProxy, where: Cut
) -> None:
    sub = await shop.subscribe()
    proxy.cut_at(b"COMMIT", where)
    assert (await far.subscriptions.pause(sub)).status == "paused"
    assert (await shop.types()).count("subscription_paused") == 1


@either_way
async def test_who_refunds_a_part_gives_it_back_once(
    shop: Business, far: Business, proxy: TcpProxy, where: Cut
) -> None:
    await shop.subscribe()
    (charge,) = await shop.payments()
    proxy.cut_at(b"COMMIT", where)
    await far.subscriptions.refund(charge.id, 100)
    await far.engine.charges.settled()
    assert (await shop.payments())[0].refunded == 100
    assert sum(shop.gateway.refunded.values()) == 100


@either_way
async def test_what_a_scanner_began_is_charged_at_once_and_not_when_its_lease_has_run_out(
    shop: Business, far: Business, proxy: TcpProxy, where: Cut
) -> None:
    sub = await shop.subscribe()
    shop.clock.advance((await shop.subscription(sub)).current_period_end)
    proxy.cut_at(b"COMMIT", where)
    assert await far.step("renewals") == 1
    await far.engine.charges.settled()
    assert (await shop.subscription(sub)).cycles == 2


@either_way
async def test_an_answer_is_written_once(shop: Business, far: Business, proxy: TcpProxy, where: Cut) -> None:
    settled: list[int] = []
    far.engine.charges.on_settled = settled.append
    sub = await shop.subscribe()
    shop.clock.advance((await shop.subscription(sub)).current_period_end)

    def cut(_order: object) -> None:
        proxy.cut_at(b"COMMIT", where)

    shop.gateway.answers = cut
    assert await far.step("renewals") == 1
    await far.engine.charges.settled()
    assert settled == [1]
    assert (await shop.subscription(sub)).cycles == 2


async def test_what_nobody_can_tell_is_in_doubt_and_not_done_again(
    shop: Business, far: Business, proxy: TcpProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "ASK_FOR_S", 0.2)
    plan, card = await shop.plan(), await shop.card()
    proxy.turn_away()
    proxy.cut_at(b"COMMIT", Cut.AFTER)
    with pytest.raises(CommitInDoubt):
        await far.checkout.subscribe(shop.contact(), plan.id, card)
    proxy.come_back()
    assert (await shop.types()).count("subscription_created") == 1


async def test_a_change_and_its_event_are_written_together_or_not_at_all(shop: Business) -> None:
    sub = await shop.subscribe()
    before = await shop.types()

    class Died(Exception):
        pass

    async def pause_and_die(unit: Unit) -> None:
        (case,) = await billing_cases.cases(unit.tx, await billing_cases.lock(unit.tx, shop.tenant, sub))
        await unit.write(act(case, Action.PAUSE, unit.now))
        assert (await unit.tx.fetchval("SELECT status FROM subscriptions")) == "paused"
        raise Died

    with pytest.raises(Died):
        await shop.engine.ledger.transact(pause_and_die)
    assert (await shop.subscription(sub)).status == "active"
    assert await shop.types() == before
