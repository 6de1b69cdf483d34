"""A gateway that answers by scenario and moves no money. The same order always gets the same answer.

A saved payment method's token is either a test card's number, with an answer of its own (TEST_CARDS), or a payer made up
from a seed: `sim:<seed>:<month of expiry>`, as in sim:4711:2027-03. Such a payer's card expires, funds are low before payday,
some accounts are empty for months, issuers refuse at times and processors fail, at believable rates and at times that follow
from the seed. So nothing needs to be stored.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from typing import Final

from schema.billing.rows import Rail
from service.billing.decisions.dunning import is_payday
from service.billing.decisions.failure_codes import FailureCode
from service.billing.gateway.gateway import Order, Outcome

OK: Final = "ok"
OK_SECOND: Final = "ok on the second attempt"

TEST_CARDS: Final[Mapping[str, str]] = {
    "4084084084084081": OK,
    "4242424242424242": OK,
    "4000000000009995": FailureCode.INSUFFICIENT_FUNDS,
    "4000000000000069": FailureCode.EXPIRED_CARD,
    "4000000000000127": FailureCode.CARD_NOT_SUPPORTED,
    "4000000000000002": FailureCode.DO_NOT_HONOR,
    "4000000000009979": FailureCode.STOLEN_CARD,
    "4000000000000119": FailureCode.PROCESSOR_ERROR,
    "4000000000000259": FailureCode.TIMEOUT,
    "4000000000009987": OK_SECOND,
}
"""Card number to the result of a charge, whatever the amount. A charge to any other number succeeds, and so does one over any
other rail.
"""

_PAYER: Final = "sim:"

# Shares of all charges or payers. Together, 9 to 11 in 100 renewals fail at first, more than half of them for
# insufficient funds. Recovery collects most of these, but not from accounts that stay empty.
_LIVES_FROM_PAY_TO_PAY: Final = 0.22
_LOW_BEFORE_PAYDAY: Final = 0.22
_LOW_AT_PAYDAY: Final = 0.03
_LOW_OTHERWISE: Final = 0.010
_EMPTY: Final = 0.05
_EMPTY_FOR: Final = timedelta(days=182)
_MOOD: Final = 0.012
_SWITCH_DOWN: Final = 0.010
_UNSUPPORTED: Final = 0.004
_STOLEN: Final = 0.002
_PAYS_BY_HAND: Final = 0.55
_SOME_DAY: Final = datetime(2000, 1, 1, tzinfo=UTC)


class ScenarioGateway:
    async def charge(self, order: Order) -> Outcome:
        return Outcome(failure_of(order))

    async def refund(self, order: Order, of: str) -> Outcome:  # noqa: ARG002  part of the protocol
        return Outcome()


def failure_of(order: Order) -> FailureCode | None:
    if order.rail is Rail.CARD and order.token is None:
        return FailureCode.CARD_NOT_SUPPORTED  # the card was removed
    token = order.token or f"{_PAYER}{order.reference}"
    if not token.startswith(_PAYER):
        return _of_card(token, order)
    seed, _, expires = token.removeprefix(_PAYER).partition(":")
    if order.rail is Rail.CARD:
        return _of_payers_card(seed, expires, order.at)
    return _by_hand(seed, order)


def _of_card(number: str, order: Order) -> FailureCode | None:
    scenario = TEST_CARDS.get(number, OK) if order.rail is Rail.CARD else OK
    if scenario == OK or (scenario == OK_SECOND and order.number > 1):
        return None
    if scenario == OK_SECOND:
        return FailureCode.PROCESSOR_ERROR
    return FailureCode(scenario)


def _of_payers_card(seed: str, expires: str, at: datetime) -> FailureCode | None:
    month, day, hour = f"{at:%Y-%m}", f"{at:%Y-%m-%d}", f"{at:%Y-%m-%dT%H}"
    switch = _chance(seed, "switch", hour)
    troubles = (
        (FailureCode.EXPIRED_CARD, bool(expires) and month > expires),
        (FailureCode.CARD_NOT_SUPPORTED, _chance(seed, "unsupported") < _UNSUPPORTED),
        (FailureCode.STOLEN_CARD, _chance(seed, "stolen", month) < _STOLEN),
        (FailureCode.DO_NOT_HONOR, _chance(seed, "mood", day) < _MOOD),
        (FailureCode.TIMEOUT, switch < _SWITCH_DOWN / 4),
        (FailureCode.PROCESSOR_ERROR, switch < _SWITCH_DOWN),
        (FailureCode.INSUFFICIENT_FUNDS, _chance(seed, "funds", day) < _how_often_low(seed, at)),
    )
    return next((failure for failure, there_is in troubles if there_is), None)


def _how_often_low(seed: str, at: datetime) -> float:
    months = int((at - _SOME_DAY) / _EMPTY_FOR + _chance(seed, "moves on"))
    if _chance(seed, "empty", str(months)) < _EMPTY:
        return 1
    if _chance(seed, "lives from pay to pay") >= _LIVES_FROM_PAY_TO_PAY:
        return _LOW_OTHERWISE
    return _LOW_AT_PAYDAY if is_payday(at) else _LOW_BEFORE_PAYDAY


def _by_hand(seed: str, order: Order) -> FailureCode | None:
    """On the other rails the payer has to act, or the account may be empty."""
    if _chance(seed, order.rail, f"{order.at:%Y-%m-%d}", str(order.number)) < _PAYS_BY_HAND:
        return None
    return FailureCode.TIMEOUT if order.rail is not Rail.DIRECT_DEBIT else FailureCode.INSUFFICIENT_FUNDS


def _chance(*words: str) -> float:
    """Returns a number from 0 to 1, the same for the same words."""
    digest = blake2b("/".join(words).encode(), digest_size=8).digest()
    return int.from_bytes(digest) / 2**64
