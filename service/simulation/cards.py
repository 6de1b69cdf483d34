"""Payment methods of simulated customers: seeded payers in live mode, test cards in test mode."""

from datetime import date, datetime, timedelta
from random import Random
from typing import Final

from schema.billing.rows import Rail
from schema.core.wallet import NewMethod
from schema.modes import Mode
from service.billing.decisions.failure_codes import FailureCode
from service.billing.gateway.scenario_gateway import OK, TEST_CARDS

_BRANDS: Final = ("verve", "mastercard", "visa")
_GOOD: Final = tuple(number for number, scenario in TEST_CARDS.items() if scenario == OK)
_OTHERS: Final = [number for number, scenario in TEST_CARDS.items() if scenario != OK]
_HOW_OFTEN: Final = [4 if TEST_CARDS[number] == FailureCode.EXPIRED_CARD else 1 for number in _OTHERS]
_LASTS_DAYS: Final = 4 * 365
_GOOD_IN_TEST: Final = 0.5


def new_card(rng: Random, mode: Mode, now: datetime) -> NewMethod:
    expires = (now + timedelta(days=rng.uniform(20, _LASTS_DAYS))).date()
    if mode is Mode.LIVE:
        return _method(
            rng, f"sim:{rng.getrandbits(48):012x}:{expires:%Y-%m}", f"{rng.randrange(10_000):04}", expires
        )
    number = rng.choice(_GOOD) if rng.random() < _GOOD_IN_TEST else rng.choices(_OTHERS, _HOW_OFTEN)[0]
    return _method(rng, number, number[-4:], expires)


def _method(rng: Random, token: str, last4: str, expires: date) -> NewMethod:
    return NewMethod(Rail.CARD, token, rng.choice(_BRANDS), last4, expires)
