"""Fault tests with complete worker processes."""

from collections.abc import Generator
from pathlib import Path

import pytest

from tests.faults.figures import add_figures, charges, figures

__all__ = ["charges", "figures"]


HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.drill)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    add_figures(item, report)
    return report
