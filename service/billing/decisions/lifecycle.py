"""The life of a subscription as a table: the actions of each state, where each leads, and its event.

    incomplete ──start_trial──► trialing ──┐
        │  └────────activate─────────┐     │ activate
        │ expire_incomplete          ▼     ▼                 renewal_failed
        ▼                          active ◄──resume── paused   │
    incomplete_expired              │ │ ▲ └───pause────►┘      │
                       reach_limit  │ │ │ recover              │
                     expired ◄──────┘ └─┼──────────► past_due ◄┘
                                        │               │ exhaust_dunning
                                        └── unpaid ◄────┘
    canceled ◄──cancel── every state that has not ended

A change and its event are one transaction (see billing_cases.py). A paid renewal moves the period without a change of state; the
payment's event reports it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from schema.billing.rows import Status
from schema.errors import Conflict


class Action(StrEnum):
    START_TRIAL = "start_trial"
    ACTIVATE = "activate"
    EXPIRE_INCOMPLETE = "expire_incomplete"
    RENEWAL_FAILED = "renewal_failed"
    RECOVER = "recover"
    EXHAUST_DUNNING = "exhaust_dunning"
    REACH_LIMIT = "reach_limit"
    PAUSE = "pause"
    RESUME = "resume"
    CANCEL = "cancel"


@dataclass(frozen=True, slots=True)
class Transition:
    to: Status
    event: str


TRANSITIONS: Final[Mapping[tuple[Status, Action], Transition]] = {
    (Status.INCOMPLETE, Action.START_TRIAL): Transition(Status.TRIALING, "subscription_updated"),
    (Status.INCOMPLETE, Action.ACTIVATE): Transition(Status.ACTIVE, "subscription_activated"),
    (Status.INCOMPLETE, Action.EXPIRE_INCOMPLETE): Transition(
        Status.INCOMPLETE_EXPIRED, "subscription_updated"
    ),
    (Status.INCOMPLETE, Action.CANCEL): Transition(Status.CANCELED, "subscription_cancelled"),
    (Status.TRIALING, Action.ACTIVATE): Transition(Status.ACTIVE, "subscription_activated"),
    (Status.TRIALING, Action.RENEWAL_FAILED): Transition(Status.PAST_DUE, "subscription_past_due"),
    (Status.TRIALING, Action.CANCEL): Transition(Status.CANCELED, "subscription_cancelled"),
    (Status.ACTIVE, Action.RENEWAL_FAILED): Transition(Status.PAST_DUE, "subscription_past_due"),
    (Status.ACTIVE, Action.REACH_LIMIT): Transition(Status.EXPIRED, "subscription_expired"),
    (Status.ACTIVE, Action.PAUSE): Transition(Status.PAUSED, "subscription_paused"),
    (Status.ACTIVE, Action.CANCEL): Transition(Status.CANCELED, "subscription_cancelled"),
    (Status.PAST_DUE, Action.RECOVER): Transition(Status.ACTIVE, "subscription_recovered"),
    (Status.PAST_DUE, Action.EXHAUST_DUNNING): Transition(Status.UNPAID, "subscription_unpaid"),
    (Status.PAST_DUE, Action.CANCEL): Transition(Status.CANCELED, "subscription_cancelled"),
    (Status.PAUSED, Action.RESUME): Transition(Status.ACTIVE, "subscription_resumed"),
    (Status.PAUSED, Action.CANCEL): Transition(Status.CANCELED, "subscription_cancelled"),
    (Status.UNPAID, Action.RECOVER): Transition(Status.ACTIVE, "subscription_recovered"),
    (Status.UNPAID, Action.CANCEL): Transition(Status.CANCELED, "subscription_cancelled"),
}

ENDED: Final = frozenset({Status.INCOMPLETE_EXPIRED, Status.CANCELED, Status.EXPIRED})


class IllegalAction(Conflict):
    """The subscription's state does not allow the action; nothing was changed."""


def transition(status: Status, action: Action) -> Transition:
    """Returns the transition. Raises IllegalAction, which names the possible actions."""
    found = TRANSITIONS.get((status, action))
    if found is None:
        raise IllegalAction(_refusal(status, action))
    return found


def actions_in(status: Status) -> list[Action]:
    return [action for state, action in TRANSITIONS if state is status]


def _refusal(status: Status, action: Action) -> str:
    possible = ", ".join(actions_in(status))
    what = f"{action} is not possible for a subscription that is {status}"
    return f"{what}: possible are {possible}." if possible else f"{what}: it has ended."
