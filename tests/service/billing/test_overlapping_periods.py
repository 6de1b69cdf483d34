"""Two invoices of one subscription never overlap."""

from dataclasses import replace
from datetime import timedelta

from schema.billing import billing_cases
from schema.billing.billing_cases import Changes, NewInvoice
from schema.errors import Conflict
from schema.ids import new_id
from service.billing.decisions.invoicing import next_invoice
from service.billing.ledger import Unit
from tests.support.billing.billing_world import TenantBilling


async def test_an_overlapping_period_is_rejected_and_changes_nothing(
    billing: TenantBilling,
) -> None:
    sub = await billing.subscribe()

    async def invoice_early(unit: Unit) -> None:
        unit.locked = await billing_cases.lock(unit.tx, billing.tenant, sub)
        (case,) = await billing_cases.cases(unit.tx, unit.locked)
        new = next_invoice(case, unit.now)
        early = new.invoice.period_start - timedelta(seconds=1)
        invoice = replace(new.invoice, id=new_id(), period_start=early, idempotency_key="by another name")
        attempt = replace(new.attempt, invoice_id=invoice.id)
        await unit.write(Changes(new_invoices=[NewInvoice(invoice, attempt, new.fact)]))

    async with billing.expect_error(Conflict, "periods must not overlap"):
        await billing.engine.ledger.transact(invoice_early)
