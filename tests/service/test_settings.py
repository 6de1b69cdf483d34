"""Settings are read whole or refused with a sentence, and never show a secret."""

import base64
import dataclasses
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schema.errors import InvalidInput
from service.settings import PREFIX, Settings

KEY = bytes(range(32))
KEY_TEXT = base64.b64encode(KEY).decode()
SECRETS = {
    "DURO_DATABASE_URL": "postgresql://owner:hunter2@db/duro",
    "DURO_SECRET_KEY": KEY_TEXT,
}


def test_defaults_apply_without_variables() -> None:
    assert Settings.read({"PATH": "/bin", "HOME": "/root"}) == Settings()


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("DATABASE_URL", "postgresql://x/y", "postgresql://x/y"),
        ("DATABASE_CONNECTIONS", "6", 6),
        ("DATABASE_CONNECTIONS", "100", 100),
        ("DATA_DIR", "/srv/duro", Path("/srv/duro")),
        ("SECRET_KEY", KEY_TEXT, KEY),
        ("SECRET_KEY", KEY.hex(), KEY),
        ("HOST", "0.0.0.0", "0.0.0.0"),
        ("PORT", "0", 0),
        ("PORT", "65535", 65535),
        ("EGRESS_ALLOW", "127.0.0.0/8, fd00::/8", (ip_network("127.0.0.0/8"), ip_network("fd00::/8"))),
        ("EGRESS_PORTS", "443, 9443", frozenset({443, 9443})),
        ("RETRY_SCHEDULE", "500ms,1m", (timedelta(milliseconds=500), timedelta(minutes=1))),
        ("ATTEMPT_TIMEOUT", "3s", timedelta(seconds=3)),
        ("CONNECT_TIMEOUT", "50ms", timedelta(milliseconds=50)),
        ("ROTATION_GRACE", "0s", timedelta(0)),
        ("MAX_IN_FLIGHT", "1", 1),
        ("MAX_IN_FLIGHT_PER_TENANT", "2", 2),
        ("MAX_IN_FLIGHT_PER_ENDPOINT", "100000", 100_000),
        ("HEADER_PREFIX", "Acme-Pay", "Acme-Pay"),
        ("LOG_LEVEL", "debug", "debug"),
    ],
)
def test_each_setting_is_read(name: str, text: str, value: object) -> None:
    assert getattr(Settings.read({PREFIX + name: text}), name.lower()) == value


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("SECRET_KEY", "too short"),
        ("DATABASE_CONNECTIONS", "5"),
        ("DATABASE_CONNECTIONS", "101"),
        ("PORT", "65536"),
        ("PORT", "-1"),
        ("PORT", "80a"),
        ("PORT", "\uff18\uff10"),
        ("PORT", "9" * 5000),
        ("PORT", " 80"),
        ("EGRESS_ALLOW", "10.0.0.1/8"),
        ("EGRESS_ALLOW", "everything"),
        ("EGRESS_PORTS", "0"),
        ("EGRESS_PORTS", "443,,80"),
        ("RETRY_SCHEDULE", "1m,soon"),
        ("RETRY_SCHEDULE", " "),
        ("RETRY_SCHEDULE", "8d"),
        ("RETRY_SCHEDULE", "99ms"),
        ("ATTEMPT_TIMEOUT", "61s"),
        ("ATTEMPT_TIMEOUT", "0s"),
        ("ATTEMPT_TIMEOUT", "15"),
        ("CONNECT_TIMEOUT", "1ms"),
        ("EGRESS_PROXY", "socks5://proxy:1080"),
        ("EGRESS_PROXY", "http://user:password@proxy"),
        ("DISABLE_AFTER", "0s"),
        ("DISABLE_AFTER", "5 days"),
        ("ROTATION_GRACE", "31d"),
        ("MAX_IN_FLIGHT", "0"),
        ("MAX_IN_FLIGHT_PER_TENANT", "100001"),
        ("MAX_IN_FLIGHT_PER_ENDPOINT", "1e3"),
        ("HEADER_PREFIX", "Acme-"),
        ("HEADER_PREFIX", "Ac me"),
        ("HEADER_PREFIX", "A" * 41),
        ("HEADER_PREFIX", "Àcme"),
        ("HEADER_PREFIX", "-"),
        ("LOG_LEVEL", "INFO"),
    ],
)
def test_an_invalid_value_is_refused_with_its_setting(name: str, text: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        Settings.read({PREFIX + name: text})
    message = str(refused.value)
    assert message.startswith(f"{PREFIX}{name}: ")
    assert "\n" not in message
    assert refused.value.exit_status == 2


def test_every_setting_has_a_refused_value_or_takes_any_text() -> None:
    """The table above is whole: a setting added later must join it."""
    free_text = {"database_url", "data_dir", "host"}
    tabled = {case[0].lower() for case in _cases(test_an_invalid_value_is_refused_with_its_setting)}
    assert tabled | free_text == {field.name for field in dataclasses.fields(Settings)}


def _cases(test: object) -> list[tuple[str, str]]:
    marks = test.pytestmark  # type: ignore[attr-defined]
    cases: list[tuple[str, str]] = marks[0].args[1]
    return cases


def test_an_empty_variable_counts_as_unset() -> None:
    """As compose files and unit files leave them."""
    assert Settings.read({"DURO_PORT": "", "DURO_DATABASE_URL": ""}) == Settings()


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("DURO_DATABASE_URI", "did you mean DURO_DATABASE_URL?"),
        ("DURO_RETRY_SCHEDUL", "did you mean DURO_RETRY_SCHEDULE?"),
        ("DURO_XYZZY", "duro config lists the settings."),
    ],
)
def test_an_unknown_setting_is_an_error_with_a_suggestion(name: str, hint: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        Settings.read({name: "hush"})
    assert str(refused.value) == f"{name} is not a setting: {hint}"


def test_no_secret_is_shown() -> None:
    settings = Settings.read(SECRETS)
    for text in (repr(settings), str(settings), repr(settings.rows())):
        for secret in ("hunter2", KEY_TEXT, repr(KEY)):
            assert secret not in text
    rows = {row["name"]: row for row in settings.rows()}
    for name in SECRETS:
        assert rows[name]["value"] == "(secret)"
        assert rows[name]["set"] is True


def test_an_invalid_secret_is_not_repeated() -> None:
    with pytest.raises(InvalidInput) as refused:
        Settings.read({"DURO_SECRET_KEY": "hunter2"})
    assert "hunter2" not in str(refused.value)


def test_rows_have_value_default_and_help() -> None:
    rows = {row["name"]: row for row in Settings.read({"DURO_PORT": "9000"}).rows()}
    assert len(rows) == len(dataclasses.fields(Settings))
    assert (rows["DURO_PORT"]["value"], rows["DURO_PORT"]["default"], rows["DURO_PORT"]["set"]) == (
        "9000",
        "8400",
        True,
    )
    assert rows["DURO_RETRY_SCHEDULE"]["value"] == "1m,5m,30m,2h,6h,1d"
    assert rows["DURO_EGRESS_PORTS"] == {**rows["DURO_EGRESS_PORTS"], "value": "443,8443", "set": False}
    assert rows["DURO_SECRET_KEY"]["value"] == ""
    assert all(row["help"] for row in rows.values())


def test_shown_values_can_be_parsed_again() -> None:
    settings = Settings.read(
        {"DURO_EGRESS_ALLOW": "10.0.0.0/8", "DURO_RETRY_SCHEDULE": "1h30m", "DURO_ATTEMPT_TIMEOUT": "1500ms"}
    )
    shown = {
        str(row["name"]): str(row["value"])
        for row in settings.rows()
        if row["value"] != "(secret)" and row["value"]
    }
    assert Settings.read(shown) == settings


@given(st.sampled_from(dataclasses.fields(Settings)), st.text(min_size=1, max_size=30))
def test_any_value_is_parsed_or_refused(field: "dataclasses.Field[object]", text: str) -> None:
    """Never a traceback."""
    try:
        settings = Settings.read({PREFIX + field.name.upper(): text})
    except InvalidInput:
        return
    assert settings.rows()
