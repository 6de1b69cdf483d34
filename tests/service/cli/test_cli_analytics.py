"""`duro analytics`: the published views, export files that are complete or absent, and the analyst's login."""

import asyncio
import csv
import io
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import asyncpg
import duckdb
import pytest

from consumers.consumer import Consumer
from consumers.projection_handlers import ProjectionHandler
from consumers.rollups.rollups_consumer import Rollups
from schema.connections.database import Database
from schema.event_log.partitions import ensure_past_partitions
from schema.ids import TENANT, format_id
from schema.modes import Mode
from tests.service.cli.duro_command import PATIENCE, Duro
from tests.support.database_waits import until
from tests.support.events import sequence_all
from tests.support.read_models.subscription_events import event, record_event
from tests.support.servers.databases import Cluster

VIEW = ("--view", "daily_revenue", "--mode", "test")


DAYS = (("2026-10-01", 500_000), ("2026-10-02", 90_000), ("2026-10-05", 999_999_999_999_999))


@pytest.fixture
async def revenue(database: Database, owner: asyncpg.Connection, tenant: UUID) -> None:
    """A payment on each of some days."""
    data = database.data(Mode.TEST)
    await ensure_past_partitions(data, datetime(2026, 10, 1, tzinfo=UTC))
    for day, amount in DAYS:
        paid = event("subscription_payment_success", amount=amount)
        await record_event(data, tenant, paid, datetime.fromisoformat(f"{day}T12:00:00Z"))
    await sequence_all(data)
    consumer = Consumer(data, ProjectionHandler(Rollups()))
    while await consumer.step():
        pass


def suffixes(folder: Path) -> list[str]:
    return [path.suffix for path in folder.iterdir()]


def exported(text: str) -> list[tuple[str, int]]:
    return [(row["day"], int(row["net"])) for row in csv.DictReader(io.StringIO(text))]


async def test_the_views_explain_themselves(duro: Duro) -> None:
    shown = (await duro.json("analytics", "views", "--mode", "live"))["items"]
    assert {"daily_revenue", "mrr", "recovery"} <= {view["name"] for view in shown}
    assert all(view["meaning"] for view in shown)
    assert all(column["meaning"] for view in shown for column in view["columns"])
    one = await duro("analytics", "views", "mrr", "--mode", "live")
    assert "closing" in one.stdout
    assert (
        "did you mean daily_revenue"
        in (await duro("analytics", "views", "dayly_revenue", "--mode", "test")).refusal
    )


async def test_a_view_goes_to_standard_output_as_csv(duro: Duro, revenue: None, tenant: UUID) -> None:
    outcome = await duro.process("analytics", "export", *VIEW)
    assert outcome.status == 0, outcome
    assert exported(outcome.stdout) == [*DAYS]
    (first, *_) = csv.DictReader(io.StringIO(outcome.stdout))
    assert first["tenant_id"] == format_id(TENANT, tenant)
    assert first["as_of"].endswith("Z")


@pytest.mark.parametrize(
    ("span", "days"),
    [
        (("--from", "2026-10-02"), DAYS[1:]),
        (("--to", "2026-10-02"), DAYS[:1]),
        (("--to", "2026-10-02T09:00:00Z"), DAYS[:2]),
        (("--from", "2026-10-02T09:00:00Z", "--to", "2026-10-05"), DAYS[1:2]),
        (("--from", "1h"), ()),
    ],
)
async def test_a_range_includes_its_first_day_and_excludes_its_last(
    duro: Duro, revenue: None, tmp_path: Path, span: Sequence[str], days: Sequence[tuple[str, int]]
) -> None:
    file = tmp_path / "revenue.csv"
    outcome = await duro.json("analytics", "export", *VIEW, *span, "--output", str(file))
    assert exported(file.read_text()) == [*days]
    assert (outcome["rows"], outcome["bytes"]) == (len(days), file.stat().st_size)


async def test_a_parquet_file_keeps_its_types_and_whole_kobo(
    duro: Duro, revenue: None, tmp_path: Path
) -> None:
    file = tmp_path / "revenue.parquet"
    await duro.json("analytics", "export", *VIEW, "--format", "parquet", "--output", str(file))
    with duckdb.connect() as reader:
        rows = reader.execute(
            "SELECT day, net, currency FROM read_parquet($1) ORDER BY day", [str(file)]
        ).fetchall()
        types = {
            name: type_
            for name, type_, *_ in reader.execute(
                "DESCRIBE SELECT * FROM read_parquet($1)", [str(file)]
            ).fetchall()
        }
    assert [(day.isoformat(), net, currency) for day, net, currency in rows] == [
        (*day, "NGN") for day in DAYS
    ]
    assert {name: types[name] for name in ("tenant_id", "day", "net", "as_of")} == {
        "tenant_id": "VARCHAR",
        "day": "DATE",
        "net": "BIGINT",
        "as_of": "TIMESTAMP WITH TIME ZONE",
    }


async def test_every_view_can_be_read_from_either_format(duro: Duro, revenue: None, tmp_path: Path) -> None:
    """Empty ones too."""
    for view in (await duro.json("analytics", "views", "--mode", "test"))["items"]:
        counts = []
        for kind in ("csv", "parquet"):
            file = tmp_path / f"{view['name']}.{kind}"
            outcome = await duro.json(
                "analytics",
                "export",
                "--view",
                view["name"],
                "--mode",
                "test",
                "--format",
                kind,
                "-o",
                str(file),
            )
            with duckdb.connect() as reader:
                counts.append(
                    reader.execute(f"SELECT count(*) FROM read_{kind}($1)", [str(file)]).fetchone()[0]
                )
            assert counts[-1] == outcome["rows"]
        assert counts[0] == counts[1]


async def test_an_existing_file_is_kept_unless_replacing_is_allowed(
    duro: Duro, revenue: None, tmp_path: Path
) -> None:
    file = tmp_path / "revenue.csv"
    file.write_text("last month's")
    arguments = ("analytics", "export", *VIEW, "--output", str(file))
    assert "already exists" in (await duro(*arguments)).refusal
    assert file.read_text() == "last month's"
    await duro.json(*arguments, "--overwrite")
    assert exported(file.read_text()) == [*DAYS]


async def test_a_stopped_export_leaves_no_file(
    duro: Duro, revenue: None, tmp_path: Path, owner: asyncpg.Connection, superuser: asyncpg.Connection
) -> None:
    """It waits for a lock on a table below the view."""
    async with owner.transaction():
        await owner.execute("LOCK TABLE event_hours")
        process = duro.popen(
            "analytics", "export", *VIEW, "--output", str(tmp_path / "revenue.csv"), stderr=subprocess.PIPE
        )
        await until(
            superuser,
            "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            " AND application_name = 'duro analytics' AND datname = current_database())",
        )
        assert suffixes(tmp_path) == [".part"]
        process.terminate()
        _, err = await asyncio.to_thread(process.communicate, timeout=PATIENCE)
    assert process.returncode == 130, err
    assert suffixes(tmp_path) == []


async def test_a_reader_that_closes_early_is_no_error(duro: Duro, revenue: None) -> None:
    process = duro.popen("analytics", "export", *VIEW, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    with process.stderr:
        err = await asyncio.to_thread(process.stderr.read)
    assert await asyncio.to_thread(process.wait, PATIENCE) == 1
    assert (
        err
        == "duro: Writing to standard output failed (Broken pipe): the export is not complete. Run it again.\n"
    )


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--view", "mrrr", "--mode", "test"), "did you mean mrr?"),
        (("--view", "events", "--mode", "test"), "There is no view 'events'"),
        (("--view", 'mrr"; DROP TABLE events; --', "--mode", "test"), "There is no view"),
        ((*VIEW, "--from", "yesterday"), "neither a duration"),
        ((*VIEW, "--from", "2026-10-02", "--to", "2026-10-02"), "--from must be before --to"),
        ((*VIEW, "--format", "xlsx"), "xlsx"),
        ((*VIEW, "--output", "/nowhere/at/all.csv"), "cannot be written (No such file or directory)"),
        ((*VIEW, "--output", "/tmp", "--overwrite"), "already exists"),
        ((*VIEW, "--output", "/dev/null", "--overwrite"), "already exists"),
        ((*VIEW, "--output", "x" * 300), "cannot be written (File name too long)"),
        ((*VIEW, "--json"), "add --output FILE"),
    ],
)
async def test_bad_input_gets_one_sentence(duro: Duro, arguments: Sequence[str], sentence: str) -> None:
    assert sentence in (await duro.process("analytics", "export", *arguments)).refusal


async def test_a_password_needs_a_migrated_database(cluster: Cluster) -> None:
    async with cluster.empty_database() as name:
        outcome = await Duro.on(cluster.url(name), cluster.key)("analytics", "password", "--mode", "live")
    assert "run duro migrate" in outcome.refusal


async def test_a_password_lets_the_analyst_in_until_it_is_removed(duro: Duro, database: Database) -> None:
    first = await duro.json("analytics", "password", "--mode", "live")
    second = await duro.json("analytics", "password", "--mode", "live")
    assert first["role"] == "duro_live_analyst"
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(first["url"])
    analyst = await asyncpg.connect(second["url"])
    assert await analyst.fetch("SELECT * FROM mrr") == []
    await analyst.close()
    shown = await duro("analytics", "password", "--mode", "live", "--remove")
    assert "No new login as" in shown.stdout
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(second["url"])
