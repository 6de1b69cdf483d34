"""Decides what to do about an invoice whose charge failed, from the schedule's memory and the clock. Pure.

    failure                          decision
    ───────────────────────────────  ────────────────────────────────────────────────────────────────────────
    (no charge is left)              exhaust
    (merchant dropped the rail)      switch_rail
    expired_card, stolen_card        request_card_update; no charge until the card is replaced
    card_not_supported               switch_rail immediately
    insufficient_funds               retry_payday, if the merchant waits for payday and today is not a payday
    do_not_honor, second time        switch_rail
    everything else                  retry

The 1st, 2nd, … recovery charge is made 0h, 24h, 72h, 120h and 168h after the previous failure. Paydays are the 28th and the
1st to the 3rd; a charge that waits for payday is made on the 28th, 09:00 UTC. Rails are used in the order card, ussd,
transfer, virtual_account, direct_debit, as far as the merchant offers them. Each decision either uses up one of five
charges or waits once for a card, so every schedule ends.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from schema.billing.rows import Rail
from service.billing.decisions.failure_codes import RESPONSE_CODES, FailureCode

BACKOFF: Final = tuple(timedelta(hours=hours) for hours in (0, 24, 72, 120, 168))
MOST_CHARGES: Final = len(BACKOFF)
CARD_PATIENCE: Final = timedelta(days=7)
PAYDAY: Final = 28
_PAYDAYS: Final = frozenset({PAYDAY, 1, 2, 3})
_PAYDAY_HOUR: Final = 9
_NEEDS_A_CARD: Final = frozenset({FailureCode.EXPIRED_CARD, FailureCode.STOLEN_CARD})


class DunningAction(StrEnum):
    EXHAUST = "exhaust"
    REQUEST_CARD_UPDATE = "request_card_update"
    RETRY = "retry"
    SWITCH_RAIL = "switch_rail"
    RETRY_PAYDAY = "retry_payday"


@dataclass(frozen=True, slots=True)
class Memory:
    """The schedule's state, including the latest failure."""

    charges: int
    """Recovery charges made so far, without the renewal that failed first."""
    failure: FailureCode
    rail: Rail
    """Rail of the failed charge."""
    payday_aware: bool
    rails: Sequence[Rail]
    """Rails that the merchant offers."""


@dataclass(frozen=True, slots=True)
class Decision:
    action: DunningAction
    rail: Rail
    """Rail of the next charge."""
    at: datetime | None
    """Time of the next charge, or the deadline to replace the card; None when recovery is over."""
    reason: str
    """The reason as a sentence for people."""


def decide(memory: Memory, now: datetime) -> Decision:
    if memory.charges >= MOST_CHARGES:
        return _exhaust(
            memory, f"{memory.charges} recovery charges have failed, the last with {_why(memory)}"
        )
    if memory.rail not in memory.rails:
        return _switch(memory, now)
    if memory.failure in _NEEDS_A_CARD and memory.rail is Rail.CARD:
        return Decision(
            DunningAction.REQUEST_CARD_UPDATE,
            memory.rail,
            now + CARD_PATIENCE,
            f"{_why(memory)}: the same card would fail again, so another one is asked for.",
        )
    if _refused_for_good(memory):
        return _switch(memory, now)
    if memory.failure is FailureCode.INSUFFICIENT_FUNDS and memory.payday_aware and not is_payday(now):
        at = next_payday(now)
        return Decision(
            DunningAction.RETRY_PAYDAY,
            memory.rail,
            at,
            f"{_why(memory)}: {_which(memory)} waits for payday, {at:%d %B %H:%M} UTC.",
        )
    return _retry(memory, now)


def give_up_on_card(charges: int, rail: Rail, failure: str) -> Decision:
    """Returns the decision when the card was not replaced in time."""
    days, so_many = CARD_PATIENCE.days, f"{charges} recovery charge{'' if charges == 1 else 's'}"
    return Decision(
        DunningAction.EXHAUST,
        rail,
        None,
        f"{failure}: the card was not replaced within {days} days, after {so_many}.",
    )


def is_payday(moment: datetime) -> bool:
    return moment.day in _PAYDAYS


def next_payday(now: datetime) -> datetime:
    """Returns the next 28th at 09:00 UTC."""
    this_month = now.replace(day=PAYDAY, hour=_PAYDAY_HOUR, minute=0, second=0, microsecond=0)
    if this_month > now:
        return this_month
    return (this_month + timedelta(days=7)).replace(day=PAYDAY)


def next_rail(current: Rail, rails: Sequence[Rail]) -> Rail | None:
    """Returns the next rail in order that the merchant offers."""
    order = list(Rail)
    return next((rail for rail in order[order.index(current) + 1 :] if rail in rails), None)


def _refused_for_good(memory: Memory) -> bool:
    """Returns whether a further charge over the same rail cannot succeed."""
    again = memory.charges > 0
    return memory.failure is FailureCode.CARD_NOT_SUPPORTED or (
        memory.failure is FailureCode.DO_NOT_HONOR and again
    )


def _switch(memory: Memory, now: datetime) -> Decision:
    rail = next_rail(memory.rail, memory.rails)
    if rail is None:
        return _exhaust(memory, f"{_why(memory)}, and no rail is left after {memory.rail}")
    return Decision(
        DunningAction.SWITCH_RAIL, rail, now, f"{_why(memory)}: {_which(memory)} goes over {rail} instead."
    )


def _retry(memory: Memory, now: datetime) -> Decision:
    wait = BACKOFF[memory.charges]
    when = f"in {wait // timedelta(hours=1)} h" if wait else "at once"
    return Decision(
        DunningAction.RETRY, memory.rail, now + wait, f"{_why(memory)}: {_which(memory)} follows {when}."
    )


def _exhaust(memory: Memory, because: str) -> Decision:
    return Decision(DunningAction.EXHAUST, memory.rail, None, f"{because}.")


def _why(memory: Memory) -> str:
    return f"{memory.failure} ({RESPONSE_CODES[memory.failure]})"


def _which(memory: Memory) -> str:
    return f"recovery charge {memory.charges + 1} of {MOST_CHARGES}"
