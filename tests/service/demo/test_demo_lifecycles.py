"""The demo's subscriptions are ones that the product could have: known types, whole amounts, ids of the right kind."""

from itertools import count
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schema import events
from schema.database import Database
from schema.modes import Mode
from service.demo.lifecycles import Fact, Step, lifecycle


def story(seed: int) -> list[Step]:
    numbers = count(1)
    return list(lifecycle(Random(seed), lambda prefix: f"{prefix}_{next(numbers)}"))


def facts(seed: int) -> list[Fact]:
    return [fact for step in story(seed) for fact in step]


@given(st.integers(0, 10**6))
def test_a_life_begins_with_its_creation_and_ends_with_its_end(seed: int) -> None:
    types = [fact.type for fact in facts(seed)]
    assert types[0] == "subscription_created"
    assert types[-1] in {"subscription_cancelled", "subscription_expired"}
    assert len({fact.data["subscriptionId"] for fact in facts(seed)}) == 1


@given(st.integers(0, 10**6))
def test_a_payment_is_for_the_latest_invoice_and_its_whole_amount_in_kobo(seed: int) -> None:
    invoice: dict[str, object] = {}
    for fact in facts(seed):
        if fact.type == "invoice_created":
            invoice = fact.data
        if "_payment_" in fact.type:
            money = ("invoiceId", "amount", "currency")
            assert [fact.data[name] for name in money] == [invoice[name] for name in money]
            assert type(fact.data["amount"]) is int
            assert fact.data["currency"] == "NGN"


@given(st.integers(0, 10**6))
def test_what_failed_is_recovered_or_unpaid(seed: int) -> None:
    types = [fact.type for fact in facts(seed)]
    for place, type_ in enumerate(types):
        if type_ == "subscription_payment_failed":
            assert types[place + 1] == "subscription_past_due"
            assert types[place + 2] in {"subscription_payment_recovered", "subscription_unpaid"}


@pytest.mark.parametrize("mode", Mode)
async def test_every_type_is_in_the_catalog(database: Database, mode: Mode) -> None:
    catalog = await events.type_names(database.data(mode))
    used = {fact.type for seed in range(200) for fact in facts(seed)}
    assert used <= set(catalog)
    assert len(used) > 8
