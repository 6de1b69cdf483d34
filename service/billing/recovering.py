"""What a dunning schedule that is due does: pure.

    waiting          charges, over the rail that was decided when the last charge failed
    awaiting_card    gives up: nobody replaced the card in time

A schedule in flight is never due. Who has become blacklisted meanwhile is not charged. A rail that the shop has given up
meanwhile is passed over.
"""

from dataclasses import replace
from datetime import datetime

from schema.billing.books import Case, Changes
from schema.billing.rows import DunningState
from service.billing.dunning import next_rail
from service.billing.invoicing import another_charge, first_rail
from service.billing.lifecycle import Action
from service.billing.renewing import act
from service.billing.settling import give_up_waiting


def recover(case: Case, now: datetime) -> Changes:
    """Nothing, when the schedule is not due after all: another worker has been there."""
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
