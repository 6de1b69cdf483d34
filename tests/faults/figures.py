"""Prints one line of numbers per scenario at the end of the run, also under pytest-xdist."""

from dataclasses import dataclass, field

import pytest

from tests.faults.length import SEED

_PROPERTY = "faults"


@dataclass
class Figures:
    """The faults of a scenario and their effects."""

    faults: dict[str, int] = field(default_factory=dict)
    deliveries: int = 0
    duplicates: int = 0
    in_flight: int = 0
    """Deliveries in flight at the faults. No more than these may be repeated."""
    taken_over_after_s: list[float] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def count(self, fault: str, times: int = 1) -> None:
        self.faults[fault] = self.faults.get(fault, 0) + times

    def line(self) -> str:
        """Describes a passed scenario, so nothing was lost."""
        parts = [f"{name} {count}" for name, count in self.faults.items()]
        parts += [
            f"deliveries {self.deliveries}",
            f"duplicates {self.duplicates} of at most {self.in_flight}",
            "lost 0",
        ]
        if self.taken_over_after_s:
            parts.append(f"takeover max {max(self.taken_over_after_s):.1f} s")
        return ", ".join([*parts, *self.notes])


@dataclass
class Charges(Figures):
    """The numbers of a billing scenario. In a passed one no charge was repeated or forgotten."""

    due: int = 0
    worked: int = 0
    refused: int = 0
    asked: int = 0
    lost_answers: int = 0
    never_asked: int = 0
    """Charges in flight at the faults that had not reached the gateway."""
    charged_already: int = 0
    took_s: float = 0.0

    def line(self) -> str:
        parts = [
            *(f"{name} {count}" for name, count in self.faults.items()),
            f"due {self.due}",
            f"charges {self.worked}",
            f"refusals {self.refused}",
            f"in flight at the kills {self.in_flight}",
            f"of them never asked for {self.never_asked}",
            f"and charged already {self.charged_already}",
            f"asked for again {self.asked - self.worked - self.refused}",
            f"answers lost {self.lost_answers}",
            "charged twice 0",
            "forgotten 0",
            f"took {self.took_s:.1f} s",
        ]
        return ", ".join(parts)


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> Figures:
    """Printed only for a passed scenario."""
    these = Figures()
    request.node.stash[_STASH] = these
    return these


@pytest.fixture
def charges(request: pytest.FixtureRequest) -> Charges:
    """Like `figures`, for billing."""
    these = Charges()
    request.node.stash[_STASH] = these
    return these


_STASH: pytest.StashKey[Figures] = pytest.StashKey()


def add_figures(item: pytest.Item, report: pytest.TestReport) -> None:
    if report.when != "call" or _STASH not in item.stash:
        return
    line = f"{item.name} (seed {SEED}): {item.stash[_STASH].line()}"
    if report.passed:
        report.user_properties.append((_PROPERTY, line))
    elif report.failed:
        report.sections.append(("Faults before the failure; FAULTS_SEED reproduces them", line))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for report in terminalreporter.getreports("passed"):
        for name, line in report.user_properties:
            if name == _PROPERTY:
                terminalreporter.write_line(f"faults: {line}")
