"""What the billing engine reads and writes, across tenants, in batches.

    lock_…()  ──►  cases()  ──►  (decisions, elsewhere and pure)  ──►  write()

The subscription's row is the one lock: whoever changes anything of a subscription holds it. `cases` is a statement of
its own, because its snapshot must be younger than the locks: what another worker has just committed for a subscription
is seen, so a charge under way is never overlooked.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, TypeAlias
from uuid import UUID

import asyncpg
import orjson

from schema.billing.rows import (
    DunningSchedule,
    DunningState,
    Invoice,
    PaymentAttempt,
    Plan,
    PromoCode,
    Rail,
    Row,
    Status,
    StoreSettings,
    Subscription,
    as_array,
)
from schema.database import Connection, Executor
from schema.errors import Conflict
from schema.queries import load

_SQL = load("books")

Key: TypeAlias = tuple[UUID, UUID]
"""(tenant, id)."""
Whose: TypeAlias = Sequence[UUID] | None
"""These tenants', or everybody's."""


@dataclass(frozen=True, slots=True)
class Case:
    """A subscription and what concerns it."""

    subscription: Subscription
    plan: Plan
    blacklisted: bool
    """Its customer is."""
    promo_code: PromoCode | None
    settings: StoreSettings | None
    attempt: PaymentAttempt | None
    """In flight."""
    invoice: Invoice | None
    """That the attempt is for, or else the one that is owed."""
    schedule: DunningSchedule | None
    """Of the invoice."""
    charge: PaymentAttempt | None
    """That the attempt refunds."""

    @property
    def payday_aware(self) -> bool:
        return self.settings is None or self.settings.payday_aware

    @property
    def rails(self) -> Sequence[Rail]:
        return tuple(Rail) if self.settings is None else [Rail(rail) for rail in self.settings.rails]


@dataclass(frozen=True, slots=True)
class Fact:
    """What an event is going to say."""

    tenant_id: UUID
    type: str
    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class NewInvoice:
    """With what follows only if it is new: its first charge and its event."""

    invoice: Invoice
    attempt: PaymentAttempt
    fact: Fact


@dataclass(slots=True)
class Changes:
    """What one transaction writes. Facts are told in their order, and then those of new invoices."""

    new_subscriptions: list[Subscription] = field(default_factory=list)
    subscriptions: list[Subscription] = field(default_factory=list)
    new_invoices: list[NewInvoice] = field(default_factory=list)
    invoices: list[Invoice] = field(default_factory=list)
    new_attempts: list[PaymentAttempt] = field(default_factory=list)
    attempts: list[PaymentAttempt] = field(default_factory=list)
    schedules: list[DunningSchedule] = field(default_factory=list)
    facts: list[Fact] = field(default_factory=list)

    @property
    def any(self) -> bool:
        return any(getattr(self, name) for name in self.__slots__)

    def add(self, other: "Changes") -> None:
        for name in self.__slots__:
            getattr(self, name).extend(getattr(other, name))


@dataclass(frozen=True, slots=True)
class Overdue:
    """An attempt without an answer, and what to ask again with."""

    attempt: PaymentAttempt
    payment_method_id: UUID | None


async def lock_due(
    tx: Connection, status: Status, now: datetime, limit: int, whose: Whose = None
) -> list[Key]:
    return _keys(await tx.fetch(_SQL["lock_due"], status, now, limit, whose))


async def lock_recovering(
    tx: Connection, state: DunningState, now: datetime, limit: int, whose: Whose = None
) -> list[Key]:
    return _keys(await tx.fetch(_SQL["lock_recovering"], state, now, limit, whose))


async def lock_of_attempts(tx: Connection, attempts: Sequence[PaymentAttempt]) -> list[Key]:
    """Each subscription once, of however many of its attempts there are answers."""
    found = await tx.fetch(
        _SQL["lock_of_attempts"], [a.tenant_id for a in attempts], [a.id for a in attempts]
    )
    return list(dict.fromkeys(_keys(found)))


async def lock(tx: Connection, tenant_id: UUID, subscription_id: UUID) -> list[Key]:
    """One key, or none when there is no such subscription of this tenant."""
    return _keys(await tx.fetch(_SQL["lock"], tenant_id, subscription_id))


async def cases(tx: Connection, keys: Sequence[Key]) -> list[Case]:
    """In the order of the keys."""
    if not keys:
        return []
    rows = await tx.fetch(_SQL["cases"], *_columns(keys))
    return [
        Case(
            Subscription.read(row["subscription"]),
            Plan.read(row["plan"]),
            row["blacklisted"],
            _maybe(PromoCode, row["promo_code"]),
            _maybe(StoreSettings, row["settings"]),
            _maybe(PaymentAttempt, row["attempt"]),
            _maybe(Invoice, row["invoice"]),
            _maybe(DunningSchedule, row["schedule"]),
            _maybe(PaymentAttempt, row["charge"]),
        )
        for row in rows
    ]


async def write(tx: Connection, changes: Changes) -> tuple[list[PaymentAttempt], list[Fact]]:
    """The attempts that are now in flight, and what there is to tell. A new invoice whose key exists already is left out.

    Raises Conflict for one whose period overlaps that of another.
    """
    await _write(tx, "add_subscriptions", changes.new_subscriptions)
    await _write(tx, "save_subscriptions", changes.subscriptions)
    made = await _add_invoices(tx, changes.new_invoices)
    await _write(tx, "save_invoices", changes.invoices)
    begun = [*(new.attempt for new in made), *changes.new_attempts]
    await _write(tx, "add_attempts", begun)
    await _write(tx, "save_attempts", changes.attempts)
    await _write(tx, "save_schedules", changes.schedules)
    return begun, [*changes.facts, *(new.fact for new in made)]


async def record(tx: Connection, facts: Sequence[Fact], moments: Sequence[datetime | None]) -> list[UUID]:
    """Events of these moments, None for now; their ids."""
    rows = await tx.fetch(
        _SQL["record_events"],
        [fact.tenant_id for fact in facts],
        [fact.type for fact in facts],
        [orjson.dumps(fact.data).decode() for fact in facts],
        moments,
    )
    return [row["id"] for row in rows]


async def take_over(
    executor: Executor, now: datetime, limit: int, until: datetime, whose: Whose = None
) -> list[Overdue]:
    rows = await executor.fetch(_SQL["take_over"], now, limit, until, whose)
    return [Overdue(PaymentAttempt.read(row["attempt"]), row["payment_method_id"]) for row in rows]


async def hold(executor: Executor, keys: Sequence[Key], until: datetime, fault: str) -> None:
    await executor.execute(_SQL["hold"], *_columns(keys), until, fault)


async def release(executor: Executor) -> int:
    released: int = await executor.fetchval(_SQL["release"])
    return released


async def clock(executor: Executor) -> datetime:
    now: datetime = await executor.fetchval(_SQL["clock"])
    return now


async def transaction_id(tx: Connection) -> str | None:
    """None: it has written nothing so far."""
    transaction: str | None = await tx.fetchval(_SQL["transaction_id"])
    return transaction


async def took_effect(executor: Executor, transaction: str) -> bool | None:
    """None: that is not decided yet, or not known any more."""
    fate = await executor.fetchval(_SQL["fate"], transaction)
    return {"committed": True, "aborted": False}.get(fate)


async def next_due(executor: Executor, now: datetime, whose: Whose) -> dict[str, datetime]:
    """When there is something to do next, by the state (of a subscription, a schedule, an attempt) that a scanner is for."""
    rows = await executor.fetch(_SQL["next_due"], now, whose)
    return {row["scanner"]: row["at"] for row in rows}


@dataclass(frozen=True, slots=True)
class BillingStatus:
    """Of one mode; counts stop at COUNTED_UP_TO."""

    renewals_due: int
    renewals_late_by: timedelta | None
    """Negative: until the next one is due."""
    recoveries_due: int
    recovering: int
    awaiting_card: int
    in_flight: int
    unanswered: int
    """In flight for longer than UNANSWERED_AFTER."""
    held: int


COUNTED_UP_TO: Final = 100_000
UNANSWERED_AFTER: Final = timedelta(minutes=10)
"""A charge has been asked for several times by then."""


@dataclass(frozen=True, slots=True)
class Held:
    tenant_id: UUID
    id: UUID
    held_until: datetime
    fault: str


async def status(executor: Executor, now: datetime) -> BillingStatus:
    row = await executor.fetchrow(_SQL["status"], now, now - UNANSWERED_AFTER)
    assert row is not None
    return BillingStatus(**row)


@dataclass(frozen=True, slots=True)
class Unanswered:
    tenant_id: UUID
    id: UUID
    subscription_id: UUID
    kind: str
    amount: int
    currency: str
    created_at: datetime


async def unanswered(executor: Executor, now: datetime, limit: int) -> list[Unanswered]:
    """In flight for longer than UNANSWERED_AFTER."""
    rows = await executor.fetch(_SQL["unanswered"], now - UNANSWERED_AFTER, limit)
    return [Unanswered(**row) for row in rows]


async def held(executor: Executor, now: datetime, limit: int) -> list[Held]:
    return [Held(**row) for row in await executor.fetch(_SQL["held"], now, limit)]


async def _add_invoices(tx: Connection, new: Sequence[NewInvoice]) -> list[NewInvoice]:
    if not new:
        return []
    try:
        rows = await tx.fetch(_SQL["add_invoices"], as_array(each.invoice for each in new))
    except asyncpg.ExclusionViolationError:
        raise Conflict(
            "A subscription's periods may not overlap: there is an invoice for a part of this one already."
        ) from None
    made = {row["id"] for row in rows}
    return [each for each in new if each.invoice.id in made]


async def _write(tx: Connection, statement: str, rows: Sequence[Row]) -> None:
    if rows:
        await tx.execute(_SQL[statement], as_array(rows))


def _maybe(kind: type[Any], record: Any) -> Any:
    return None if record is None else kind.read(record)


def _keys(rows: Iterable[Any]) -> list[Key]:
    return [(row["tenant_id"], row["id"]) for row in rows]


def _columns(keys: Sequence[Key]) -> tuple[list[UUID], list[UUID]]:
    return [tenant for tenant, _ in keys], [id_ for _, id_ in keys]
