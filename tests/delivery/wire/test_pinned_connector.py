"""What the connector under aiohttp does not do."""

import pytest
from aiohttp import ClientSession

from delivery.dialling import Dialler, default_ssl_context
from delivery.egress_guard import EgressPolicy
from delivery.exchange import Exchange
from delivery.pinned_connector import PinnedConnector, current_exchange
from delivery.sending import SendLimits
from tests.delivery.wire.receiver import receiving


@pytest.mark.parametrize("host", ["localhost", "127.1", "2130706433", "0x7f000001"])
async def test_aiohttp_has_nothing_to_resolve_or_to_parse_a_host_with(host: str) -> None:
    async with receiving() as receiver:
        policy = EgressPolicy((), frozenset({receiver.port}))
        connector = PinnedConnector(Dialler(policy, SendLimits(), default_ssl_context()))
        token = current_exchange.set(Exchange())
        async with ClientSession(connector=connector) as session:
            with pytest.raises(ValueError, match="does not appear to be an IPv4 or IPv6 address"):
                await session.post(f"http://{host}:{receiver.port}/")
        current_exchange.reset(token)
    assert receiver.connections == 0
