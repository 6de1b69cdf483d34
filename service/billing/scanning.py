"""The scanners: each finds what is due by an index, begins it in one transaction, and submits the charges to the charges.

      ┌─► slots free? ── no ──► wait
      │        │
      │   lock what is due (SKIP LOCKED) ── nothing ──► wait
      │        │
      │   read it, decide, write            one transaction; a second scanner finds nothing due
      │        │
      └── charges.submit(attempts now in flight)

Any number of processes may run them. A batch that fails is repeated one by one. A subscription that fails alone is held for
a while (`held_until`, `fault`) and shown by `duro billing status`, so that it does not block the others.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Final, TypeAlias

import asyncpg

from schema.billing import billing_cases
from schema.billing.billing_cases import Case, Changes, Overdue, TenantFilter
from schema.billing.rows import DunningState, PaymentState, Status
from schema.connections.error_kinds import DataFault, is_data_fault, is_query_canceled
from schema.ids import SUBSCRIPTION, format_id
from schema.polling import sleep_unless, through_outages
from service.billing.charges import ChargeProcessor
from service.billing.decisions.dunning_step import recover
from service.billing.decisions.invoicing import LEASE
from service.billing.decisions.renewal import renew
from service.billing.ledger import Ledger, Unit

_logger = logging.getLogger(__name__)
BATCH: Final = 100
HOLD: Final = timedelta(hours=1)
_FIRST_POLL_S: Final = 0.2
_LAST_POLL_S: Final = 5.0

Begin: TypeAlias = Callable[[Unit, int], Awaitable[list[Overdue]]]
"""Processes up to the given number of due ones. `unit.locked` names those that it locked."""


def renewals(status: Status, tenants: TenantFilter = None) -> Begin:
    async def begin(unit: Unit, limit: int) -> list[Overdue]:
        unit.locked = await billing_cases.lock_due(unit.tx, status, unit.now, limit, tenants)
        return await _decide(unit, lambda case: _renew_if_due(case, status, unit.now))

    return begin


def recoveries(state: DunningState, tenants: TenantFilter = None) -> Begin:
    async def begin(unit: Unit, limit: int) -> list[Overdue]:
        unit.locked = await billing_cases.lock_recovering(unit.tx, state, unit.now, limit, tenants)
        return await _decide(unit, lambda case: recover(case, unit.now))

    return begin


def unanswered(tenants: TenantFilter = None) -> Begin:
    """Takes over attempts whose lease has expired."""

    async def begin(unit: Unit, limit: int) -> list[Overdue]:
        return await billing_cases.take_over(unit.tx, unit.now, limit, unit.now + LEASE, tenants)

    return begin


def _renew_if_due(case: Case, status: Status, now: datetime) -> Changes:
    """Checks again that it is due: it may have changed between the look and the lock."""
    subscription = case.subscription
    if subscription.status is not status or subscription.current_period_end > now or case.attempt is not None:
        return Changes()
    return renew(case, now)


async def _decide(unit: Unit, decide: Callable[[Case], Changes]) -> list[Overdue]:
    found = await billing_cases.cases(unit.tx, unit.locked)
    changes = Changes()
    for case in found:
        decided = decide(case)
        unit.done += decided.any
        changes.add(decided)
    begun = await unit.write(changes)
    if len(begun) < len(changes.new_invoices) + len(changes.new_attempts):
        raise InvoiceExists("an unpaid period already has an invoice")
    methods = {case.subscription.id: case.subscription.payment_method_id for case in found}
    return [Overdue(attempt, methods[attempt.subscription_id]) for attempt in begun]


def _is_of_a_row(error: Exception) -> bool:
    """A trigger that raises without a code of its own refuses a row, as far as one can say. To hold the subscription for
    a while gives nothing up, and lets the others pass.
    """
    return is_data_fault(error) or isinstance(error, asyncpg.RaiseError)


class InvoiceExists(DataFault):
    """An unpaid period already has an invoice without a charge in flight: the rows contradict each other."""


class Scanner:
    def __init__(
        self,
        name: str,
        state: str,
        ledger: Ledger,
        charges: ChargeProcessor,
        begin: Begin,
        *,
        batch: int = BATCH,
    ) -> None:
        """`state` is the state of a subscription, dunning schedule or attempt that this scanner is for."""
        self.name = name
        self.state = state
        self._ledger = ledger
        self._cashier = charges
        self._begin = begin
        self._batch = batch

    async def run(self, stop: asyncio.Event) -> None:
        wait_s = _FIRST_POLL_S
        while not stop.is_set():
            if await through_outages(stop, "begin what is due", self.step) or not self._cashier.room:
                wait_s = _FIRST_POLL_S
                await sleep_unless(stop, 0 if self._cashier.room else _FIRST_POLL_S)
            else:
                await sleep_unless(stop, wait_s)
                wait_s = min(_LAST_POLL_S, wait_s * 1.5)

    async def step(self) -> int:
        """How many it found due. Raises what a database in trouble raises."""
        async with self._cashier.turn:
            limit = min(self._batch, self._cashier.room)
            return await self._begin_up_to(limit) if limit else 0

    async def _begin_up_to(self, limit: int) -> int:
        try:
            return await self._take(limit)
        except Exception as error:
            if not (_is_of_a_row(error) or is_query_canceled(error)):
                raise
            _logger.warning("%s: a batch failed and is repeated one by one: %r", self.name, error)
        found = 0
        for _ in range(limit):
            found += (one := await self._take_one())
            if not one:
                break
        return found

    async def _take(self, limit: int) -> int:
        found = 0

        async def work(unit: Unit) -> list[Overdue]:
            nonlocal found
            begun = await self._begin(unit, limit)
            found = unit.done or len(begun)
            return begun

        await self._cashier.submit(await self._ledger.transact(work))
        return found

    async def _take_one(self) -> int:
        last: list[Unit] = []

        async def work(unit: Unit) -> list[Overdue]:
            last[:] = [unit]
            return await self._begin(unit, 1)

        try:
            begun = await self._ledger.transact(work)
        except Exception as error:
            if not _is_of_a_row(error) or not last or not last[0].locked:
                raise
            await self._hold(last[0], error)
            return 1
        await self._cashier.submit(begun)
        return last[0].done or len(begun)

    async def _hold(self, unit: Unit, error: Exception) -> None:
        names = ", ".join(format_id(SUBSCRIPTION, id_) for _, id_ in unit.locked)
        _logger.error("%s: %s is held for %s: %r", self.name, names, HOLD, error)
        fault = f"{self.name}: {type(error).__name__}: {error}"[:500]
        await billing_cases.hold(self._ledger.pool, unit.locked, unit.now + HOLD, fault)


def scanners(
    ledger: Ledger, charges: ChargeProcessor, *, tenants: TenantFilter = None, batch: int = BATCH
) -> list[Scanner]:
    """Returns the scanners of one mode, in the order in which a simulation runs them. `tenants` None means all tenants."""
    each: list[tuple[str, str, Begin]] = [
        ("unanswered charges", PaymentState.IN_FLIGHT, unanswered(tenants)),
        ("renewals", Status.ACTIVE, renewals(Status.ACTIVE, tenants)),
        ("trials", Status.TRIALING, renewals(Status.TRIALING, tenants)),
        ("incomplete", Status.INCOMPLETE, renewals(Status.INCOMPLETE, tenants)),
        ("recoveries", DunningState.WAITING, recoveries(DunningState.WAITING, tenants)),
        ("cards awaited", DunningState.AWAITING_CARD, recoveries(DunningState.AWAITING_CARD, tenants)),
    ]
    return [Scanner(name, state, ledger, charges, begin, batch=batch) for name, state, begin in each]
