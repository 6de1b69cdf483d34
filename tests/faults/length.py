"""How far the faults go: `make drills` runs the short length, `make soak` (FAULTS=full) the full one.

What is drawn by chance is drawn from FAULTS_SEED, which each scenario's line of figures tells.
"""

import os
import secrets
from typing import Final, TypeVar

T = TypeVar("T")
FULL: Final = os.environ.get("FAULTS") == "full"
SEED: Final = os.environ.get("FAULTS_SEED") or secrets.token_hex(4)
PATIENCE_S: Final = 540.0 if FULL else 60.0
"""For all of a scenario's deliveries to arrive; far more than it takes."""
TAKEN_OVER_WITHIN_S: Final = 10.0
"""A promise of the product."""
SLACK_S: Final = 5.0
"""What a machine busy with other things may add to it."""


def length(short: T, full: T) -> T:
    return full if FULL else short
