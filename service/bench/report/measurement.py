"""The result of a row, as the table and the JSON report share it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Verdict(StrEnum):
    MET = "met"
    NOT_MET = "not met"
    REPORTED = "reported"
    """It has no aim."""


@dataclass(frozen=True, slots=True)
class AtLeast:
    limit: float
    goal: float | None = None
    """A goal beyond the limit. It is shown, but does not affect the verdict."""

    def judge(self, value: float) -> Verdict:
        return Verdict.MET if value >= self.limit else Verdict.NOT_MET

    def __str__(self) -> str:
        return f"≥ {self.limit:g}" + ("" if self.goal is None else f" (goal {self.goal:g})")


@dataclass(frozen=True, slots=True)
class AtMost:
    limit: float
    unit: str = ""

    def judge(self, value: float) -> Verdict:
        return Verdict.MET if value <= self.limit else Verdict.NOT_MET

    def __str__(self) -> str:
        return f"≤ {self.limit:g}{self.unit and ' ' + self.unit}"


Aim = AtLeast | AtMost


@dataclass(frozen=True, slots=True)
class Measurement:
    row: str
    what: str
    against: str
    """The other side of the comparison, or empty."""
    value: float | None
    """A ratio, or an absolute value in `unit` without a comparison. None if it could not be computed."""
    aim: Aim | None = None
    unit: str = ""
    figures: Mapping[str, Any] = field(default_factory=dict)
    """Absolute values by name. The name ends with the unit, as in p99_ms."""
    summary: str = ""
    """The most important figures, for the table."""
    rounds: Sequence[float] = ()
    """The ratio of each round, if there were several."""

    @property
    def verdict(self) -> Verdict:
        if self.aim is None:
            return Verdict.REPORTED
        return Verdict.NOT_MET if self.value is None else self.aim.judge(self.value)
