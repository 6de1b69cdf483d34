"""What a row found, in the form that the table and the JSON share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Verdict(StrEnum):
    MET = "met"
    NOT_MET = "not met"
    REPORTED = "reported"
    """There is no aim."""


@dataclass(frozen=True, slots=True)
class AtLeast:
    limit: float
    goal: float | None = None
    """What is hoped for beyond the limit; told, and not judged by."""

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
class Finding:
    row: str
    what: str
    against: str
    """What it is compared with; empty for nothing."""
    value: float | None
    """The ratio, or in `unit` where nothing is compared. None when it could not be told."""
    aim: Aim | None = None
    unit: str = ""
    figures: Mapping[str, Any] = field(default_factory=dict)
    """Absolute figures by name; the unit ends the name, as in p99_ms."""
    shown: str = ""
    """The ones that matter, for people."""
    rounds: Sequence[float] = ()
    """The ratio of each round, where there were several."""

    @property
    def verdict(self) -> Verdict:
        if self.aim is None:
            return Verdict.REPORTED
        return Verdict.NOT_MET if self.value is None else self.aim.judge(self.value)
