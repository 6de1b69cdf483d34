"""A code proves a phone: once, for ten minutes, in five tries, and with one answer to whatever is wrong."""

import asyncio
import hmac
from collections.abc import Awaitable
from datetime import timedelta
from typing import Any

import pytest

from schema.connections.database import Pool
from schema.core import wallet
from schema.core.wallet import MOST_CHALLENGES, MOST_TRIES
from schema.errors import Conflict, InvalidInput
from schema.secret_box import derive_code_key
from tests.support.billing.wallets import BOX, KEY, card, concurrently, error_of, new_phone
from tests.support.database_waits import until

pytestmark = pytest.mark.asyncio(loop_scope="module")


def another(code: str) -> str:
    return f"{(int(code) + 1) % 1_000_000:06}"


async def grow_older(core: Pool, phone: str, by: timedelta) -> None:
    """As if that much time had passed since its challenges were started."""
    await core.execute(
        "UPDATE otp_challenges SET created_at = created_at - $2::interval, expires_at = expires_at - $2::interval"
        " WHERE phone = $1",
        phone,
        by,
    )


async def released_together(
    core: Pool, phone: str, *actions: Awaitable[Any]
) -> tuple[list[Any], list[BaseException]]:
    """As `at_once`, and none goes on before all wait for the phone's challenge."""
    async with core.acquire() as observer, core.acquire() as holder, holder.transaction():
        await holder.execute("SELECT FROM otp_challenges WHERE phone = $1 FOR UPDATE", phone)
        running = asyncio.create_task(concurrently(*actions))
        waiting = "SELECT count(*) = $1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        await until(observer, waiting, len(actions))
    return await running


async def open_challenges(core: Pool, phone: str) -> int:
    found: int = await core.fetchval(
        "SELECT count(*) FROM otp_challenges WHERE phone = $1 AND ended_at IS NULL", phone
    )
    return found


async def test_the_right_code_makes_a_verified_identity(core: Pool, phone: str) -> None:
    assert await wallet.identity_of(core, phone) is None
    code = await wallet.start_challenge(core, KEY, phone)
    assert len(code) == 6
    assert code.isdecimal()
    assert await wallet.identity_of(core, phone) is None, "asking for a code proves nothing"

    identity = await wallet.verify(core, KEY, phone, code)
    found = await wallet.identity_of(core, f"{phone[:4]} {phone[4:7]}-{phone[7:]}")
    assert found is not None
    assert (found.id, found.phone) == (identity, phone)
    assert found.verified_at is not None


async def test_verifying_a_phone_again_finds_the_same_identity(core: Pool, phone: str) -> None:
    found = []
    for _ in range(2):
        code = await wallet.start_challenge(core, KEY, phone)
        identity = await wallet.verify(core, KEY, phone, code)
        found.append(await wallet.identity_of(core, phone))
        assert found[-1].id == identity
    first, second = found
    assert (first.id, first.created_at) == (second.id, second.created_at)
    assert first.verified_at < second.verified_at


async def test_every_invalid_code_gets_the_same_answer(core: Pool) -> None:
    """So that it says nothing to who guesses: not whether there is a code, and not how near it is."""
    never, wrong, used, late, old, others = [new_phone() for _ in range(6)]
    codes = {
        phone: await wallet.start_challenge(core, KEY, phone) for phone in (wrong, used, late, old, others)
    }
    await wallet.verify(core, KEY, used, codes[used])
    await grow_older(core, late, wallet.CODE_LASTS)
    newer = await wallet.start_challenge(core, KEY, old)
    tries = [
        (never, "123456"),
        (wrong, another(codes[wrong])),
        (wrong, ""),
        (wrong, codes[wrong][:-1]),
        (wrong, f"{codes[wrong]}\ud800"),
        (used, codes[used]),
        (late, codes[late]),
        (old, codes[old] if codes[old] != newer else another(newer)),
    ]
    if codes[others] != codes[wrong]:
        tries.append((wrong, codes[others]))
    errors = [await error_of(wallet.verify(core, KEY, phone, code)) for phone, code in tries]
    assert {(type(error), str(error)) for error in errors} == {
        (Conflict, "The code is wrong or no longer valid: check it, or request a new one.")
    }
    assert {(error.__cause__, error.__context__) for error in errors} == {(None, None)}


async def test_a_code_lasts_ten_minutes(core: Pool, phone: str) -> None:
    code = await wallet.start_challenge(core, KEY, phone)
    lasts = await core.fetchval("SELECT expires_at - created_at FROM otp_challenges WHERE phone = $1", phone)
    assert lasts == timedelta(minutes=10)
    await grow_older(core, phone, timedelta(minutes=9))
    assert await wallet.verify(core, KEY, phone, code)


@pytest.mark.parametrize(("wrong_tries", "opens"), [(4, True), (5, False), (6, False)])
async def test_after_five_wrong_attempts_the_right_code_fails(
    core: Pool, phone: str, wrong_tries: int, opens: bool
) -> None:
    """Each is counted for good although it raises."""
    code = await wallet.start_challenge(core, KEY, phone)
    for tried in range(1, wrong_tries + 1):
        await error_of(wallet.verify(core, KEY, phone, another(code)))
        counted = await core.fetchval("SELECT attempts FROM otp_challenges WHERE phone = $1", phone)
        assert counted == min(tried, MOST_TRIES)
    found, errors = await concurrently(wallet.verify(core, KEY, phone, code))
    assert (len(found), len(errors)) == ((1, 0) if opens else (0, 1))
    assert (await wallet.identity_of(core, phone) is not None) == opens


async def test_guesses_made_at_once_have_no_more_tries(core: Pool, phone: str) -> None:
    code = await wallet.start_challenge(core, KEY, phone)
    found, errors = await concurrently(
        *(wallet.verify(core, KEY, phone, another(code)) for _ in range(3 * MOST_TRIES))
    )
    assert (found, len(errors)) == ([], 3 * MOST_TRIES)
    assert await core.fetchval("SELECT attempts FROM otp_challenges WHERE phone = $1", phone) == MOST_TRIES
    with pytest.raises(Conflict, match="wrong or no longer valid"):
        await wallet.verify(core, KEY, phone, code)


async def test_one_of_several_concurrent_right_codes_succeeds(core: Pool) -> None:
    """They wait for the challenge together, so that all are counted before one of them ends it."""
    for _ in range(5):
        phone = new_phone()
        code = await wallet.start_challenge(core, KEY, phone)
        found, errors = await released_together(
            core, phone, *(wallet.verify(core, KEY, phone, code) for _ in range(4))
        )
        assert (len(found), len(errors)) == (1, 3)
        identity = await wallet.identity_of(core, phone)
        assert identity is not None
        assert [identity.id] == found


async def test_a_newer_code_replaces_the_older(core: Pool, phone: str) -> None:
    older, newer = [await wallet.start_challenge(core, KEY, phone) for _ in range(2)]
    assert await open_challenges(core, phone) == 1
    if older != newer:
        await error_of(wallet.verify(core, KEY, phone, older))
    assert await wallet.verify(core, KEY, phone, newer)
    assert await open_challenges(core, phone) == 0


async def test_a_phone_gets_five_codes_an_hour(core: Pool, phone: str) -> None:
    codes = []
    for _ in range(MOST_CHALLENGES):
        await grow_older(core, phone, timedelta(minutes=1))
        codes.append(await wallet.start_challenge(core, KEY, phone))
    with pytest.raises(Conflict, match=r"use the newest one, or request another in 5[56] min\."):
        await wallet.start_challenge(core, KEY, phone)
    await wallet.start_challenge(core, KEY, new_phone())
    assert await wallet.verify(core, KEY, phone, codes[-1])

    await grow_older(core, phone, timedelta(minutes=56))
    await wallet.start_challenge(core, KEY, phone)
    await error_of(wallet.start_challenge(core, KEY, phone))


async def test_concurrent_requests_yield_five_codes_and_one_open(core: Pool, phone: str) -> None:
    codes, errors = await concurrently(*(wallet.start_challenge(core, KEY, phone) for _ in range(12)))
    assert (len(codes), len(errors)) == (MOST_CHALLENGES, 12 - MOST_CHALLENGES)
    assert await open_challenges(core, phone) == 1
    found, _errors = await concurrently(*(wallet.verify(core, KEY, phone, code) for code in codes))
    assert len(found) == 1


async def test_a_code_is_kept_as_a_hash_under_the_services_key(core: Pool, phone: str) -> None:
    """And that of its challenge alone: it says nothing about another's, and works for no other."""
    code = await wallet.start_challenge(core, KEY, phone)
    row = await core.fetchrow("SELECT id, code_hash FROM otp_challenges WHERE phone = $1", phone)
    assert row["code_hash"] == hmac.digest(derive_code_key(KEY), row["id"].bytes + code.encode(), "sha256")
    await error_of(wallet.verify(core, bytes(32), phone, code))

    other = new_phone()
    await wallet.start_challenge(core, KEY, other)
    await core.execute("UPDATE otp_challenges SET code_hash = $2 WHERE phone = $1", other, row["code_hash"])
    await error_of(wallet.verify(core, KEY, other, code))
    assert await wallet.verify(core, KEY, phone, code)


async def test_what_is_no_phone_is_refused(core: Pool) -> None:
    for action in (
        wallet.start_challenge(core, KEY, "08031234567"),
        wallet.verify(core, KEY, "08031234567", "123456"),
        wallet.identity_of(core, "08031234567"),
        wallet.enrol(core, BOX, "08031234567", card()),
    ):
        with pytest.raises(InvalidInput, match="Invalid phone number"):
            await action
