"""What producers have committed and what the receiver has reported, as far as both are known."""

import asyncio
from dataclasses import dataclass
from typing import TypeAlias
from uuid import UUID

from schema.billing.books import Fact
from schema.ids import EVENT, format_id
from schema.modes import Mode
from service.demo.merchants import Merchant
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
    """Paths of the endpoints that should get it."""
    at: float
    """Just after COMMIT returned (time.monotonic). A receipt may be earlier: others see a commit before its client does."""
    timed: bool
    """False for events from before the worker was at work, whose latency says nothing."""


class Board:
    def __init__(self) -> None:
        self.committed: dict[str, Committed] = {}
        self.rolled_back: dict[str, tuple[UUID, Mode]] = {}
        self.receipts: list[Receipt] = []
        self.expected: set[Pair] = set()
        self.delivered: set[Pair] = set()
        self.retried: set[Pair] = set()
        self.moved = asyncio.Event()
        """Set at each delivery; who waits clears it."""

    def commit(
        self, event_id: UUID, fact: Fact, merchant: Merchant, mode: Mode, at: float, *, timed: bool = True
    ) -> None:
        shown = format_id(EVENT, event_id)
        recipients = merchant.recipients(mode, fact.type)
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
            self.moved.set()

    @property
    def missing(self) -> set[Pair]:
        return self.expected - self.delivered
