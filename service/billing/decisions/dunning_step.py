"""Decides what a due dunning schedule does. Pure.

    waiting          charges, over the rail that was decided when the last charge failed
    awaiting_card    ends recovery: the card was not replaced in time

A schedule with a charge in flight is never due. A customer blacklisted since is not charged. A rail that the merchant has
dropped since is skipped.
"""

from dataclasses import replace
from datetime import datetime

from schema.billing.billing_cases import Case, Changes
from schema.billing.rows import DunningState
from service.billing.decisions.dunning import next_rail
from service.billing.decisions.invoicing import another_charge, first_rail
from service.billing.decisions.lifecycle import Action
from service.billing.decisions.renewal import act
from service.billing.decisions.settlement import give_up_waiting


def recover(case: Case, now: datetime) -> Changes:
    """Returns no change when the schedule is not due any more, because another worker has processed it."""
    schedule, invoice = case.schedule, case.invoice
    if schedule is None or invoice is None or case.attempt is not None or schedule.in_flight:
        return Changes()
    if schedule.next_attempt_at is None or schedule.next_attempt_at > now:
        return Changes()
    if case.blacklisted:
        return act(case, Action.CANCEL, now, reason="fraud")
    if schedule.state is DunningState.AWAITING_CARD:
        return give_up_waiting(case, now)
    rail = schedule.rail
    if rail not in case.rails:
        rail = next_rail(rail, case.rails) or first_rail(case)
    counted, attempt = another_charge(invoice, case, rail, now)
    begun = replace(schedule, attempts=schedule.attempts + 1, rail=rail, in_flight=True, updated_at=now)
    return Changes(invoices=[counted], new_attempts=[attempt], schedules=[begun])
