"""The test-mode gateway's answers depend only on its input and are realistic."""

from collections import Counter
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schema.billing.rows import Interval, Rail
from service.billing.decisions.dunning import DunningAction, Memory, decide
from service.billing.decisions.failure_codes import FailureCode
from service.billing.decisions.periods import boundary
from service.billing.gateway.gateway import Order, Outcome
from service.billing.gateway.scenario_gateway import OK, OK_SECOND, TEST_CARDS, ScenarioGateway, failure_of

NOW = datetime(2026, 11, 10, 14, 5, tzinfo=UTC)
ORDER = Order("pay_01HKBZ4PQ9Z3K7T8V9X2Y1B5C6", 500_000, "NGN", Rail.CARD, None, 1, NOW)
FAILING = {number: answer for number, answer in TEST_CARDS.items() if answer not in {OK, OK_SECOND}}

moments = st.datetimes(datetime(2020, 1, 1), datetime(2050, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
tokens = (
    st.none()
    | st.sampled_from(list(TEST_CARDS))
    | st.builds("sim:{}:{}".format, st.integers(0), st.sampled_from(["", "2027-03", "2031-12"]))
    | st.text(max_size=20)
)
orders = st.builds(
    Order,
    reference=st.text(max_size=20),
    amount=st.integers(1, 10**9),
    currency=st.just("NGN"),
    rail=st.sampled_from(Rail),
    token=tokens,
    number=st.integers(1, 6),
    at=moments,
)


# Test cards


def test_there_is_a_card_for_every_failure() -> None:
    assert set(FAILING.values()) == set(FailureCode)


@given(
    st.sampled_from(list(TEST_CARDS)),
    st.integers(1, 10**15),
    st.integers(1, 6),
    moments,
    st.sampled_from(["NGN", "USD"]),
)
def test_a_test_card_s_number_alone_decides_the_answer(
    number: str, amount: int, which: int, at: datetime, currency: str
) -> None:
    answer = failure_of(Order("pay_1", amount, currency, Rail.CARD, number, which, at))
    match TEST_CARDS[number]:
        case str(said) if said == OK:
            assert answer is None
        case str(said) if said == OK_SECOND:
            assert answer is (FailureCode.PROCESSOR_ERROR if which == 1 else None)
        case said:
            assert answer is FailureCode(said)


@pytest.mark.parametrize("rail", list(Rail)[1:])
def test_a_test_cards_owner_can_pay_by_other_rails(rail: Rail) -> None:
    """Only the card fails, so tests can show that another rail helps."""
    assert not any(failure_of(replace(ORDER, token=number, rail=rail)) for number in TEST_CARDS)


def test_any_other_number_works() -> None:
    assert failure_of(replace(ORDER, token="5555555555554444")) is None


# The interface


@given(orders)
async def test_the_same_order_gets_the_same_answer(order: Order) -> None:
    """The answer is the same in every process, because the gateway has no state."""
    first = await ScenarioGateway().charge(order)
    assert await ScenarioGateway().charge(replace(order)) == first
    assert first == Outcome(failure_of(order))
    assert first.succeeded == (first.failure is None)


async def test_a_refund_works() -> None:
    assert (await ScenarioGateway().refund(ORDER, "pay_0")).succeeded


def test_an_order_does_not_show_its_token() -> None:
    assert "4242" not in repr(replace(ORDER, token="4242424242424242"))


# Payers made up from a seed


def test_a_payer_s_card_works_until_the_end_of_its_expiry_month() -> None:
    for seed in range(200):
        order = replace(ORDER, token=f"sim:{seed}:2027-03")
        last_day = replace(order, at=datetime(2027, 3, 31, 23, 59, tzinfo=UTC))
        assert failure_of(last_day) is not FailureCode.EXPIRED_CARD
        assert failure_of(replace(order, at=datetime(2027, 4, 1, tzinfo=UTC))) is FailureCode.EXPIRED_CARD
        assert failure_of(replace(order, rail=Rail.USSD)) is not FailureCode.EXPIRED_CARD


def test_a_payday_card_has_funds_at_payday() -> None:
    def poor(at: datetime) -> int:
        orders = (replace(ORDER, token=f"sim:{seed}:", at=at) for seed in range(2000))
        return sum(failure_of(order) is FailureCode.INSUFFICIENT_FUNDS for order in orders)

    assert poor(datetime(2026, 11, 28, 9, tzinfo=UTC)) < 0.75 * poor(datetime(2026, 11, 20, 9, tzinfo=UTC))


def test_an_empty_account_stays_empty_for_months() -> None:
    """Even a payday does not help."""
    week = [datetime(2026, 3, day, 9, tzinfo=UTC) for day in range(1, 8)]

    def empty(seed: int, moments: list[datetime]) -> bool:
        answers = [failure_of(replace(ORDER, token=f"sim:{seed}:", at=at)) for at in moments]
        return answers.count(FailureCode.INSUFFICIENT_FUNDS) > len(moments) // 2

    in_march = [seed for seed in range(1000) if empty(seed, week)]
    assert 30 <= len(in_march) <= 80
    assert sum(empty(seed, [at + timedelta(days=31) for at in week]) for seed in in_march) > 15
    assert sum(empty(seed, [at + timedelta(days=365) for at in week]) for seed in in_march) < 15


@dataclass
class Payer:
    """Charged every month until a recovery fails. Asked for another card, every other one gives it."""

    number: int
    cards: int = 0
    asked: int = 0

    @property
    def start(self) -> datetime:
        return datetime(2026, 1, 1 + self.number % 28, self.number % 24, tzinfo=UTC)

    @property
    def token(self) -> str:
        expires = boundary(self.start, Interval.MONTH, self.number % 60 if not self.cards else 120)
        return f"sim:{self.number}-{self.cards}:{expires:%Y-%m}"

    def charge(self, at: datetime, month: int, number: int = 1, rail: Rail = Rail.CARD) -> FailureCode | None:
        reference = f"pay_{self.number}_{month}_{number}"
        return failure_of(Order(reference, 500_000, "NGN", rail, self.token, number, at))

    def gives_card(self) -> bool:
        self.asked += 1
        given = (self.number // 60 + self.asked) % 2 > 0
        self.cards += given
        return given

    def recovers(self, failure: FailureCode, at: datetime, month: int) -> bool:
        memory = Memory(0, failure, Rail.CARD, payday_aware=True, rails=tuple(Rail))
        while True:
            decision = decide(memory, at)
            if decision.at is None:
                return False
            if decision.action is not DunningAction.REQUEST_CARD_UPDATE:
                at = decision.at
            elif self.gives_card():
                at += timedelta(days=2)
            else:
                return False
            charges = memory.charges + 1
            failed = self.charge(at, month, charges + 1, decision.rail)
            if failed is None:
                return True
            memory = replace(memory, charges=charges, failure=failed, rail=decision.rail)


def test_a_year_of_charges_has_realistic_failures() -> None:
    failures: Counter[FailureCode] = Counter()
    charges = recovered = 0
    for number in range(1200):
        payer = Payer(number)
        for month in range(12):
            at, charges = boundary(payer.start, Interval.MONTH, month), charges + 1
            if failure := payer.charge(at, month):
                failures[failure] += 1
                if not payer.recovers(failure, at, month):
                    break
                recovered += 1
    assert 0.06 <= failures.total() / charges <= 0.12
    assert failures.most_common(1)[0][0] is FailureCode.INSUFFICIENT_FUNDS
    assert set(failures) == set(FailureCode), "every failure occurs"
    assert 0.5 <= recovered / failures.total() <= 0.9
