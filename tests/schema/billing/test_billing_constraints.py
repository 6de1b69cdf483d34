"""Rows that the billing tables refuse by themselves, whatever the code above them does: each with the rule that it breaks,
through the connection of the role that the engine has. What there may be one of is in test_billing_guards.py.
"""

from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final, TypeAlias
from uuid import UUID

import asyncpg
import pytest

from schema.billing.rows import MOST_KOBO
from tests.support.billing.billing_rows import (
    END,
    FAILED,
    IN_FLIGHT,
    START,
    TABLES,
    Columns,
    insert,
    insert_all,
    refused_by,
    rows_of,
)
from tests.support.servers.connections import SANDBOX, Connect


@dataclass(frozen=True)
class Case:
    """A row that would be fine but for `changes`."""

    table: str
    rule: str
    what: str
    changes: Columns


Row: TypeAlias = tuple[str, str, Columns]
"""The rule without its table, what is wrong, and the columns that make it so."""


def of(table: str, *rows: Row) -> list[Case]:
    return [Case(table, f"{table}_{rule}", what, changes) for rule, what, changes in rows]


def unknown(table: str, column: str, *words: str, **more: Any) -> list[Case]:
    known_to_others = ("", "Active", "made_up", *words)
    return of(
        table, *((f"{column}_check", f"{column} {word!r}", {column: word} | more) for word in known_to_others)
    )


def outside(domain: str, table: str, column: str, *values: Any, **more: Any) -> list[Case]:
    return [Case(table, f"{domain}_check", f"{column} {value!r}", more | {column: value}) for value in values]


NO_CURRENCIES: Final = ("ngn", "NAIRA", "BTC", "")
NO_AMOUNTS: Final = (-1, MOST_KOBO + 1, 2**63 - 1)

WORDS: Final = [
    *unknown("plans", "interval", "months", "decade"),
    *unknown("subscriptions", "status", "cancelled"),
    *unknown("invoices", "status", "draft", paid_at=None),
    *unknown("payment_attempts", "kind", "transfer"),
    *unknown("payment_attempts", "state", "pending"),
    *unknown("payment_attempts", "rail", "cash"),
    *unknown("dunning_schedules", "state", "paused", next_attempt_at=None),
    *unknown("dunning_schedules", "rail", "cash"),
    *unknown("dunning_schedules", "last_action", "give_up"),
    *unknown("checkout_sessions", "status", "complete", subscription_id=None, completed_at=None),
    *of(
        "store_settings",
        ("rails_check", "a rail that is none", {"rails": ["card", "cash"]}),
        ("rails_check", "no rails", {"rails": []}),
    ),
    *outside("currency", "plans", "currency", *NO_CURRENCIES),
    *outside("currency", "plans", "charge_currency", *NO_CURRENCIES, fx_rate=1),
    *outside("currency", "store_settings", "currency", *NO_CURRENCIES),
    *outside("currency", "promo_codes", "currency", *NO_CURRENCIES, percent_off=None, amount_off=1),
    *outside("currency", "invoices", "currency", *NO_CURRENCIES),
    *outside("currency", "payment_attempts", "currency", *NO_CURRENCIES),
]

AMOUNTS: Final = [
    *outside("minor_units", "plans", "amount", *NO_AMOUNTS),
    *outside("minor_units", "promo_codes", "amount_off", *NO_AMOUNTS, percent_off=None, currency="NGN"),
    *outside("minor_units", "invoices", "amount", *NO_AMOUNTS),
    *outside("minor_units", "invoices", "discount", *NO_AMOUNTS),
    *outside("minor_units", "payment_attempts", "amount", *NO_AMOUNTS),
    *outside("minor_units", "payment_attempts", "refunded", *NO_AMOUNTS),
    *of(
        "plans",
        ("amount_check", "a plan for nothing", {"amount": 0}),
        *(
            ("fx_rate_check", f"a rate of {rate}", {"charge_currency": "USD", "fx_rate": Decimal(rate)})
            for rate in ("0", "-1", "0.000000001", "NaN")
        ),
    ),
    *of(
        "promo_codes",
        ("amount_off_check", "nothing off", {"percent_off": None, "amount_off": 0, "currency": "NGN"}),
        *(("percent_off_check", f"{percent} % off", {"percent_off": percent}) for percent in (-10, 0, 101)),
    ),
    *of(
        "payment_attempts",
        ("check3", "refunded more than paid", {"refunded": 500_001}),
        ("check3", "refunded what failed", FAILED | {"refunded": 1}),
        ("check3", "refunded what is under way", IN_FLIGHT | {"refunded": 1}),
    ),
]

CONTRADICTIONS: Final = [
    *of(
        "plans",
        ("check", "another currency without a rate", {"charge_currency": "USD"}),
        ("check", "a rate without another currency", {"fx_rate": 2}),
        ("check1", "a rate to its own currency", {"charge_currency": "NGN", "fx_rate": 1}),
        ("trial_days_check", "a negative trial", {"trial_days": -1}),
        ("trial_days_check", "a trial of three years", {"trial_days": 1095}),
        ("max_cycles_check", "no cycles", {"max_cycles": 0}),
        ("name_check", "no name", {"name": ""}),
    ),
    *of(
        "customers",
        ("name_check", "no name", {"name": ""}),
        ("check", "no contact", {"email": None}),
        ("email_check", "an address in capitals", {"email": "Ada@example.com"}),
        ("email_check", "an address without a host", {"email": "ada"}),
        ("phone_check", "a phone without its country", {"phone": "08031234567"}),
        ("check1", "blacklisted without a reason", {"blacklisted_at": START}),
        ("blacklist_reason_check", "an empty reason", {"blacklisted_at": START, "blacklist_reason": ""}),
    ),
    *of(
        "promo_codes",
        ("check", "a percentage and an amount off", {"amount_off": 1, "currency": "NGN"}),
        ("check", "nothing off", {"percent_off": None}),
        ("check", "an amount off without its currency", {"percent_off": None, "amount_off": 1}),
        ("code_check", "a code in small letters", {"code": "welcome"}),
        ("max_redemptions_check", "for nobody", {"max_redemptions": 0}),
        ("redemptions_check", "redeemed less than never", {"redemptions": -1}),
        ("check1", "redeemed past its maximum", {"max_redemptions": 3, "redemptions": 4}),
    ),
    *of("payment_links", ("slug_check", "a slug with a space", {"slug": "gold plan"})),
    *of(
        "subscriptions",
        ("check", "a period that ends before it starts", {"current_period_end": START}),
        ("check1", "more cycles than there are", {"max_cycles": 3, "cycles": 4}),
        ("check2", "cancelled without an end", {"status": "canceled"}),
        ("check2", "active after its end", {"ended_at": END}),
        ("check3", "held without a fault", {"held_until": END}),
        ("cycles_check", "a negative count of cycles", {"cycles": -1}),
        ("max_cycles_check", "no cycles at most", {"max_cycles": 0}),
        ("period_check", "a period before the one before the first", {"period": -2}),
    ),
    *of(
        "invoices",
        ("check", "of no time", {"period_end": START}),
        ("check1", "paid at no time", {"paid_at": None}),
        ("check1", "open and paid at a time", {"status": "open"}),
        ("idempotency_key_check", "an empty key", {"idempotency_key": ""}),
        ("attempts_check", "a negative count of attempts", {"attempts": -1}),
    ),
    *of(
        "payment_attempts",
        ("check", "a refund of nothing", {"kind": "refund"}),
        ("number_check", "the zeroth", {"number": 0}),
        ("check1", "in flight for ever", IN_FLIGHT | {"leased_until": None}),
        ("check1", "in flight and finished", IN_FLIGHT | {"finished_at": END}),
        ("check1", "answered and still leased", {"leased_until": END}),
        ("check2", "failed for no reason", {"state": "failed"}),
        ("check2", "succeeded with a failure", {"failure_code": "card_declined"}),
        ("failure_code_check", "an empty failure", FAILED | {"failure_code": ""}),
    ),
    *of(
        "dunning_schedules",
        ("check", "waiting for no time", {"next_attempt_at": None}),
        ("check", "recovered with a next attempt", {"state": "recovered"}),
        ("check1", "charging while a card is awaited", {"state": "awaiting_card", "in_flight": True}),
        ("attempts_check", "a negative count of attempts", {"attempts": -1}),
    ),
    *of(
        "checkout_sessions",
        ("check", "over before it begins", {"expires_at": START}),
        ("check1", "completed without a subscription", {"subscription_id": None}),
        ("check1", "completed at no time", {"completed_at": None}),
        ("check1", "open with a subscription", {"status": "open", "completed_at": None}),
    ),
    *of(
        "idempotency_keys",
        ("key_check", "an empty key", {"key": ""}),
        ("request_hash_check", "a hash of another kind", {"request_hash": bytes(20)}),
        ("check", "a status without an answer", {"status": 200}),
        ("status_check", "a status that HTTP has not", {"status": 99, "response": b""}),
    ),
]

GUARDS: Final = {
    *("invoices_tenant_id_idempotency_key_key", "invoices_overlap", "invoices_unpaid"),
    *("payment_attempts_in_flight", "payment_attempts_paid", "dunning_schedules_tenant_id_invoice_id_key"),
    *("promo_codes_tenant_id_code_key", "payment_links_tenant_id_slug_key", "customers_by_email"),
}
"""In test_billing_guards.py."""


@pytest.mark.parametrize(
    "cases", [WORDS, AMOUNTS, CONTRADICTIONS], ids=["unknown words", "impossible amounts", "contradictions"]
)
async def test_the_database_refuses(connect: Connect, tenant: UUID, cases: list[Case]) -> None:
    data = await connect(SANDBOX)
    for case in cases:
        with refused_by(case.rule, f"{case.table}: {case.what}"):
            async with data.transaction():
                fresh = rows_of(tenant)
                await insert_all(data, fresh, until=case.table)
                await insert(data, case.table, fresh[case.table] | case.changes)


async def test_every_rule_of_the_tables_has_a_case_here(owner: asyncpg.Connection) -> None:
    """But for keys; and references, which test_billing_tenancy.py has."""
    rules = await owner.fetch(
        """
        SELECT conname FROM pg_constraint WHERE conrelid = ANY($1::regclass[]) AND contype NOT IN ('f', 'p')
        UNION ALL
        SELECT relname FROM pg_index JOIN pg_class ON oid = indexrelid
         WHERE indrelid = ANY($1::regclass[]) AND indisunique
           AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = indexrelid)
        """,
        TABLES,
    )
    tried = {case.rule for case in (*WORDS, *AMOUNTS, *CONTRADICTIONS)} | GUARDS
    assert {rule["conname"] for rule in rules} == tried - {"minor_units_check", "currency_check"}
