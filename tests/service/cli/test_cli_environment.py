"""PG* variables, locale, time zone and the files below the home directory do not reach the embedded database."""

from pathlib import Path

import pytest

from schema.embedded import attach
from tests.schema.embedded.embedded_harness import query
from tests.service.cli.duro_command import Duro
from tests.support.servers.directories import temporary_directory
from tests.support.servers.hostile_environment import hostile_environment

pytestmark = pytest.mark.drill


async def test_the_shells_variables_do_not_affect_the_embedded_database(tmp_path: Path) -> None:
    with temporary_directory() as place:
        duro = Duro({**hostile_environment(tmp_path), "DURO_DATA_DIR": str(place / "data")})
        made = await duro.process("tenant", "create", "Lagos Gym", "--json")
        assert made.status == 0, made.stderr
        again = await duro.process("tenant", "list", "--json")
        assert again.status == 0, again.stderr
        assert "Lagos Gym" in again.stdout
        with attach(place / "data") as server:
            rows = "SELECT ARRAY[current_setting('TimeZone'), current_setting('lc_messages'), datcollate]"
            of_database = f"{rows} FROM pg_database WHERE datname = 'duro'"
            assert await query(server.owner_url, of_database) == ["UTC", "C", "C"]
            assert await query(server.owner_url, "SHOW server_encoding") == "UTF8"
