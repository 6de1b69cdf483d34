"""A COMMIT or its answer is lost: the work is done once, and the caller gets the right result."""

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
from tests.support.billing.billing_world import TenantBilling, at_work
from tests.support.servers.tcp_proxy import Cut, TcpProxy, proxying

either_way = pytest.mark.parametrize("where", [Cut.BEFORE, Cut.AFTER])


@pytest.fixture
async def proxy(db_url: str) -> AsyncIterator[TcpProxy]:
    async with proxying(db_url) as proxy:
        yield proxy


@pytest.fixture
async def far(
    billing: TenantBilling, proxy: TcpProxy, db_url: str, key: bytes
) -> AsyncIterator[TenantBilling]:
    """The tenant's billing as a worker behind the proxy sees it."""
    async with Database.open(proxy.url(db_url), key, max_per_role=1) as database:
        made = engine(
            database,
            billing.engine.mode,
            billing.gateway,
            Ledger(database.data(billing.engine.mode), billing.clock),
        )
        async with at_work(made.charges):
            yield replace(billing, engine=made)


@either_way
async def test_subscribing_happens_once(
    billing: TenantBilling, far: TenantBilling, proxy: TcpProxy, where: Cut
) -> None:
    plan, card = await billing.plan(), await billing.card()
    proxy.cut_at(b"COMMIT", where)
    made = await far.checkout.subscribe(billing.contact(), plan.id, card)
    await far.engine.charges.settled()
    assert proxy.was_cut.is_set()
    assert (await billing.subscription(made.id)).status == "active"
    assert list(billing.gateway.charged.values()) == [1]
    assert await billing.types() == [
        "subscription_created",
        "invoice_created",
        "subscription_payment_success",
        "subscription_activated",
    ]


@either_way
async def test_pausing_succeeds_after_a_lost_commit(
    billing: TenantBilling, far: TenantBilling, proxy: TcpProxy, where: Cut
) -> None:
    sub = await billing.subscribe()
    proxy.cut_at(b"COMMIT", where)
    assert (await far.subscriptions.pause(sub)).status == "paused"
    assert (await billing.types()).count("subscription_paused") == 1


@either_way
async def test_a_partial_refund_happens_once(
    billing: TenantBilling, far: TenantBilling, proxy: TcpProxy, where: Cut
) -> None:
    await billing.subscribe()
    (charge,) = await billing.payments()
    proxy.cut_at(b"COMMIT", where)
    await far.subscriptions.refund(charge.id, 100)
    await far.engine.charges.settled()
    assert (await billing.payments())[0].refunded == 100
    assert sum(billing.gateway.refunded.values()) == 100


@either_way
async def test_a_scanner_s_lost_commit_is_charged_immediately(
    billing: TenantBilling, far: TenantBilling, proxy: TcpProxy, where: Cut
) -> None:
    sub = await billing.subscribe()
    billing.clock.advance((await billing.subscription(sub)).current_period_end)
    proxy.cut_at(b"COMMIT", where)
    assert await far.step("renewals") == 1
    await far.engine.charges.settled()
    assert (await billing.subscription(sub)).cycles == 2


@either_way
async def test_an_answer_is_written_once(
    billing: TenantBilling, far: TenantBilling, proxy: TcpProxy, where: Cut
) -> None:
    settled: list[int] = []
    far.engine.charges.on_settled = settled.append
    sub = await billing.subscribe()
    billing.clock.advance((await billing.subscription(sub)).current_period_end)

    def cut(_order: object) -> None:
        proxy.cut_at(b"COMMIT", where)

    billing.gateway.answers = cut
    assert await far.step("renewals") == 1
    await far.engine.charges.settled()
    assert settled == [1]
    assert (await billing.subscription(sub)).cycles == 2


async def test_an_unknown_outcome_is_reported_and_not_repeated(
    billing: TenantBilling, far: TenantBilling, proxy: TcpProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "ASK_FOR_S", 0.2)
    plan, card = await billing.plan(), await billing.card()
    proxy.reject_new()
    proxy.cut_at(b"COMMIT", Cut.AFTER)
    with pytest.raises(CommitInDoubt):
        await far.checkout.subscribe(billing.contact(), plan.id, card)
    proxy.restore()
    assert (await billing.types()).count("subscription_created") == 1


async def test_a_change_and_its_event_are_atomic(billing: TenantBilling) -> None:
    sub = await billing.subscribe()
    before = await billing.types()

    class Died(Exception):
        pass

    async def pause_and_die(unit: Unit) -> None:
        (case,) = await billing_cases.cases(unit.tx, await billing_cases.lock(unit.tx, billing.tenant, sub))
        await unit.write(act(case, Action.PAUSE, unit.now))
        assert (await unit.tx.fetchval("SELECT status FROM subscriptions")) == "paused"
        raise Died

    with pytest.raises(Died):
        await billing.engine.ledger.transact(pause_and_die)
    assert (await billing.subscription(sub)).status == "active"
    assert await billing.types() == before
