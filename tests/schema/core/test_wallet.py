"""The wallet as a whole: nobody's but the person's, good everywhere, and silent about what it keeps."""

from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio
from asyncpg.connection import LoggedQuery

from schema.connections.database import Database, Pool
from schema.core import tenants, wallet
from schema.core.wallet import MOST_TRIES
from schema.ids import new_id
from schema.modes import Mode
from schema.queries import load
from schema.secret_box import SecretBox
from tests.support.billing.wallets import BOX, KEY, card, error_of, new_phone
from tests.support.plans import explain

pytestmark = pytest.mark.asyncio(loop_scope="module")
SQL = load("wallet")
MERCHANTS = 2


async def test_codes_and_tokens_never_reach_the_server_in_clear(
    heard: tuple[Pool, list[LoggedQuery]], phone: str
) -> None:
    core, statements = heard
    code = await wallet.start_challenge(core, KEY, phone)
    identity = await wallet.verify(core, KEY, phone, code)
    new = card("AUTH_secret")
    method = await wallet.save_method(core, BOX, identity, new)
    await wallet.enrol_many(core, BOX, [(phone, new)])
    opened = await wallet.open_tokens(core, BOX, [method])
    errors = [
        await error_of(wallet.verify(core, KEY, phone, code)),
        await error_of(wallet.save_method(core, BOX, new_id(), new)),
        await error_of(wallet.open_tokens(core, SecretBox(bytes(32)), [method])),
    ]
    rows = [
        row
        for table in ("customer_identities", "otp_challenges", "saved_payment_methods")
        for row in await core.fetch(f"SELECT * FROM {table}")
    ]
    sent = [flat for statement in statements for flat in leaves([statement.query, statement.args])]
    stored = [flat for row in rows for flat in leaves(list(row.values()))]
    shown = [repr(new), repr(opened), *(f"{error} {error!r}" for error in errors)]
    assert opened[method].token == "AUTH_secret"
    for place in (sent, stored, shown):
        assert any(isinstance(value, str) for value in place)
        for value in place:
            kept = value.encode() if isinstance(value, str) else value
            assert b"AUTH_secret" not in kept
            assert kept != code.encode()
    assert not [text for text in shown if code in text]


def leaves(value: Any) -> list[str | bytes]:
    """The texts and bytes in lists of lists."""
    match value:
        case str() | bytes():
            return [value]
        case list() | tuple():
            return [leaf for item in value for leaf in leaves(item)]
        case _:
            return []


async def test_what_requests_and_renewals_ask_walks_an_index(core: Pool) -> None:
    ids = await wallet.enrol_many(core, BOX, [(new_phone(), card()) for _ in range(300)])
    phones = [new_phone() for _ in range(20)]
    async with core.acquire() as connection:
        for name, arguments, rows in (
            ("sealed_tokens", (ids[:50],), 50),
            ("identity_of", (phones[0],), 1),
            ("methods", (new_id(),), 1),
            ("count_attempt", (phones[0], MOST_TRIES), 1),
            ("recent_challenges", (phones[0], wallet.PER), 5),
            ("end_challenge", (phones[0],), 1),
            ("add_identities", ([new_id() for _ in phones], phones), 20),
        ):
            plan = await explain(connection, SQL[name], *arguments)
            assert plan.full_scans() == set(), name
            assert plan.rows_read <= rows, name


@pytest_asyncio.fixture(loop_scope="module")
async def customers(shared_database: Database, phone: str) -> list[tuple[Mode, UUID, UUID]]:
    """(mode, tenant, customer) of one phone, at every merchant and in both modes."""
    merchants = [(await tenants.create(shared_database.core, f"Merchant {n}"))[0] for n in range(MERCHANTS)]
    made = [(mode, tenant, new_id()) for mode in Mode for tenant in merchants]
    for mode, tenant, customer in made:
        await shared_database.data(mode).execute(
            "INSERT INTO customers (tenant_id, id, name, phone) VALUES ($1, $2, 'Ada', $3)",
            tenant,
            customer,
            phone,
        )
    return made


async def test_a_customer_identity_is_not_scoped_to_a_tenant(
    shared_database: Database, customers: list[tuple[Mode, UUID, UUID]]
) -> None:
    """One phone is one identity, whoever's customer it is; nothing in the wallet knows of a tenant."""
    known = set()
    for mode, tenant, customer in customers:
        phone = await shared_database.data(mode).fetchval(
            "SELECT phone FROM customers WHERE tenant_id = $1 AND id = $2", tenant, customer
        )
        code = await wallet.start_challenge(shared_database.core, KEY, phone)
        known.add(await wallet.verify(shared_database.core, KEY, phone, code))
    assert len(customers) == 2 * MERCHANTS
    assert len(known) == 1
    scoped = await shared_database.core.fetchval(
        "SELECT count(*) FROM information_schema.columns WHERE table_schema = 'core' AND column_name = 'tenant_id'"
        "   AND table_name IN ('customer_identities', 'otp_challenges', 'saved_payment_methods')"
    )
    assert scoped == 0


async def test_payment_methods_are_reusable_everywhere(
    shared_database: Database, customers: list[tuple[Mode, UUID, UUID]], phone: str
) -> None:
    """Saved once, one method pays for subscriptions of every merchant, in both modes."""
    _identity, method = await wallet.enrol(shared_database.core, BOX, phone, card("AUTH_everywhere"))
    for mode, tenant, customer in customers:
        data, plan, subscription = shared_database.data(mode), new_id(), new_id()
        await data.execute(
            "INSERT INTO plans (tenant_id, id, name, amount, interval) VALUES ($1, $2, 'Gym', 500000, 'month')",
            tenant,
            plan,
        )
        await data.execute(
            "INSERT INTO subscriptions (tenant_id, id, customer_id, plan_id, status, payment_method_id, anchor,"
            "                           current_period_start, current_period_end, created_at, updated_at)"
            " VALUES ($1, $2, $3, $4, 'active', $5, now(), now(), now() + interval '1 month', now(), now())",
            *(tenant, subscription, customer, plan, method),
        )
        charged = await data.fetchval(
            "SELECT payment_method_id FROM subscriptions WHERE id = $1", subscription
        )
        found = await wallet.open_tokens(shared_database.core, BOX, [charged])
        assert [token.token for token in found.values()] == ["AUTH_everywhere"]
