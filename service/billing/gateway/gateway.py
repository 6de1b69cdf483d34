"""The gateway that moves money, as the billing engine sees it. A real gateway implements `Gateway`; the scenario gateway
(scenario_gateway.py) ships with duro and moves none.

The reference is the payment attempt's id and makes a charge unique: a gateway that is asked twice with one reference
answers twice and charges once. So after a lost answer (a killed process, a cut connection) the engine asks again with the
same reference. That is all that crash safety needs on this side.
"""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from schema.billing.rows import Rail
from schema.secret_repr import HidesSecrets


class GatewayUnavailable(Exception):
    """No answer. Whether money moved is unknown until the gateway is asked again with the same reference."""


@dataclass(frozen=True, slots=True)
class Order(HidesSecrets):
    """One movement of money. `amount` is in minor units, more than 0."""

    reference: str
    """`pay_…`"""
    amount: int
    currency: str
    rail: Rail
    token: str | None = field(repr=False)
    """The gateway's token of the saved payment method; None if the rail alone identifies the payer. A card order without a
    token is for a removed card: the gateway charges nothing (card_not_supported), unless it has charged the reference
    before; then that is its answer."""
    number: int
    """The number of the charge for its invoice, from 1."""
    at: datetime
    """The time of the order, by the engine's clock."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """`failure` is None if the money moved, else the issuer's code or the gateway's word: see failures.py."""

    failure: str | None = None

    @property
    def succeeded(self) -> bool:
        return self.failure is None


class Gateway(Protocol):
    """An outcome is final. When it is unknown whether money moved, such as after an issuer's timeout, raise
    GatewayUnavailable instead: after a failure, another charge is made under another reference.
    """

    async def charge(self, order: Order) -> Outcome:
        """Raises GatewayUnavailable."""

    async def refund(self, order: Order, of: str) -> Outcome:
        """Refunds all or part of the charge with the reference `of`. Raises GatewayUnavailable."""
