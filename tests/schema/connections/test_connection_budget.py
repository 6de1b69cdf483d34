"""A worker's connections are divided within their limit, and every pool has at least one."""

from hypothesis import given
from hypothesis import strategies as st

from schema.connections.connection_budget import (
    DEFAULT_CONNECTIONS,
    MAX_CONNECTIONS,
    MIN_CONNECTIONS,
    ConnectionBudget,
)
from schema.modes import Mode


@given(st.integers(MIN_CONNECTIONS, MAX_CONNECTIONS))
def test_a_budget_uses_its_total_and_fills_every_pool(total: int) -> None:
    budget = ConnectionBudget.of_worker(total)
    opened = 1 + budget.core + len(Mode) * (budget.data + budget.background)
    assert total - len(Mode) < opened <= total
    assert min(budget.core, budget.data, budget.background) >= 1
    assert budget.background <= budget.data


def test_each_delivering_part_has_a_connection_by_default() -> None:
    assert ConnectionBudget.of_worker(MIN_CONNECTIONS) == ConnectionBudget(core=1, data=1, background=1)
    assert ConnectionBudget.of_worker(DEFAULT_CONNECTIONS) == ConnectionBudget(core=2, data=4, background=2)
