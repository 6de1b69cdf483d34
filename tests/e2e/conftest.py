"""Whole workers in processes of their own, and a receiver that sees what the world would see."""

from collections.abc import AsyncIterator

import pytest

from tests.support.servers.receiver import Receiver, receiving


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as receiver:
        yield receiver
