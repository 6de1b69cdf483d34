"""What the producers have committed so far, and what the receiver has reported so far."""

import asyncio
from dataclasses import dataclass
from typing import TypeAlias
from uuid import UUID

from schema.billing.billing_cases import Fact
from schema.ids import EVENT, format_id
from schema.modes import Mode
from service.demo.demo_tenants import DemoTenant
from service.demo.receipts import OK, Receipt, data_digest

Pair: TypeAlias = tuple[str, str]
"""(event id, endpoint's path): one delivery."""


@dataclass(frozen=True, slots=True)
class Committed:
    id: UUID
    mode: Mode
    type: str
    data_digest: str
    recipients: frozenset[str]
    """Paths of the endpoints that should receive it."""
    at: float
    """Just after COMMIT returned (time.monotonic). A receipt may be earlier: other sessions can see a commit before its
    client does.
    """
    timed: bool
    """False for events recorded before the worker ran. Their latency is meaningless."""


class Observations:
    def __init__(self) -> None:
        self.committed: dict[str, Committed] = {}
        self.rolled_back: dict[str, tuple[UUID, Mode]] = {}
        self.receipts: list[Receipt] = []
        self.expected: set[Pair] = set()
        self.delivered: set[Pair] = set()
        self.retried: set[Pair] = set()
        self.delivery_seen = asyncio.Event()
        """Set at each delivery. The waiter clears it."""

    def commit(
        self, event_id: UUID, fact: Fact, tenant: DemoTenant, mode: Mode, at: float, *, timed: bool = True
    ) -> None:
        shown = format_id(EVENT, event_id)
        recipients = tenant.recipients(mode, fact.type)
        self.committed[shown] = Committed(
            event_id, mode, fact.type, data_digest(fact.data), recipients, at, timed
        )
        self.expected.update((shown, path) for path in recipients)

    def roll_back(self, event_id: UUID, mode: Mode) -> None:
        self.rolled_back[format_id(EVENT, event_id)] = (event_id, mode)

    def receive(self, receipt: Receipt) -> None:
        self.receipts.append(receipt)
        pair = (receipt.event_id, receipt.path)
        if receipt.attempt > 1:
            self.retried.add(pair)
        if receipt.answer == OK:
            self.delivered.add(pair)
            self.delivery_seen.set()

    @property
    def missing(self) -> set[Pair]:
        return self.expected - self.delivered
