"""Believable subscriptions: what a billing product would record, transaction by transaction.

created (trial) ─► activated ─► invoiced ─► paid ─► … ─► cancelled │ expired
                                    │        ▲
                                    └─► failed, past due ─► recovered
                                             └─► unpaid, cancelled
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Any, Final, TypeAlias

NewId: TypeAlias = Callable[[str], str]
"""`new_id("sub")` is `sub_01HK…`, another one each time."""

CURRENCY: Final = "NGN"
_PLANS: Final = (
    ("Gym, monthly", "monthly", 1_500_000),
    ("Ìwé Ọ̀sẹ̀: a book a week", "weekly", 350_000),
    ("Family pass ₦45k", "monthly", 4_500_000),
    ("Student", "monthly", 500_000),
)
_CUSTOMERS: Final = ("Adébáyọ̀ Ọlátúnjí", "Chinwe Okafor", "Halima Bello", 'Ngozi "Zee" Eze', "Tunde Bakare")
_FAILURES: Final = ("insufficient_funds", "card_expired", "do_not_honor", "issuer_unavailable")


@dataclass(frozen=True, slots=True)
class Fact:
    type: str
    data: dict[str, Any]


Step: TypeAlias = tuple[Fact, ...]
"""What one transaction records."""


def lifecycle(rng: Random, new_id: NewId) -> Iterator[Step]:
    subscription = _Subscription(rng, new_id)
    yield (subscription.fact("created", status="trialing", trialDays=rng.choice((7, 14))),)
    if rng.random() < 0.1:
        yield (subscription.fact("cancelled", reason="trial_not_converted"),)
        return
    yield (*subscription.paid_invoice(), subscription.fact("activated", status="active"))
    for _cycle in range(rng.randint(1, 4)):
        yield (subscription.invoice(),)
        if rng.random() < 0.75:
            yield (subscription.payment("success"),)
            continue
        yield subscription.failure()
        if rng.random() < 0.3:
            yield (
                subscription.fact("unpaid", status="unpaid"),
                subscription.fact("cancelled", reason="unpaid"),
            )
            return
        yield subscription.recovery()
    yield (rng.choice((subscription.fact("cancelled", reason="customer"), subscription.fact("expired"))),)


class _Subscription:
    def __init__(self, rng: Random, new_id: NewId) -> None:
        self._rng = rng
        self._new_id = new_id
        name, interval, self._amount = rng.choice(_PLANS)
        self._identity = {
            "subscriptionId": new_id("sub"),
            "customerId": new_id("cus"),
            "customerName": rng.choice(_CUSTOMERS),
            "plan": {"id": new_id("plan"), "name": name, "interval": interval},
        }
        self._money = {"amount": self._amount, "currency": CURRENCY}
        self._invoice_id = ""

    def fact(self, what: str, **more: Any) -> Fact:
        return Fact(f"subscription_{what}", {**self._identity, **more})

    def invoice(self) -> Fact:
        """The next one; payments are for the latest."""
        self._invoice_id = self._new_id("inv")
        return Fact("invoice_created", {**self._identity, "invoiceId": self._invoice_id, **self._money})

    def payment(self, what: str, **more: Any) -> Fact:
        return self.fact(f"payment_{what}", invoiceId=self._invoice_id, **self._money, **more)

    def paid_invoice(self) -> Step:
        return self.invoice(), self.payment("success")

    def failure(self) -> Step:
        code = self._rng.choice(_FAILURES)
        failed = self.payment("failed", failureCode=code, willRetry=True)
        return failed, self.fact("past_due", status="past_due", invoiceId=self._invoice_id)

    def recovery(self) -> Step:
        return self.payment("recovered", attempts=2), self.fact("recovered", status="active")
