"""The length of fault scenarios: `make drills` runs the short one, `make soak` (FAULTS=full) the full one.

All random choices come from FAULTS_SEED, which each scenario's line shows.
"""

import os
import secrets
from typing import Final, TypeVar

T = TypeVar("T")
FULL: Final = os.environ.get("FAULTS") == "full"
SEED: Final = os.environ.get("FAULTS_SEED") or secrets.token_hex(4)
PATIENCE_S: Final = 540.0 if FULL else 60.0
"""Limit for all of a scenario's deliveries to arrive; far longer than they take."""
TAKEN_OVER_WITHIN_S: Final = 10.0
"""The product's documented limit."""
SLACK_S: Final = 5.0
"""Added to it for a busy machine."""


def length(short: T, full: T) -> T:
    return full if FULL else short
