"""What moves money, as the billing engine sees it. A real gateway implements `Gateway`; what ships is the scenario gateway
(scenario_gateway.py), which moves none.

The reference is the payment attempt's id, and it is what makes a charge single: a gateway that is asked twice with one
reference answers twice and charges once. So an answer that was lost (a killed process, a cut connection) is asked for
again, and that is all there is to crash safety on this side.
"""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from schema.billing.rows import Rail


class GatewayUnavailable(Exception):
    """There is no answer. Whether money moved is not known until the gateway is asked again by the same reference."""


@dataclass(frozen=True, slots=True)
class Order:
    """One movement of money. `amount` is in the currency's smallest unit, more than 0."""

    reference: str
    """`pay_…`"""
    amount: int
    currency: str
    rail: Rail
    token: str | None = field(repr=False)
    """What the gateway gave for the saved payment method; None: the payer is reached by the rail alone. An order over the
    card rail without one is about a card that was removed: it charges nothing (card_not_supported), unless the reference
    has been charged already, which is then the answer."""
    number: int
    """Which charge of its invoice this is, from 1."""
    at: datetime
    """The moment of the order, by the clock that the engine goes by."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """`failure` None: the money moved. Otherwise the issuer's code or the gateway's word, see failures.py."""

    failure: str | None = None

    @property
    def succeeded(self) -> bool:
        return self.failure is None


class Gateway(Protocol):
    """An outcome is final. What leaves it open whether money moved, an issuer's time-out for one, is no outcome but
    GatewayUnavailable: a failure is followed by another charge, under another reference.
    """

    async def charge(self, order: Order) -> Outcome:
        """Raises GatewayUnavailable."""

    async def refund(self, order: Order, of: str) -> Outcome:
        """Gives back a part of the charge that `of` is the reference of, or all. Raises GatewayUnavailable."""
