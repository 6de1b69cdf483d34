"""On a hot standby every command says that it is one, at once."""

import asyncio

import pytest

from tests.service.cli.duro_command import Duro
from tests.support.servers.databases import Cluster
from tests.support.servers.standby import standby, with_port

pytestmark = pytest.mark.drill


async def test_every_command_says_that_the_database_is_a_standby(
    cluster: Cluster, db_name: str, db_url: str, key: bytes
) -> None:
    with standby(cluster) as port:
        duro = Duro.on(with_port(db_url, port), key)
        commands = (
            ["migrate"],
            ["up", "--port", "0"],
            ["work"],
            ["tenant", "create", "Shop"],
            ["retention", "plan", "--attempts", "90d"],
        )
        for outcome in await asyncio.gather(*(duro.process(*command) for command in commands)):
            assert "The database is a read-only standby: name the primary" in outcome.refusal
