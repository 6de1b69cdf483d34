"""The account in the end: what a gateway knows, what the books say and what events tell is the same money, once.

A gateway knows a charge by its reference. So a charge is made exactly once when, of each invoice, one reference at most
ever worked, and each attempt's row says what the gateway says of it.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from schema.connections.database import Executor
from schema.ids import PAYMENT, format_id

_ATTEMPTS = "SELECT id, invoice_id, state, amount FROM payment_attempts WHERE kind = 'charge'"
_INVOICES = "SELECT id, status, amount, attempts FROM invoices"
_TOLD = """
SELECT type, data ->> 'paymentId' AS reference, (data ->> 'amount')::bigint AS amount
  FROM events
 WHERE type IN ('subscription_payment_success', 'subscription_payment_recovered', 'subscription_payment_failed')
"""
_UNDER_WAY = """
SELECT (SELECT count(*) FROM payment_attempts WHERE state = 'in_flight')
     + (SELECT count(*) FROM dunning_schedules WHERE in_flight)
     + (SELECT count(*) FROM subscriptions WHERE held_until IS NOT NULL)
"""


@dataclass(frozen=True)
class Known:
    """To the gateway."""

    taken: Mapping[str, int]
    """Kobo by the references that worked."""
    refused: Collection[str]


@dataclass(frozen=True)
class Account:
    charges: int
    """That worked."""
    refusals: int
    kobo: int


async def check_payments(books: Sequence[Executor], known: Known) -> Account:
    """Of all modes that charge by this gateway, once nothing is under way."""
    attempts, invoices, told = [], [], []
    for data in books:
        assert await data.fetchval(_UNDER_WAY) == 0
        attempts += await data.fetch(_ATTEMPTS)
        invoices += await data.fetch(_INVOICES)
        told += await data.fetch(_TOLD)
    _check_attempts(attempts, known)
    _check_invoices(invoices, attempts)
    _check_told(told, known)
    taken = sum(known.taken.values())
    assert taken == sum(row["amount"] for row in invoices if row["status"] == "paid")
    return Account(len(known.taken), len(known.refused), taken)


def _check_attempts(attempts: Sequence[Any], known: Known) -> None:
    ours = {format_id(PAYMENT, row["id"]): row for row in attempts}
    worked = {reference: row["amount"] for reference, row in ours.items() if row["state"] == "succeeded"}
    assert worked == known.taken, "what the gateway took, and nothing else, is settled as taken"
    assert all(ours[reference]["state"] == "failed" for reference in known.refused)


def _check_invoices(invoices: Sequence[Any], attempts: Sequence[Any]) -> None:
    worked: Counter[UUID] = Counter(row["invoice_id"] for row in attempts if row["state"] == "succeeded")
    made: Counter[UUID] = Counter(row["invoice_id"] for row in attempts)
    for row in invoices:
        assert worked[row["id"]] == (row["status"] == "paid"), (
            "an invoice is charged once, and then it is paid"
        )
        assert made[row["id"]] == row["attempts"]


def _check_told(told: Sequence[Any], known: Known) -> None:
    failed = [row["reference"] for row in told if row["type"] == "subscription_payment_failed"]
    worked = {row["reference"]: row["amount"] for row in told if row["reference"] not in failed}
    assert len(told) == len(known.taken) + len(known.refused), "each charge is told of once"
    assert worked == known.taken
    assert sorted(failed) == sorted(known.refused)
