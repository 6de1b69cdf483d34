"""Complete workers in separate processes, and a receiver."""

from collections.abc import AsyncIterator

import pytest

from tests.support.servers.receiver import Receiver, receiving


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as receiver:
        yield receiver
