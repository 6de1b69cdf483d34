"""The billing engine's reads and writes, across tenants, in batches.

    lock_…()  ──►  cases()  ──►  (pure decisions elsewhere)  ──►  write()

The subscription's row is the one lock: every change of a subscription is made under it. `cases` is a statement of its own
because its snapshot must be newer than the locks. It then sees what another worker has just committed for a
subscription, so a charge in flight is never missed.
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
from schema.connections.database import Connection, Executor
from schema.errors import Conflict
from schema.queries import load

_SQL = load("billing_cases")

Key: TypeAlias = tuple[UUID, UUID]
"""(tenant, id)."""
TenantFilter: TypeAlias = Sequence[UUID] | None
"""Limits to these tenants; None means all."""


@dataclass(frozen=True, slots=True)
class Case:
    """A subscription with its related rows."""

    subscription: Subscription
    plan: Plan
    blacklisted: bool
    """Whether its customer is blacklisted."""
    promo_code: PromoCode | None
    settings: StoreSettings | None
    attempt: PaymentAttempt | None
    """The attempt in flight."""
    invoice: Invoice | None
    """The invoice of the attempt, else the one that is owed."""
    schedule: DunningSchedule | None
    """The dunning schedule of the invoice."""
    charge: PaymentAttempt | None
    """The charge that the attempt refunds."""

    @property
    def payday_aware(self) -> bool:
        return self.settings is None or self.settings.payday_aware

    @property
    def rails(self) -> Sequence[Rail]:
        return tuple(Rail) if self.settings is None else [Rail(rail) for rail in self.settings.rails]


@dataclass(frozen=True, slots=True)
class Fact:
    """An event to record."""

    tenant_id: UUID
    type: str
    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class NewInvoice:
    """A new invoice, with the first charge and the event that are written only if the invoice is new."""

    invoice: Invoice
    attempt: PaymentAttempt
    fact: Fact


@dataclass(slots=True)
class Changes:
    """What one transaction writes. Events are recorded in order, then those of new invoices."""

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
    """An attempt without an answer, with what is needed to ask again."""

    attempt: PaymentAttempt
    payment_method_id: UUID | None


async def lock_due(
    tx: Connection, status: Status, now: datetime, limit: int, tenants: TenantFilter = None
) -> list[Key]:
    return _keys(await tx.fetch(_SQL["lock_due"], status, now, limit, tenants))


async def lock_recovering(
    tx: Connection, state: DunningState, now: datetime, limit: int, tenants: TenantFilter = None
) -> list[Key]:
    return _keys(await tx.fetch(_SQL["lock_recovering"], state, now, limit, tenants))


async def lock_of_attempts(tx: Connection, attempts: Sequence[PaymentAttempt]) -> list[Key]:
    """Locks each subscription once, however many of its attempts are answered."""
    found = await tx.fetch(
        _SQL["lock_of_attempts"], [a.tenant_id for a in attempts], [a.id for a in attempts]
    )
    return list(dict.fromkeys(_keys(found)))


async def lock(tx: Connection, tenant_id: UUID, subscription_id: UUID) -> list[Key]:
    """Returns the key, or nothing if the tenant has no such subscription."""
    return _keys(await tx.fetch(_SQL["lock"], tenant_id, subscription_id))


async def cases(tx: Connection, keys: Sequence[Key]) -> list[Case]:
    """Returns the cases in the order of the keys."""
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
    """Returns the attempts now in flight and the events to record. A new invoice whose key already exists is skipped.

    Raises Conflict for an invoice whose period overlaps another one.
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
    """Records events with these times (None: now) and returns their ids."""
    rows = await tx.fetch(
        _SQL["record_events"],
        [fact.tenant_id for fact in facts],
        [fact.type for fact in facts],
        [orjson.dumps(fact.data).decode() for fact in facts],
        moments,
    )
    return [row["id"] for row in rows]


async def take_over(
    executor: Executor, now: datetime, limit: int, until: datetime, tenants: TenantFilter = None
) -> list[Overdue]:
    rows = await executor.fetch(_SQL["take_over"], now, limit, until, tenants)
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
    """None if it has written nothing yet."""
    transaction: str | None = await tx.fetchval(_SQL["transaction_id"])
    return transaction


async def took_effect(executor: Executor, transaction: str) -> bool | None:
    """None if it is undecided, or too old to be known."""
    fate = await executor.fetchval(_SQL["fate"], transaction)
    return {"committed": True, "aborted": False}.get(fate)


async def next_due(executor: Executor, now: datetime, tenants: TenantFilter) -> dict[str, datetime]:
    """Returns when something is due next, by the state (of a subscription, schedule or attempt) that a scanner is for."""
    rows = await executor.fetch(_SQL["next_due"], now, tenants)
    return {row["scanner"]: row["at"] for row in rows}


@dataclass(frozen=True, slots=True)
class BillingStatus:
    """The state of billing in one mode; counts stop at COUNTED_UP_TO."""

    renewals_due: int
    renewals_late_by: timedelta | None
    """If negative, the time until the next one is due."""
    recoveries_due: int
    recovering: int
    awaiting_card: int
    in_flight: int
    unanswered: int
    """In flight for longer than UNANSWERED_AFTER."""
    held: int


COUNTED_UP_TO: Final = 100_000
UNANSWERED_AFTER: Final = timedelta(minutes=10)
"""By then a charge has been asked for several times."""


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
            "A subscription's periods must not overlap: another invoice covers part of this period."
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
