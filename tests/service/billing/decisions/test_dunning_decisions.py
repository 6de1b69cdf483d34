"""The decision after a failed charge: rule by rule, and for any history there is exactly one that ends or
continues.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, time, timedelta
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from schema.billing.rows import Rail
from service.billing.decisions.dunning import (
    BACKOFF,
    CARD_PATIENCE,
    MOST_CHARGES,
    Decision,
    DunningAction,
    Memory,
    decide,
    give_up_on_card,
    is_payday,
    next_payday,
    next_rail,
)
from service.billing.decisions.failure_codes import RESPONSE_CODES, FailureCode

EXHAUST, ASK, RETRY, SWITCH, PAYDAY = (
    DunningAction.EXHAUST,
    DunningAction.REQUEST_CARD_UPDATE,
    DunningAction.RETRY,
    DunningAction.SWITCH_RAIL,
    DunningAction.RETRY_PAYDAY,
)
POOR, EXPIRED, UNSUPPORTED, REFUSED, STOLEN, BROKEN, LATE = (
    FailureCode.INSUFFICIENT_FUNDS,
    FailureCode.EXPIRED_CARD,
    FailureCode.CARD_NOT_SUPPORTED,
    FailureCode.DO_NOT_HONOR,
    FailureCode.STOLEN_CARD,
    FailureCode.PROCESSOR_ERROR,
    FailureCode.TIMEOUT,
)
NOW = datetime(2026, 11, 10, 14, 5, 6, 7, tzinfo=UTC)
ON_PAYDAY = datetime(2026, 12, 1, 14, 5, tzinfo=UTC)
THE_28TH = datetime(2026, 11, 28, 9, tzinfo=UTC)
ALL = tuple(Rail)
CARD_ONLY = (Rail.CARD,)
HOUR = timedelta(hours=1)

moments = st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
rail_lists = st.sets(st.sampled_from(Rail), min_size=1).map(sorted)
memories = st.builds(
    Memory,
    charges=st.integers(0, MOST_CHARGES + 2),
    failure=st.sampled_from(FailureCode),
    rail=st.sampled_from(Rail),
    payday_aware=st.booleans(),
    rails=rail_lists,
)


def after(
    failure: FailureCode,
    charges: int = 0,
    rail: Rail = Rail.CARD,
    rails: Sequence[Rail] = ALL,
    *,
    payday_aware: bool = True,
) -> Memory:
    return Memory(charges, failure, rail, payday_aware, rails)


# Rule by rule


@pytest.mark.parametrize(
    ("memory", "action", "rail", "wait"),
    [
        (after(POOR, payday_aware=False), RETRY, Rail.CARD, 0 * HOUR),
        (after(POOR), PAYDAY, Rail.CARD, THE_28TH - NOW),
        (after(POOR, 4), PAYDAY, Rail.CARD, THE_28TH - NOW),
        (after(POOR, 1, Rail.TRANSFER), PAYDAY, Rail.TRANSFER, THE_28TH - NOW),
        (after(POOR, 5), EXHAUST, Rail.CARD, None),
        (after(EXPIRED), ASK, Rail.CARD, CARD_PATIENCE),
        (after(STOLEN, 3), ASK, Rail.CARD, CARD_PATIENCE),
        (after(EXPIRED, 5), EXHAUST, Rail.CARD, None),
        (after(EXPIRED, 2, Rail.USSD), RETRY, Rail.USSD, 72 * HOUR),  # no card was charged
        (after(UNSUPPORTED), SWITCH, Rail.USSD, 0 * HOUR),
        (after(UNSUPPORTED, 2, Rail.TRANSFER), SWITCH, Rail.VIRTUAL_ACCOUNT, 0 * HOUR),
        (after(UNSUPPORTED, rails=(Rail.CARD, Rail.DIRECT_DEBIT)), SWITCH, Rail.DIRECT_DEBIT, 0 * HOUR),
        (after(UNSUPPORTED, rails=CARD_ONLY), EXHAUST, Rail.CARD, None),
        (after(UNSUPPORTED, 4, Rail.DIRECT_DEBIT), EXHAUST, Rail.DIRECT_DEBIT, None),
        (after(REFUSED), RETRY, Rail.CARD, 0 * HOUR),
        (after(REFUSED, 1), SWITCH, Rail.USSD, 0 * HOUR),
        (after(REFUSED, rails=CARD_ONLY), RETRY, Rail.CARD, 0 * HOUR),
        (after(REFUSED, 1, rails=CARD_ONLY), EXHAUST, Rail.CARD, None),
        (after(BROKEN), RETRY, Rail.CARD, 0 * HOUR),
        (after(BROKEN, 1), RETRY, Rail.CARD, 24 * HOUR),
        (after(LATE, 2), RETRY, Rail.CARD, 72 * HOUR),
        (after(LATE, 3), RETRY, Rail.CARD, 120 * HOUR),
        (after(BROKEN, 4, Rail.USSD), RETRY, Rail.USSD, 168 * HOUR),
        (after(BROKEN, 5), EXHAUST, Rail.CARD, None),
        # a rail that the tenant has disabled since
        (after(BROKEN, 1, rails=(Rail.USSD,)), SWITCH, Rail.USSD, 0 * HOUR),
        (after(EXPIRED, rails=(Rail.TRANSFER,)), SWITCH, Rail.TRANSFER, 0 * HOUR),
        (after(POOR, 1, Rail.DIRECT_DEBIT, CARD_ONLY), EXHAUST, Rail.DIRECT_DEBIT, None),
    ],
    ids=lambda value: f"{value.failure} {value.charges}" if isinstance(value, Memory) else None,
)
def test_the_rules(memory: Memory, action: DunningAction, rail: Rail, wait: timedelta | None) -> None:
    decision = decide(memory, NOW)
    assert (decision.action, decision.rail) == (action, rail)
    assert decision.at == (None if wait is None else NOW + wait)


@pytest.mark.parametrize(("charges", "hours"), [*enumerate([0, 24, 72, 120, 168])])
def test_the_waits_match_the_documented_ones(charges: int, hours: int) -> None:
    assert decide(after(BROKEN, charges), NOW).at == NOW + hours * HOUR
    assert decide(after(POOR, charges), ON_PAYDAY).at == ON_PAYDAY + hours * HOUR, "on payday there is money"
    assert len(BACKOFF) == MOST_CHARGES == 5


def test_rails_are_tried_in_their_order() -> None:
    assert list(Rail) == ["card", "ussd", "transfer", "virtual_account", "direct_debit"]
    for rail, following in pairwise(Rail):
        assert next_rail(rail, ALL) is following
    assert next_rail(Rail.DIRECT_DEBIT, ALL) is None


# Paydays


@given(st.datetimes(timezones=st.just(UTC)))
def test_payday_is_the_28th_and_the_1st_to_the_3rd(moment: datetime) -> None:
    assert is_payday(moment) == (moment.day in {28, 1, 2, 3})


@given(moments)
@example(THE_28TH)
@example(datetime(2026, 12, 31, 23, 59, tzinfo=UTC))
@example(datetime(2027, 2, 28, 8, 59, 59, 999_999, tzinfo=UTC))
def test_the_next_payday_is_the_28th_at_nine(now: datetime) -> None:
    ahead = next_payday(now)
    assert (ahead.day, ahead.time()) == (28, time(9))
    assert ahead.tzinfo is UTC
    previous = (ahead.replace(day=1) - timedelta(days=1)).replace(day=28)
    assert previous <= now < ahead


def test_a_failure_before_nine_on_payday_is_retried_that_day() -> None:
    """It is payday, so the usual waits apply."""
    morning = THE_28TH - HOUR
    assert decide(after(POOR, 1), morning).action is RETRY


# All memories, all moments


@given(memories, moments)
def test_there_is_always_one_decision_in_the_future(memory: Memory, now: datetime) -> None:
    decision = decide(memory, now)
    assert (decision.at is None) == (decision.action is EXHAUST)
    if decision.at is not None:
        assert now <= decision.at <= now + timedelta(days=31)
    assert decide(memory, now) == decision


@given(memories, moments)
def test_no_charge_uses_a_rail_that_the_tenant_lacks(memory: Memory, now: datetime) -> None:
    decision = decide(memory, now)
    if decision.action is not EXHAUST:
        assert decision.rail in memory.rails


@given(memories, moments)
def test_the_reason_is_a_sentence_that_names_the_failure(memory: Memory, now: datetime) -> None:
    reason = decide(memory, now).reason
    assert re.fullmatch(r"[a-z0-9]\S*( \S+){3,}\.", reason)
    assert f"{memory.failure} ({RESPONSE_CODES[memory.failure]})" in reason


@pytest.mark.parametrize(
    ("memory", "reason"),
    [
        (
            after(POOR),
            "insufficient_funds (51): recovery charge 1 of 5 waits for payday, 28 November 09:00 UTC.",
        ),
        (after(BROKEN), "processor_error (96): recovery charge 1 of 5 follows at once."),
        (after(LATE, 3), "timeout (68): recovery charge 4 of 5 follows in 120 h."),
        (after(REFUSED, 1), "do_not_honor (05): recovery charge 2 of 5 goes over ussd instead."),
        (after(EXPIRED), "expired_card (54): the same card would fail again, so another one is asked for."),
        (after(POOR, 5), "5 recovery charges have failed, the last with insufficient_funds (51)."),
        (
            after(UNSUPPORTED, rails=CARD_ONLY),
            "card_not_supported (57), and no rail is left after card.",
        ),
    ],
)
def test_reasons(memory: Memory, reason: str) -> None:
    assert decide(memory, NOW).reason == reason


@pytest.mark.parametrize(
    ("charges", "so_many"), [(0, "0 recovery charges"), (1, "1 recovery charge"), (4, "4 recovery charges")]
)
def test_the_reason_names_the_wait_for_a_card(charges: int, so_many: str) -> None:
    given_up = give_up_on_card(charges, Rail.CARD, EXPIRED)
    assert (given_up.action, given_up.rail, given_up.at) == (EXHAUST, Rail.CARD, None)
    assert given_up.reason == f"expired_card: the card was not replaced within 7 days, after {so_many}."


# The whole way


@dataclass
class Way:
    """A recovery in which everything fails."""

    memory: Memory
    now: datetime
    path: list[Decision]

    def walk(self, failures: list[FailureCode], cards: list[bool]) -> None:
        """`cards`: whether another card is given, each time that one is asked for."""
        for failure in failures:
            self.memory = replace(self.memory, failure=failure)
            decision = decide(self.memory, self.now)
            self.path.append(decision)
            if decision.at is None or (decision.action is ASK and not (cards and cards.pop())):
                return
            waited = CARD_PATIENCE / 2 if decision.action is ASK else decision.at - self.now
            self.now += waited
            self.memory = replace(self.memory, charges=self.memory.charges + 1, rail=decision.rail)


@given(
    st.lists(st.sampled_from(FailureCode), min_size=20, max_size=20),
    st.lists(st.booleans()),
    rail_lists,
    st.booleans(),
    moments,
)
def test_every_recovery_that_keeps_failing_ends_within_five_charges(
    failures: list[FailureCode], cards: list[bool], rails: list[Rail], payday_aware: bool, start: datetime
) -> None:
    first = next(rail for rail in Rail if rail in rails)
    way = Way(Memory(0, failures[0], first, payday_aware, rails), start, [])
    way.walk(failures, cards)
    assert way.path[-1].action in {EXHAUST, ASK}, "it never ends"
    assert len(way.path) <= MOST_CHARGES + 1
    assert way.memory.charges <= MOST_CHARGES
    assert way.now - start <= MOST_CHARGES * timedelta(days=31)
    tried = [decision.rail for decision in way.path]
    assert [*map(ALL.index, tried)] == sorted(map(ALL.index, tried)), "a rail that had failed is tried again"
