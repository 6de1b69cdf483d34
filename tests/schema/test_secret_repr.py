"""Pretty-printers of dataclasses show no secret: Hypothesis prints an example's arguments when a test fails."""

import dataclasses
import importlib
import inspect
import pkgutil
from collections.abc import Iterator

import pytest
from hypothesis.vendor.pretty import pretty

import consumers
import delivery
import schema
import service
from schema.connections.connecting import Login
from schema.connections.database import Database
from schema.connections.database_url import parse_database_url
from schema.secret_repr import HidesSecrets
from service.settings import Settings

NO_SECRETS = {"progress", "rng", "_numbers"}
"""Fields that repr() leaves out for brevity."""


def dataclasses_with_hidden_fields() -> Iterator[type]:
    for package in (schema, consumers, delivery, service):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if module.name.endswith("__main__"):
                continue
            for _, cls in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
                if cls.__module__ == module.name and dataclasses.is_dataclass(cls) and hidden_fields(cls):
                    yield cls


def hidden_fields(cls: type) -> set[str]:
    fields = dataclasses.fields(cls)
    return {field.name for field in fields if field.init and not field.repr} - NO_SECRETS


def test_every_dataclass_with_hidden_fields_hides_them_from_printers() -> None:
    found = list(dataclasses_with_hidden_fields())
    assert {Database, Login, Settings} <= set(found)
    assert [cls for cls in found if not issubclass(cls, HidesSecrets)] == []


def test_a_printed_database_shows_neither_key_nor_password(database: Database, key: bytes) -> None:
    password = database.target.password
    assert password
    for shown in (pretty(database), pretty([database]), repr(database)):
        assert password not in shown
        assert repr(key) not in shown
        assert "duro" in shown


@pytest.mark.parametrize(
    "secret", [Login("ada", "hunter2"), parse_database_url("postgresql://ada:hunter2@db/duro")]
)
def test_a_printed_login_shows_no_password(secret: object) -> None:
    assert "hunter2" not in pretty(secret)
    assert "ada" in pretty(secret)
