"""Whole workers, and what happens to them."""

from collections.abc import Generator

import pytest

from tests.faults.figures import charges, figures, tell

__all__ = ["charges", "figures"]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    tell(item, report)
    return report
