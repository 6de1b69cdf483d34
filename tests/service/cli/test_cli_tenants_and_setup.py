"""`duro tenant`, `duro migrate`, `duro config`."""

import hashlib

from schema.connections.database import Database
from schema.core.tenants import create
from schema.installation.migrate import migrations
from tests.service.cli.duro_command import Duro
from tests.support.servers.databases import Cluster


async def test_a_tenant_gets_a_key_per_mode_stored_as_a_hash(duro: Duro, database: Database) -> None:
    created = await duro.process("tenant", "create", "Lagos Gym", "--json")
    assert created.status == 0, created
    assert set(created.json) == {"id", "keys"}
    assert created.json["id"].startswith("ten_")
    rows = await database.core.fetch("SELECT mode, key_hash FROM api_keys")
    assert {row["mode"]: row["key_hash"] for row in rows} == {
        mode: hashlib.sha256(key.encode()).digest() for mode, key in created.json["keys"].items()
    }
    assert all(key.startswith(f"sk_{mode}_") for mode, key in created.json["keys"].items())


async def test_create_prints_both_keys_and_warns_to_keep_them(duro: Duro) -> None:
    outcome = await duro("tenant", "create", "Lagos Gym")
    assert outcome.status == 0
    assert "sk_test_" in outcome.stdout
    assert "sk_live_" in outcome.stdout
    assert "cannot be shown again" in outcome.stdout


async def test_lists_are_pages_newest_first(duro: Duro, database: Database) -> None:
    for n in range(5):
        await create(database.core, f"tenant {n}")
    first = await duro.json("tenant", "list", "--limit", "3")
    second = await duro.json("tenant", "list", "--limit", "3", "--cursor", first["nextCursor"])
    assert [tenant["name"] for tenant in first["items"]] == ["tenant 4", "tenant 3", "tenant 2"]
    assert [tenant["name"] for tenant in second["items"]] == ["tenant 1", "tenant 0"]
    assert (first["hasMore"], second["hasMore"], second["nextCursor"]) == (True, False, None)
    assert set(first["items"][0]) == {"id", "name", "createdAt"}
    assert first["items"][0]["createdAt"].endswith("Z")


async def test_names_cannot_act_on_the_terminal(duro: Duro, database: Database) -> None:
    """Markup is shown literally. Unprintable characters are refused on input, and escaped on output."""
    await create(database.core, "[bold red]Gym[/]")
    await database.core.execute("UPDATE tenants SET name = name || $1", "\x1b[2J")
    outcome = await duro("tenant", "list")
    assert "[bold red]Gym[/]\\x1b[2J" in outcome.stdout
    assert "\x1b" not in outcome.stdout


async def test_migrate_lists_what_it_applies_and_then_nothing(duro: Duro, cluster: Cluster) -> None:
    async with cluster.fresh_database("template0") as name:
        here = duro.set(DURO_DATABASE_URL=cluster.url(name))
        first = await here("migrate")
        again = await here("migrate")
        as_json = await here.json("migrate")
    files = list(migrations())
    assert first.status == 0, first
    assert all(f"{file.schema}: {file.name}" in first.stderr for file in files)
    assert f"{len(files)} migrations applied" in first.stdout
    assert "Nothing to do" in again.stdout
    assert again.stderr == ""
    assert as_json == {"applied": 0, "repaired": []}


async def test_config_lists_every_setting_and_shows_no_secret(duro: Duro) -> None:
    here = duro.set(DURO_RETRY_SCHEDULE="5s,30s")
    shown = await here("config")
    rows = {row["name"]: row for row in (await here.json("config"))["settings"]}
    assert rows["DURO_RETRY_SCHEDULE"]["value"] == "5s,30s"
    assert rows["DURO_RETRY_SCHEDULE"]["default"] == "1m,5m,30m,2h,6h,1d"
    assert all(name in shown.stdout and row["help"] for name, row in rows.items())
    for secret in (duro.settings["DURO_SECRET_KEY"], duro.settings["DURO_DATABASE_URL"]):
        assert secret not in shown.stdout
        assert secret not in str(rows)
