"""The documents and the alerts name the metrics that a worker exports."""

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from service.settings import Settings
from service.worker.composition import Worker, worker
from service.worker.telemetry.exposition import Telemetry

ROOT = Path(__file__).resolve().parents[3]
ALERTS = ROOT / "deploy" / "alerts.yml"
ROLE = re.compile(r"duro_(owner|core|(live|sandbox)(_producer|_analyst)?)")


@pytest.fixture
async def whole(db_url: str, key: bytes) -> AsyncIterator[Worker]:
    async with worker(Settings(), db_url, key) as whole:
        yield whole


@pytest.fixture
async def families(whole: Worker) -> list[Metric]:
    text = (await Telemetry(whole).exposition()).decode()
    return [f for f in text_string_to_metric_families(text) if f.name.startswith("duro_")]


def row(family: Metric) -> str:
    labels = sorted({label for sample in family.samples for label in sample.labels} - {"le"})
    name = f"{family.name}_total" if family.type == "counter" else family.name
    return f"| `{name}` | {', '.join(labels)} | {family.documentation} |"


async def test_the_table_of_metrics_is_complete_and_true(families: list[Metric]) -> None:
    table = re.findall(r"^\| `duro_.*$", (ROOT / "docs" / "operating.md").read_text(), re.MULTILINE)
    assert table == [row(family) for family in families]


async def test_every_metric_named_in_a_document_exists(families: list[Metric]) -> None:
    """`duro_billing_…` names all that begin so."""
    samples = {sample.name for family in families for sample in family.samples} | {f.name for f in families}
    for document in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        for name, more in re.findall(r"\b(duro_[a-z_]+)(…?)", document.read_text(encoding="utf-8")):
            found = any(sample.startswith(name) for sample in samples) if more else name in samples
            assert found or ROLE.fullmatch(name), f"{document.name}: {name}"


async def test_alerts_ask_for_metrics_and_labels_that_exist(families: list[Metric]) -> None:
    rules = ALERTS.read_text()
    samples = {sample.name for family in families for sample in family.samples}
    labels = {label for family in families for sample in family.samples for label in sample.labels}
    asked = set(re.findall(r"\bduro_\w+", rules))
    assert asked
    assert asked <= samples
    grouped = {label.strip() for by in re.findall(r"(?:by|on) \(([^)]+)\)", rules) for label in by.split(",")}
    shown = set(re.findall(r"\$labels\.(\w+)", rules))
    assert grouped | shown <= labels | {"instance"}
    for name, value in re.findall(r'(\w+)!?="(\w+)"', rules):
        assert name == "job" or any(s.labels.get(name) == value for f in families for s in f.samples), value


def test_every_alert_says_what_to_do() -> None:
    rules = ALERTS.read_text().split("- alert: ")[1:]
    assert len(rules) > 10
    for rule in rules:
        assert re.search(r"^        expr: \S", rule, re.MULTILINE), rule
        assert re.search(r"severity: (critical|warning|info)}", rule), rule
        assert re.search(r'^          summary: "[^"]{40,}"$', rule, re.MULTILINE), rule
