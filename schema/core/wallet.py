"""The wallet: a person by phone number, independent of merchants, and the payment methods that every merchant may charge.

A phone is verified by a six-digit code, which the caller sends over WhatsApp:

    start_challenge ──► open ──► ended      the right code was given, or a newer challenge replaced it
                          └────► unusable   after ten minutes or five attempts; it stays open until the next one

- An attempt is counted and committed before its code is compared. A client that dies in between has used the attempt, and
  concurrent guesses are no more than sequential ones.
- A wrong code, a late one, too many attempts and no challenge all give the same sentence, so that no answer helps to
  guess. Five challenges an hour allow twenty-five guesses among a million.
- An identity that has methods has one default. A change of methods locks the identity first; several identities are locked
  in the order of their phones.

Tokens are sealed and authenticated with their method's id. All times are the database's.
"""

import hmac
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Final, TypeAlias
from uuid import UUID

from schema.connections.database import Connection, Executor, Pool
from schema.core.phones import normalise_phone
from schema.errors import Conflict, InvalidInput, NotFound
from schema.ids import IDENTITY, PAYMENT_METHOD, format_id, new_id
from schema.queries import load
from schema.secret_box import SecretBox, derive_code_key
from schema.secret_repr import HidesSecrets

CODE_LASTS: Final = timedelta(minutes=10)
MOST_TRIES: Final = 5
MOST_CHALLENGES: Final = 5
PER: Final = timedelta(hours=1)
RAILS: Final = ("card", "ussd", "transfer", "virtual_account", "direct_debit")
LONGEST_TOKEN: Final = 1000

_SQL = load("wallet")
_LAST4: Final = re.compile(r"[0-9]{4}")


@dataclass(frozen=True, slots=True)
class Identity:
    id: UUID
    phone: str
    verified_at: datetime | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class NewMethod(HidesSecrets):
    rail: str
    """One of RAILS."""
    token: str = field(repr=False)
    """The gateway's token for charges."""
    brand: str | None = None
    last4: str | None = None
    expires_on: date | None = None
    is_default: bool = False
    """The first method of an identity becomes its default in any case."""


@dataclass(frozen=True, slots=True)
class Method:
    """A method without its token."""

    id: UUID
    rail: str
    brand: str | None
    last4: str | None
    expires_on: date | None
    is_default: bool
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Token(HidesSecrets):
    """What a charge needs."""

    rail: str
    token: str = field(repr=False)
    expires_on: date | None


Owned: TypeAlias = tuple[UUID, NewMethod]
"""Ids of an identity and its method."""


async def start_challenge(core: Pool, key: bytes, phone: str) -> str:
    """Returns the code to send. It is not stored and cannot be read again; the previous code becomes invalid.

    `key` is Database.key. Raises Conflict when MOST_CHALLENGES were started within the hour.
    """
    phone = normalise_phone(phone)
    challenge_id, code = new_id(), f"{secrets.randbelow(1_000_000):06}"
    async with core.acquire() as tx, tx.transaction():
        await tx.execute(_SQL["lock_phone"], phone)
        recent = await tx.fetchrow(_SQL["recent_challenges"], phone, PER)
        assert recent is not None
        if recent["count"] >= MOST_CHALLENGES:
            raise Conflict(
                f"{MOST_CHALLENGES} codes were requested for this phone within an hour: "
                f"use the newest one, or request another in {recent['minutes']} min."
            )
        await tx.execute(_SQL["end_challenge"], phone)
        await tx.execute(
            _SQL["start_challenge"], challenge_id, phone, _code_hash(key, challenge_id, code), CODE_LASTS
        )
    return code


async def verify(core: Pool, key: bytes, phone: str, code: str) -> UUID:
    """Returns the phone's identity, creating it the first time. Of two concurrent right answers one succeeds.

    `core` is a pool so that no transaction of the caller can undo the count of attempts. Raises Conflict.
    """
    tried = await core.fetchrow(_SQL["count_attempt"], normalise_phone(phone), MOST_TRIES)
    if tried is not None and hmac.compare_digest(_code_hash(key, tried["id"], code), tried["code_hash"]):
        identity_id: UUID | None = await core.fetchval(_SQL["accept"], tried["id"], new_id())
        if identity_id is not None:
            return identity_id
    raise Conflict("The code is wrong or no longer valid: check it, or request a new one.")


def _code_hash(key: bytes, challenge_id: UUID, code: str) -> bytes:
    message = challenge_id.bytes + code.encode(errors="replace")
    return hmac.digest(derive_code_key(key), message, "sha256")


async def identity_of(core: Executor, phone: str) -> Identity | None:
    row = await core.fetchrow(_SQL["identity_of"], normalise_phone(phone))
    return Identity(**row) if row is not None else None


async def save_method(core: Pool, box: SecretBox, identity_id: UUID, new: NewMethod) -> UUID:
    """Saves a method and returns its id. Raises InvalidInput, NotFound, and Conflict for an unverified identity."""
    _check(new)
    async with core.acquire() as tx, tx.transaction():
        identity = await tx.fetchrow(_SQL["lock_identity"], identity_id)
        shown = format_id(IDENTITY, identity_id)
        if identity is None:
            raise NotFound(f"There is no identity {shown}: verify the person's phone first.")
        if identity["verified_at"] is None:
            raise Conflict(f"Identity {shown} is not verified: verify the person's phone first.")
        (method_id,) = await _add(tx, box, [(identity_id, new)])
    return method_id


async def remove_method(core: Pool, identity_id: UUID, method_id: UUID) -> None:
    """Removes a method and its token. If it was the default, the newest remaining one is. Raises NotFound."""
    async with core.acquire() as tx, tx.transaction():
        await tx.execute(_SQL["lock_identity"], identity_id)
        if await tx.fetchval(_SQL["remove_method"], identity_id, method_id) is None:
            raise NotFound(
                f"Identity {format_id(IDENTITY, identity_id)} has no payment method "
                f"{format_id(PAYMENT_METHOD, method_id)}; it may have been removed already."
            )
        await tx.execute(_SQL["set_default"], identity_id)


async def list_methods(core: Executor, identity_id: UUID) -> list[Method]:
    """Newest first."""
    return [Method(**row) for row in await core.fetch(_SQL["methods"], identity_id)]


async def open_tokens(core: Executor, box: SecretBox, ids: Sequence[UUID]) -> dict[UUID, Token]:
    """Returns the tokens of these methods. Removed and unknown ones are left out.

    Raises Unavailable when one of them was sealed with another key or was altered; requested one by one, the others can
    still be unsealed.
    """
    rows = await core.fetch(_SQL["sealed_tokens"], ids)
    return {
        row["id"]: Token(row["rail"], box.open(row["sealed_token"], row["id"].bytes), row["expires_on"])
        for row in rows
    }


async def enrol(core: Pool, box: SecretBox, phone: str, new: NewMethod) -> tuple[UUID, UUID]:
    """Creates an identity verified without a code, and its method. For trusted imports."""
    ((identity_id, method_id),) = await _enrol(core, box, [(phone, new)])
    return identity_id, method_id


async def enrol_many(core: Pool, box: SecretBox, entries: Sequence[tuple[str, NewMethod]]) -> list[UUID]:
    """Does the same as repeated `enrol`, in two statements, all or nothing; returns the methods' ids in order. For
    hundreds at a time; a phone may occur repeatedly.
    """
    return [method_id for _identity_id, method_id in await _enrol(core, box, entries)]


async def _enrol(
    core: Pool, box: SecretBox, entries: Sequence[tuple[str, NewMethod]]
) -> list[tuple[UUID, UUID]]:
    for _, new in entries:
        _check(new)
    phones = [normalise_phone(phone) for phone, _ in entries]
    ids = {phone: new_id() for phone in phones}
    async with core.acquire() as tx, tx.transaction():
        rows = await tx.fetch(_SQL["add_identities"], list(ids.values()), list(ids))
        found: dict[str, UUID] = {row["phone"]: row["id"] for row in rows}
        owned = [(found[phone], new) for phone, (_, new) in zip(phones, entries, strict=True)]
        method_ids = await _add(tx, box, owned)
    return [(identity_id, id_) for (identity_id, _), id_ in zip(owned, method_ids, strict=True)]


async def _add(tx: Connection, box: SecretBox, owned: Sequence[Owned]) -> list[UUID]:
    """Expects locked identities and validated methods."""
    ids = [new_id() for _ in owned]
    await tx.execute(
        _SQL["add_methods"],
        ids,
        [identity_id for identity_id, _ in owned],
        [new.rail for _, new in owned],
        [new.brand for _, new in owned],
        [new.last4 for _, new in owned],
        [new.expires_on for _, new in owned],
        [box.seal(new.token, id_.bytes) for id_, (_, new) in zip(ids, owned, strict=True)],
        _defaults(owned),
    )
    return ids


def _defaults(owned: Sequence[Owned]) -> list[bool | None]:
    """Returns whether each becomes its identity's default, as if saved in order: the last one marked as default; if none is
    marked, the first, provided that the identity has no other (None).
    """
    first = {identity_id: place for place, (identity_id, _) in reversed(list(enumerate(owned)))}
    asked = {identity_id: place for place, (identity_id, new) in enumerate(owned) if new.is_default}
    chosen = first | asked
    return [
        (True if identity_id in asked else None) if chosen[identity_id] == place else False
        for place, (identity_id, _) in enumerate(owned)
    ]


def _check(new: NewMethod) -> None:
    """Raises InvalidInput, whose text repeats no value: a secret may be in the wrong field."""
    if new.rail not in RAILS:
        raise InvalidInput(f"A payment method's rail must be one of {', '.join(RAILS)}.")
    if not (1 <= len(new.token) <= LONGEST_TOKEN and new.token.isascii() and new.token.isprintable()):
        raise InvalidInput(
            f"A payment method needs the gateway's token: 1 to {LONGEST_TOKEN} printable ASCII characters."
        )
    if new.brand is not None and not (1 <= len(new.brand) <= 40 and new.brand.isprintable()):
        raise InvalidInput("A payment method's brand must have 1 to 40 printable characters, or be left out.")
    if new.last4 is not None and not _LAST4.fullmatch(new.last4):
        raise InvalidInput("A payment method's last4 must be four digits, or be left out.")
