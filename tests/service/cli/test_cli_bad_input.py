"""Bad input gets one sentence that says what to do, and leaves nothing behind."""

from base64 import urlsafe_b64encode
from pathlib import Path

import asyncpg
import pytest

from schema.connections.database import Database
from schema.modes import Mode
from tests.service.cli.duro_command import Duro
from tests.support.servers.databases import Cluster

SOMEONE = "ten_01HKBZ4PQ9Z3K7T8V9X2Y1B5C6"
AN_ENDPOINT = "we_01HKBZ4PQ9Z3K7T8V9X2Y1B5C6"
A_DELIVERY = "dlv_01HKBZ4PQ9Z3K7T8V9X2Y1B5C6"
AN_EVENT = "evt_01HKBZ4PQ9Z3K7T8V9X2Y1B5C6"
NO_SECRET = "whsec_c2hvcnQ="
OF_THE_TENANT = ["--tenant", "TENANT", "--mode", "test"]
RECORD = ["event", "record", *OF_THE_TENANT, "--type", "invoice_created", "--data"]
CREATE = ["endpoint", "create", *OF_THE_TENANT, "--url"]
GOOD = "https://shop.example/hooks"


def nested(depth: int) -> str:
    return '{"a":' * depth + "1" + "}" * depth


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        # events
        ([*RECORD, "{"], "not JSON: unexpected end of data: line 1 column 2"),
        ([*RECORD, '{\n "a": 1,\n}'], "line 2 column 8"),
        ([*RECORD, '{"a": NaN}'], "line 1 column 7"),
        ([*RECORD, ""], "not JSON"),
        ([*RECORD, "[1]"], "must be a JSON object, not array"),
        ([*RECORD, '{"a": "\\u0000"}'], "\\u0000"),
        ([*RECORD, '{"a": "\udcff"}'], "UTF-8"),
        ([*RECORD, nested(2000)], "depth"),
        ([*RECORD, "@/nonexistent.json"], "No such file"),
        ([*RECORD, "@/tmp"], "Is a directory"),
        (
            ["event", "record", *OF_THE_TENANT, "--type", "invoice_creatd", "--data", "{}"],
            "did you mean invoice_created",
        ),
        (["event", "record", *OF_THE_TENANT, "--type", "invoice_*", "--data", "{}"], "Unknown event type"),
        (["event", "list", *OF_THE_TENANT, "--type", "nope"], "is not an event type"),
        # ids
        (["event", "show", A_DELIVERY], "not an id of the form evt_"),
        (["event", "show", "evt_"], "not an id of the form evt_"),
        (["event", "show", "evt_" + "Z" * 26], "not an id of the form evt_"),
        (["event", "show", AN_EVENT], f"There is no event {AN_EVENT} in either mode"),
        (["delivery", "show", AN_EVENT], "not an id of the form dlv_"),
        (["delivery", "show", A_DELIVERY], f"There is no delivery {A_DELIVERY} in either mode"),
        (["delivery", "replay", A_DELIVERY], f"There is no delivery {A_DELIVERY}"),
        (["endpoint", "show", SOMEONE], "not an id of the form we_"),
        (["endpoint", "show", AN_ENDPOINT], f"There is no endpoint {AN_ENDPOINT}"),
        (["endpoint", "enable", AN_ENDPOINT], f"There is no endpoint {AN_ENDPOINT}"),
        (["endpoint", "disable", AN_ENDPOINT], f"There is no endpoint {AN_ENDPOINT}"),
        (["endpoint", "update", AN_ENDPOINT, "--description", "x"], f"There is no endpoint {AN_ENDPOINT}"),
        (["endpoint", "rotate-secret", AN_ENDPOINT], f"There is no endpoint {AN_ENDPOINT}"),
        # unknown tenants
        (["event", "list", "--tenant", SOMEONE, "--mode", "test"], "create one with duro tenant create"),
        (["delivery", "list", "--tenant", SOMEONE, "--mode", "test"], "create one with duro tenant create"),
        (["endpoint", "list", "--tenant", SOMEONE, "--mode", "test"], "create one with duro tenant create"),
        (
            ["endpoint", "create", "--tenant", SOMEONE, "--mode", "test", "--url", GOOD],
            "create one with duro tenant create",
        ),
        (
            [
                "event",
                "record",
                "--tenant",
                SOMEONE,
                "--mode",
                "test",
                "--type",
                "invoice_created",
                "--data",
                "{}",
            ],
            "or create the tenant with duro tenant create",
        ),
        (
            ["delivery", "replay", "--tenant", SOMEONE, "--mode", "test", "--since", "1h"],
            "create one with duro tenant create",
        ),
        (["tenant", "create", " "], "1 to 200 printable characters"),
        (["tenant", "create", "a\nb"], "1 to 200 printable characters"),
        # endpoints
        ([*CREATE, "ftp://shop.example/"], "must start with https://"),
        ([*CREATE, "http://shop.example/"], "plain http is allowed only"),
        ([*CREATE, "https://user:pw@shop.example/"], "must not contain a user name or password"),
        ([*CREATE, "https://shop.example:22/"], "port 22 is not 443 or 8443"),
        ([*CREATE, "https://127.0.0.1/"], "DURO_EGRESS_ALLOW"),
        ([*CREATE, "https://localhost./"], "DURO_EGRESS_ALLOW"),
        ([*CREATE, "https://[::ffff:10.0.0.1]/"], "DURO_EGRESS_ALLOW"),
        ([*CREATE, "https://①②⑦.0.0.1/"], "not ASCII"),
        ([*CREATE, "https://2130706433/"], "numeric host"),
        ([*CREATE, GOOD, "--header", "Duro-Signature=x"], "'Duro-Signature' is reserved"),
        ([*CREATE, GOOD, "--header", "Host=x"], "'Host' is reserved"),
        ([*CREATE, GOOD, "--header", "X-A=1", "--header", "x-a=2"], "given twice"),
        ([*CREATE, GOOD, "--header", "X-A"], "NAME=VALUE"),
        ([*CREATE, GOOD, "--header", "X-A=a\r\nX-B: b"], "line breaks"),
        ([*CREATE, GOOD, "--event", "invoice_creatd"], "did you mean invoice_created"),
        ([*CREATE, GOOD, "--description", "x" * 501], "at most 500"),
        ([*CREATE, GOOD, "--headers-file", "/nonexistent"], "does not exist"),
        (["endpoint", "rotate-secret", AN_ENDPOINT, "--grace", "1 day"], "not a duration"),
        (["endpoint", "rotate-secret", AN_ENDPOINT, "--grace", "31d"], "too long"),
        (["endpoint", "disable", AN_ENDPOINT, "--reason", ""], "1 to 200 printable"),
        # pages
        (["event", "list", *OF_THE_TENANT, "--limit", "0"], "limit must be from 1 to 100"),
        (["event", "list", *OF_THE_TENANT, "--limit", "101"], "limit must be from 1 to 100"),
        (["event", "list", *OF_THE_TENANT, "--limit", "ten"], "not a valid integer"),
        (["event", "list", *OF_THE_TENANT, "--cursor", "nonsense"], "use a cursor that a list returned"),
        # deliveries
        (["delivery", "list", *OF_THE_TENANT, "--status", "lost"], "'lost' is not one of"),
        (["delivery", "replay", *OF_THE_TENANT, "--since", "yesterday"], "neither a duration"),
        (["delivery", "replay", *OF_THE_TENANT, "--since", "2026-06-28"], "has no time zone"),
        (["delivery", "replay", *OF_THE_TENANT, "--since", "1h", "--until", "2h"], "--since must be before"),
        (["delivery", "replay", *OF_THE_TENANT, "--since", "2199-01-01T00:00Z"], "--since must be before"),
        (["delivery", "replay", *OF_THE_TENANT, "--since", "99999d"], "too long"),
        (["delivery", "replay", A_DELIVERY, "--mode", "test"], "takes no other options"),
    ],
)
async def test_bad_input_is_refused_and_leaves_nothing(
    arguments: list[str], sentence: str, duro: Duro, ten: str, database: Database
) -> None:
    outcome = await duro(*(ten if argument == "TENANT" else argument for argument in arguments))
    assert sentence in outcome.refusal
    assert await _rows(database) == {"endpoints": 0, "events": 0, "tenants": 1}


async def test_too_much_data_is_refused(duro: Duro, ten: str, database: Database) -> None:
    arguments = [ten if argument == "TENANT" else argument for argument in RECORD]
    at_most = await duro(*arguments, "-", stdin='{"a": "' + "x" * (262144 - 9) + '"}')
    assert at_most.status == 0
    too_much = await duro(*arguments, "-", stdin='{"a": "' + "x" * (262144 - 8) + '"}')
    assert "256 KiB" in too_much.refusal
    far_too_much = await duro(*arguments, "-", stdin="x" * 3_000_000)
    assert "2 MiB" in far_too_much.refusal
    assert (await _rows(database))["events"] == 1


async def test_data_that_is_not_utf8_is_refused(duro: Duro, ten: str, tmp_path: Path) -> None:
    (tmp_path / "data.json").write_bytes(b'{"a": "\xff"}')
    arguments = [ten if argument == "TENANT" else argument for argument in RECORD]
    assert "byte 8" in (await duro(*arguments, f"@{tmp_path}/data.json")).refusal


@pytest.mark.parametrize("secret", [NO_SECRET, "hunter2hunter2hunter2", "two whsec_secrets", ""])
async def test_a_bad_secret_is_refused_without_being_repeated(
    secret: str, duro: Duro, ten: str, database: Database
) -> None:
    arguments = [ten if argument == "TENANT" else argument for argument in CREATE]
    outcome = await duro(*arguments, GOOD, "--secret-stdin", stdin=secret)
    assert "ecret" in outcome.refusal
    assert not secret or secret not in outcome.refusal
    assert (await _rows(database))["endpoints"] == 0


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"DURO_FOO": "1"}, "DURO_FOO is not a setting"),
        ({"DURO_RETRY_SHEDULE": "1m"}, "did you mean DURO_RETRY_SCHEDULE?"),
        ({"DURO_ATTEMPT_TIMEOUT": "15"}, "DURO_ATTEMPT_TIMEOUT: '15' is not a duration"),
        ({"DURO_EGRESS_ALLOW": "10.0.0.1/8"}, "did you mean 10.0.0.0/8?"),
        ({"DURO_SECRET_KEY": "short"}, "DURO_SECRET_KEY"),
        ({"DURO_DATABASE_URL": "mysql://localhost/x"}, "write postgresql://"),
        ({"DURO_DATABASE_URL": "postgresql://u:hunter2@127.0.0.1:1/x"}, "cannot be reached"),
    ],
)
async def test_an_invalid_setting_is_named(settings: dict[str, str], sentence: str, duro: Duro) -> None:
    refusal = (await duro.set(**settings)("tenant", "list")).refusal
    assert sentence in refusal
    assert "hunter2" not in refusal


async def test_an_unreachable_database_is_named(duro: Duro, cluster: Cluster) -> None:
    outcome = await duro.set(DURO_DATABASE_URL=cluster.url("gone"))("tenant", "list")
    assert "/gone does not exist: create it" in outcome.refusal


async def test_a_database_that_is_not_migrated_says_so(duro: Duro, cluster: Cluster) -> None:
    async with cluster.fresh_database("template0") as name:
        outcome = await duro.set(DURO_DATABASE_URL=cluster.url(name))("tenant", "list")
        assert "run duro migrate" in outcome.refusal


async def test_a_login_that_may_not_migrate_gets_one_sentence(
    duro: Duro, cluster: Cluster, superuser: asyncpg.Connection
) -> None:
    await superuser.execute("CREATE ROLE weak LOGIN PASSWORD 'weak'")
    try:
        async with cluster.fresh_database("template0") as name:
            await superuser.execute(f"GRANT CONNECT ON DATABASE {name} TO weak")
            host = cluster.url(name).partition("@")[2]
            url = f"postgresql://weak:weak@{host}"
            assert "owner" in (await duro.set(DURO_DATABASE_URL=url)("migrate")).refusal
    finally:
        await superuser.execute("DROP OWNED BY weak; DROP ROLE weak")


async def test_an_invalid_cursor_is_refused_whatever_it_holds(duro: Duro, ten: str) -> None:
    for cursor in (
        b"2026-01-01T00:00:00 00000000-0000-0000-0000-000000000000",
        b"2026-01-01 x",
        b"\xff",
        b"",
    ):
        text = urlsafe_b64encode(cursor).decode()
        arguments = ("event", "list", "--tenant", ten, "--mode", "test", f"--cursor={text}")
        assert "cursor" in (await duro(*arguments)).refusal


async def _rows(database: Database) -> dict[str, int]:
    return {
        "endpoints": await database.core.fetchval("SELECT count(*) FROM webhook_endpoints"),
        "events": await database.data(Mode.TEST).fetchval("SELECT count(*) FROM events"),
        "tenants": await database.core.fetchval("SELECT count(*) FROM tenants"),
    }
