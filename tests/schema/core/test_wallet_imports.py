"""Trusted imports: people enrolled without a code, hundreds at a time, whoever else is at it."""

import itertools
from collections.abc import Sequence

import pytest
from asyncpg.connection import LoggedQuery

from schema.connections.database import Pool
from schema.core import wallet
from schema.ids import new_id
from schema.queries import load
from tests.support.billing.wallets import BOX, KEY, card, concurrently, default_of, new_phone

pytestmark = pytest.mark.asyncio(loop_scope="module")
SQL = load("wallet")


async def test_enrolment_needs_no_code_and_finds_existing_identities(core: Pool, phone: str) -> None:
    identity, method = await wallet.enrol(core, BOX, phone, card())
    enrolled = await wallet.identity_of(core, phone)
    assert enrolled is not None
    assert (enrolled.id, enrolled.verified_at is not None) == (identity, True)
    assert await default_of(core, identity) == method

    again, second = await wallet.enrol(core, BOX, phone, card())
    assert again == identity
    assert await wallet.identity_of(core, phone) == enrolled, "when it was proved stays"
    assert await default_of(core, identity) == method
    assert {m.id for m in await wallet.list_methods(core, identity)} == {method, second}


async def test_an_identity_that_is_not_verified_becomes_so(core: Pool, phone: str) -> None:
    await core.execute("INSERT INTO customer_identities (id, phone) VALUES ($1, $2)", new_id(), phone)
    await wallet.enrol(core, BOX, phone, card())
    found = await wallet.identity_of(core, phone)
    assert found is not None
    assert found.verified_at is not None


async def test_hundreds_are_enrolled_in_two_statements_in_order(
    heard: tuple[Pool, list[LoggedQuery]],
) -> None:
    core, statements = heard
    await wallet.enrol(core, BOX, new_phone(), card())  # the driver learns the types
    statements.clear()
    phones = [new_phone() for _ in range(200)]
    spelled = [*phones, *(f"{phone[:4]} {phone[4:]}" for phone in phones[50:])]
    entries = [(phone, card(f"AUTH_{n}")) for n, phone in enumerate(spelled)]
    ids = await wallet.enrol_many(core, BOX, entries)
    assert [s.query for s in statements if s.args] == [SQL["add_identities"], SQL["add_methods"]]
    found = await wallet.open_tokens(core, BOX, ids)
    assert [found[id_].token for id_ in ids] == [f"AUTH_{n}" for n in range(350)]
    rows = await core.fetch(
        "SELECT i.phone, m.id FROM customer_identities i JOIN saved_payment_methods m ON m.identity_id = i.id"
        " WHERE m.is_default AND i.phone = ANY($1)",
        phones,
    )
    assert {row["phone"]: row["id"] for row in rows} == dict(zip(phones, ids, strict=False))
    assert await wallet.enrol_many(core, BOX, []) == []


async def test_a_batch_equals_sequential_enrolment(core: Pool) -> None:
    """For every way in which three methods may ask to be the default, with and without one before them."""
    asks = [*itertools.product([False, True], repeat=3)]
    people = [(before, asked) for before in (False, True) for asked in asks]
    in_turn, together = [{key: new_phone() for key in people} for _ in range(2)]
    for phones in (in_turn, together):
        existing = [(phones[key], card(last4="0000")) for key in people if key[0]]
        await wallet.enrol_many(core, BOX, existing)
    rounds = [
        (key, card(last4=f"000{place + 1}", is_default=key[1][place])) for place in range(3) for key in people
    ]
    for key, new in rounds:
        await wallet.enrol(core, BOX, in_turn[key], new)
    await wallet.enrol_many(core, BOX, [(together[key], new) for key, new in rounds])

    defaults = await core.fetch(
        "SELECT i.phone, m.last4 FROM customer_identities i"
        "  JOIN saved_payment_methods m ON m.identity_id = i.id AND m.is_default"
    )
    default = {row["phone"]: row["last4"] for row in defaults}
    assert [default[together[key]] for key in people] == [default[in_turn[key]] for key in people]
    assert {default[phone] for phone in together.values()} == {"0000", "0001", "0002", "0003"}


async def test_concurrent_imports_create_each_identity_once(core: Pool) -> None:
    """Whatever their order, they do not wait for each other in a circle."""
    for _ in range(3):
        phones = [new_phone() for _ in range(60)]
        orders: Sequence[list[str]] = [phones, phones[::-1], phones[30:] + phones[:30], phones[::2]]
        found, errors = await concurrently(
            *(
                wallet.enrol_many(core, BOX, [(phone, card(is_default=n == 0)) for phone in order])
                for n, order in enumerate(orders)
            )
        )
        assert errors == []
        assert len({id_ for ids in found for id_ in ids}) == sum(map(len, orders))
        rows = await core.fetch(
            "SELECT i.phone, count(*) AS methods, count(*) FILTER (WHERE m.is_default) AS defaults"
            "  FROM customer_identities i JOIN saved_payment_methods m ON m.identity_id = i.id"
            " WHERE i.phone = ANY($1) GROUP BY i.id",
            phones,
        )
        assert len(rows) == 60
        assert {row["methods"] for row in rows} == {3, 4}
        assert {row["defaults"] for row in rows} == {1}


async def test_a_code_and_concurrent_imports_make_one_identity(core: Pool) -> None:
    for _ in range(5):
        phone = new_phone()
        code = await wallet.start_challenge(core, KEY, phone)
        (verified, *enrolled), errors = await concurrently(
            wallet.verify(core, KEY, phone, code),
            *(wallet.enrol(core, BOX, phone, card()) for _ in range(3)),
        )
        assert errors == []
        assert {identity for identity, _method in enrolled} == {verified}
        await default_of(core, verified)
