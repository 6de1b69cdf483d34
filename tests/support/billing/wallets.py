"""Customers with phone numbers, and their saved payment methods."""

import asyncio
import itertools
from collections.abc import Awaitable
from datetime import date
from typing import Any, Final
from uuid import UUID

import pytest

from schema.connections.database import Pool
from schema.core import wallet
from schema.core.wallet import NewMethod
from schema.errors import DuroError
from schema.secret_box import SecretBox

KEY: Final = bytes(range(32))
BOX: Final = SecretBox(KEY)
_NUMBERS = itertools.count(1)


def new_phone() -> str:
    return f"+234{next(_NUMBERS):010}"


def card(token: str = "AUTH_x", *, is_default: bool = False, last4: str = "4081") -> NewMethod:
    return NewMethod("card", token, "visa", last4, date(2030, 12, 31), is_default)


async def person(core: Pool) -> UUID:
    phone = new_phone()
    return await wallet.verify(core, KEY, phone, await wallet.start_challenge(core, KEY, phone))


async def error_of(action: Awaitable[object]) -> DuroError:
    with pytest.raises(DuroError) as caught:
        await action
    return caught.value


async def concurrently(*actions: Awaitable[Any]) -> tuple[list[Any], list[BaseException]]:
    """Runs the actions concurrently. Returns the results and the errors."""
    outcomes = await asyncio.gather(*actions, return_exceptions=True)
    errors = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    assert all(isinstance(error, DuroError) for error in errors), errors
    return [outcome for outcome in outcomes if not isinstance(outcome, BaseException)], errors


async def default_of(core: Pool, identity: UUID) -> UUID | None:
    """Returns the default method. Fails unless an identity with methods has exactly one."""
    methods = await wallet.list_methods(core, identity)
    defaults = [method.id for method in methods if method.is_default]
    assert len(defaults) == min(len(methods), 1)
    return defaults[0] if defaults else None
