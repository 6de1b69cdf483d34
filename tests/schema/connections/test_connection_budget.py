"""A worker's connections are shared out so that it never opens more, and no pool is without one."""

from hypothesis import given
from hypothesis import strategies as st

from schema.connections.connection_budget import DEFAULT, LEAST, MOST, ConnectionBudget
from schema.modes import Mode


@given(st.integers(LEAST, MOST))
def test_no_more_than_the_setting_and_one_in_every_pool(total: int) -> None:
    budget = ConnectionBudget.of_worker(total)
    opened = 1 + budget.core + len(Mode) * (budget.data + budget.background)
    assert total - len(Mode) < opened <= total
    assert min(budget.core, budget.data, budget.background) >= 1
    assert budget.background <= budget.data


def test_what_delivers_has_a_connection_for_each_part_by_default() -> None:
    assert ConnectionBudget.of_worker(LEAST) == ConnectionBudget(core=1, data=1, background=1)
    assert ConnectionBudget.of_worker(DEFAULT) == ConnectionBudget(core=2, data=4, background=2)
