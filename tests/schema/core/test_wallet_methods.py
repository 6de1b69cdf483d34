"""A person's payment methods: one default wherever there are any, and tokens that open for charges alone."""

from dataclasses import fields
from datetime import date

import asyncpg
import pytest
from asyncpg.connection import LoggedQuery

from schema.connections.database import Pool
from schema.core import wallet
from schema.core.wallet import Method, NewMethod
from schema.errors import Conflict, InvalidInput, NotFound, Unavailable
from schema.ids import new_id
from schema.queries import load
from schema.secret_box import SecretBox
from tests.support.billing.wallets import BOX, card, concurrently, default_of, new_phone, person

pytestmark = pytest.mark.asyncio(loop_scope="module")
SQL = load("wallet")


async def test_the_first_method_is_the_default_until_another_is_set(core: Pool) -> None:
    identity = await person(core)
    first = await wallet.save_method(core, BOX, identity, card())
    assert await default_of(core, identity) == first
    await wallet.save_method(core, BOX, identity, card())
    assert await default_of(core, identity) == first
    third = await wallet.save_method(core, BOX, identity, card(is_default=True))
    assert await default_of(core, identity) == third


async def test_a_failed_save_keeps_the_previous_default(core: Pool) -> None:
    """Its id is taken, which shows when the old one has stepped down already."""
    identity = await person(core)
    first = await wallet.save_method(core, BOX, identity, card())
    impossible = NewMethod("card", "AUTH_x", expires_on=date.max, is_default=True)
    arguments = [
        [first],
        [identity],
        ["card"],
        [None],
        [None],
        [impossible.expires_on],
        [b"sealed"],
        [True],
    ]
    with pytest.raises(asyncpg.UniqueViolationError):
        await core.execute(SQL["add_methods"], *arguments)
    assert await default_of(core, identity) == first


async def test_they_belong_to_a_verified_identity(core: Pool, phone: str) -> None:
    with pytest.raises(NotFound, match=r"There is no identity idn_.*verify the person's phone first"):
        await wallet.save_method(core, BOX, new_id(), card())
    unverified = new_id()
    await core.execute("INSERT INTO customer_identities (id, phone) VALUES ($1, $2)", unverified, phone)
    with pytest.raises(Conflict, match=r"Identity idn_.* is not verified"):
        await wallet.save_method(core, BOX, unverified, card())
    assert await wallet.list_methods(core, unverified) == []


@pytest.mark.parametrize(
    ("new", "sentence"),
    [
        (
            NewMethod("cash", "AUTH_x"),
            "rail must be one of card, ussd, transfer, virtual_account, direct_debit",
        ),
        (NewMethod("card", ""), "gateway's token"),
        (NewMethod("card", "x" * 1001), "gateway's token"),
        (NewMethod("card", "AUTH_\n"), "gateway's token"),
        (NewMethod("card", "AUTH_\ud800"), "gateway's token"),
        (NewMethod("card", "AUTH_x", ""), "brand must have 1 to 40"),
        (NewMethod("card", "AUTH_x", "visa\0"), "brand must have 1 to 40"),
        (NewMethod("card", "AUTH_x", last4="4084084084084081"), "four digits"),
        (NewMethod("card", "AUTH_x", last4="408"), "four digits"),
        (NewMethod("card", "AUTH_x", last4="408\u0661"), "four digits"),
    ],
)
async def test_what_is_malformed_is_refused_and_not_repeated(
    core: Pool, new: NewMethod, sentence: str
) -> None:
    identity = await person(core)
    for action in (
        wallet.save_method(core, BOX, identity, new),
        wallet.enrol_many(core, BOX, [(new_phone(), card()), (new_phone(), new)]),
    ):
        with pytest.raises(InvalidInput, match=sentence) as caught:
            await action
        given = {new.token, new.brand, new.last4} - {None, "", "AUTH_x"}
        assert not [value for value in given if value in str(caught.value)]
    assert await wallet.list_methods(core, identity) == []


async def test_every_rail_needs_only_a_token(core: Pool) -> None:
    identity = await person(core)
    saved = [await wallet.save_method(core, BOX, identity, NewMethod(rail, "x")) for rail in wallet.RAILS]
    found = await wallet.open_tokens(core, BOX, saved)
    assert [found[method].rail for method in saved] == list(wallet.RAILS)


async def test_methods_are_listed_newest_first_without_tokens(core: Pool) -> None:
    identity, other = await person(core), await person(core)
    ids = [await wallet.save_method(core, BOX, identity, card(last4=last4)) for last4 in ("1111", "2222")]
    await wallet.save_method(core, BOX, other, card())
    listed = await wallet.list_methods(core, identity)
    assert [(method.id, method.last4, method.is_default) for method in listed] == [
        (ids[1], "2222", False),
        (ids[0], "1111", True),
    ]
    assert {(m.rail, m.brand, m.expires_on) for m in listed} == {("card", "visa", date(2030, 12, 31))}
    assert "token" not in {field.name for field in fields(Method)}


async def test_a_removed_one_is_gone_with_its_token(core: Pool) -> None:
    identity, other = await person(core), await person(core)
    method = await wallet.save_method(core, BOX, identity, card())
    with pytest.raises(NotFound, match=r"Identity idn_.* has no payment method pm_"):
        await wallet.remove_method(core, other, method)
    assert await wallet.open_tokens(core, BOX, [method])

    await wallet.remove_method(core, identity, method)
    assert await wallet.list_methods(core, identity) == []
    assert await wallet.open_tokens(core, BOX, [method]) == {}
    row = await core.fetchrow(
        "SELECT sealed_token, removed_at FROM saved_payment_methods WHERE id = $1", method
    )
    assert row["sealed_token"] == b""
    assert row["removed_at"] is not None
    with pytest.raises(NotFound, match="removed already"):
        await wallet.remove_method(core, identity, method)


async def test_removing_the_default_promotes_the_newest_method(core: Pool) -> None:
    identity = await person(core)
    first, second, third = [await wallet.save_method(core, BOX, identity, card()) for _ in range(3)]
    for removed, default in ((first, third), (second, third), (third, None)):
        await wallet.remove_method(core, identity, removed)
        assert await default_of(core, identity) == default
    assert await wallet.save_method(core, BOX, identity, card()) == await default_of(core, identity)


async def test_concurrent_saves_and_removals_leave_one_default(core: Pool) -> None:
    identity = await person(core)
    for round_ in range(4):
        before = await wallet.list_methods(core, identity)
        _found, errors = await concurrently(
            *(wallet.save_method(core, BOX, identity, card(is_default=n % 2 == 0)) for n in range(6)),
            *(wallet.remove_method(core, identity, method.id) for method in before),
        )
        assert errors == []
        assert len(await wallet.list_methods(core, identity)) == 6, round_
        assert await default_of(core, identity) is not None


async def test_many_tokens_open_in_one_statement(heard: tuple[Pool, list[LoggedQuery]]) -> None:
    core, statements = heard
    entries = [(new_phone(), card(f"AUTH_{n}")) for n in range(200)]
    ids = await wallet.enrol_many(core, BOX, entries)
    identity = await wallet.identity_of(core, entries[0][0])
    assert identity is not None
    await wallet.remove_method(core, identity.id, ids[0])

    statements.clear()
    found = await wallet.open_tokens(core, BOX, [*ids, ids[1], new_id()])
    assert [statement.query for statement in statements] == [SQL["sealed_tokens"]]
    assert {id_: token.token for id_, token in found.items()} == {
        id_: f"AUTH_{n}" for n, id_ in enumerate(ids) if n
    }
    assert {(token.rail, token.expires_on) for token in found.values()} == {("card", date(2030, 12, 31))}
    assert await wallet.open_tokens(core, BOX, []) == {}


async def test_a_token_opens_with_its_key_and_method_only(core: Pool) -> None:
    identity = await person(core)
    ours, moved = [await wallet.save_method(core, BOX, identity, card()) for _ in range(2)]
    with pytest.raises(Unavailable, match="DURO_SECRET_KEY"):
        await wallet.open_tokens(core, SecretBox(bytes(32)), [ours])
    await core.execute(
        "UPDATE saved_payment_methods SET sealed_token = (SELECT sealed_token FROM saved_payment_methods WHERE id = $1)"
        " WHERE id = $2",
        ours,
        moved,
    )
    with pytest.raises(Unavailable, match="cannot be decrypted"):
        await wallet.open_tokens(core, BOX, [ours, moved])
    assert list(await wallet.open_tokens(core, BOX, [ours])) == [ours]
