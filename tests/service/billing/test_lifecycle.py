"""The lifecycle in code equals the documented table and rejects everything else."""

import pytest

from schema.billing.rows import Status
from schema.errors import Conflict
from schema.event_catalog import catalog
from service.billing.decisions.lifecycle import (
    ENDED,
    TRANSITIONS,
    Action,
    IllegalAction,
    actions_in,
    transition,
)

PAPER = """
    state               action             to                  event

    incomplete          start_trial        trialing            subscription_updated
    incomplete          activate           active              subscription_activated
    incomplete          expire_incomplete  incomplete_expired  subscription_updated
    incomplete          cancel             canceled            subscription_cancelled
    trialing            activate           active              subscription_activated
    trialing            renewal_failed     past_due            subscription_past_due
    trialing            cancel             canceled            subscription_cancelled
    active              renewal_failed     past_due            subscription_past_due
    active              reach_limit        expired             subscription_expired
    active              pause              paused              subscription_paused
    active              cancel             canceled            subscription_cancelled
    past_due            recover            active              subscription_recovered
    past_due            exhaust_dunning    unpaid              subscription_unpaid
    past_due            cancel             canceled            subscription_cancelled
    paused              resume             active              subscription_resumed
    paused              cancel             canceled            subscription_cancelled
    unpaid              recover            active              subscription_recovered
    unpaid              cancel             canceled            subscription_cancelled
"""
ROWS = [tuple(line.split()) for line in PAPER.strip().splitlines()[2:]]
MOVES = {(state, action): (to, event) for state, action, to, event in ROWS}


@pytest.mark.parametrize("state", Status)
def test_each_action_in_each_state_follows_the_table(state: Status) -> None:
    for action in Action:
        if (state, action) in MOVES:
            move = transition(state, action)
            assert (move.to, move.event) == MOVES[state, action]
        else:
            with pytest.raises(IllegalAction):
                transition(state, action)


@pytest.mark.parametrize("state", Status)
def test_an_error_names_the_allowed_actions(state: Status) -> None:
    possible = [action for other, action, *_ in ROWS if other == state]
    assert [*actions_in(state)] == possible
    instead = f"possible are {', '.join(possible)}." if possible else "it has ended."
    for action in set(Action) - set(possible):
        with pytest.raises(IllegalAction) as refusal:
            transition(state, action)
        said = f"{action} is not possible for a subscription that is {state}: {instead}"
        assert str(refusal.value) == said


def test_an_illegal_action_is_a_conflict() -> None:
    """So a caller can classify the error without knowing the lifecycle."""
    assert issubclass(IllegalAction, Conflict)


def test_every_state_is_reached_and_every_action_leads_somewhere() -> None:
    assert {move.to for move in TRANSITIONS.values()} == set(Status) - {Status.INCOMPLETE}
    assert {action for _, action in TRANSITIONS} == set(Action)


def test_ended_states_are_final_and_others_can_be_cancelled() -> None:
    assert {Status.CANCELED, Status.EXPIRED, Status.INCOMPLETE_EXPIRED} == ENDED
    assert {state for state in Status if not actions_in(state)} == ENDED
    assert {state for state in Status if Action.CANCEL in actions_in(state)} == set(Status) - ENDED


def test_every_state_is_reachable_and_can_end() -> None:
    def reached(state: Status, seen: frozenset[Status] = frozenset()) -> frozenset[Status]:
        for (start, _), move in TRANSITIONS.items():
            if start is state and move.to not in seen:
                seen = reached(move.to, seen | {move.to})
        return seen

    assert reached(Status.INCOMPLETE) == set(Status) - {Status.INCOMPLETE}
    for state in set(Status) - ENDED:
        assert ENDED & reached(state)


def test_each_event_is_in_the_catalog_with_its_state() -> None:
    for move in TRANSITIONS.values():
        status = catalog()[move.event].schema["properties"]["status"]
        assert move.to in status.get("enum", [status.get("const")])
