"""Compares the payments of the gateway, the billing tables and the events: all must agree, each charge once.

A gateway identifies a charge by its reference. A charge is made exactly once if at most one reference per invoice
succeeded, and each attempt's row agrees with the gateway.
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
_PAYMENT_EVENTS = """
SELECT type, data ->> 'paymentId' AS reference, (data ->> 'amount')::bigint AS amount
  FROM events
 WHERE type IN ('subscription_payment_success', 'subscription_payment_recovered', 'subscription_payment_failed')
"""
_IN_FLIGHT = """
SELECT (SELECT count(*) FROM payment_attempts WHERE state = 'in_flight')
     + (SELECT count(*) FROM dunning_schedules WHERE in_flight)
     + (SELECT count(*) FROM subscriptions WHERE held_until IS NOT NULL)
"""


@dataclass(frozen=True)
class GatewayRecords:
    """The gateway's records."""

    taken: Mapping[str, int]
    """Minor units by successful reference."""
    refused: Collection[str]


@dataclass(frozen=True)
class PaymentTotals:
    charges: int
    """Successful charges."""
    refusals: int
    kobo: int


async def check_payments(pools: Sequence[Executor], known: GatewayRecords) -> PaymentTotals:
    """Checks all modes that use this gateway, while no charge is in flight."""
    attempts, invoices, events = [], [], []
    for data in pools:
        assert await data.fetchval(_IN_FLIGHT) == 0
        attempts += await data.fetch(_ATTEMPTS)
        invoices += await data.fetch(_INVOICES)
        events += await data.fetch(_PAYMENT_EVENTS)
    _check_attempts(attempts, known)
    _check_invoices(invoices, attempts)
    _check_events(events, known)
    taken = sum(known.taken.values())
    assert taken == sum(row["amount"] for row in invoices if row["status"] == "paid")
    return PaymentTotals(len(known.taken), len(known.refused), taken)


def _check_attempts(attempts: Sequence[Any], known: GatewayRecords) -> None:
    by_reference = {format_id(PAYMENT, row["id"]): row for row in attempts}
    succeeded = {
        reference: row["amount"] for reference, row in by_reference.items() if row["state"] == "succeeded"
    }
    assert succeeded == known.taken, "the settled charges are those of the gateway"
    assert all(by_reference[reference]["state"] == "failed" for reference in known.refused)


def _check_invoices(invoices: Sequence[Any], attempts: Sequence[Any]) -> None:
    succeeded: Counter[UUID] = Counter(row["invoice_id"] for row in attempts if row["state"] == "succeeded")
    made: Counter[UUID] = Counter(row["invoice_id"] for row in attempts)
    for row in invoices:
        assert succeeded[row["id"]] == (row["status"] == "paid"), (
            "a paid invoice has exactly one successful charge"
        )
        assert made[row["id"]] == row["attempts"]


def _check_events(events: Sequence[Any], known: GatewayRecords) -> None:
    failed = [row["reference"] for row in events if row["type"] == "subscription_payment_failed"]
    succeeded = {row["reference"]: row["amount"] for row in events if row["reference"] not in failed}
    assert len(events) == len(known.taken) + len(known.refused), "each charge has one event"
    assert succeeded == known.taken
    assert sorted(failed) == sorted(known.refused)
