"""One line of figures for each scenario, at the end of the whole run whichever process it ran in."""

from dataclasses import dataclass, field

import pytest

from tests.faults.length import SEED

_PROPERTY = "faults"


@dataclass
class Figures:
    """What a scenario did and what came of it."""

    faults: dict[str, int] = field(default_factory=dict)
    deliveries: int = 0
    duplicates: int = 0
    in_flight: int = 0
    """At the moments of the faults: no more than these may be repeated."""
    taken_over_after_s: list[float] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def count(self, fault: str, times: int = 1) -> None:
        self.faults[fault] = self.faults.get(fault, 0) + times

    def line(self) -> str:
        """Nothing was lost, or the scenario would have failed."""
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
    """Of money. None was made twice and none was forgotten, or the scenario would have failed."""

    due: int = 0
    worked: int = 0
    refused: int = 0
    asked: int = 0
    lost_answers: int = 0
    never_asked: int = 0
    """Of those in flight at the moments of the faults."""
    charged_already: int = 0
    took_s: float = 0.0

    def line(self) -> str:
        told = [
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
        return ", ".join(told)


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> Figures:
    """EventFacts only by a scenario that got to its end."""
    these = Figures()
    request.node.stash[_STASH] = these
    return these


@pytest.fixture
def charges(request: pytest.FixtureRequest) -> Charges:
    """As `figures`."""
    these = Charges()
    request.node.stash[_STASH] = these
    return these


_STASH: pytest.StashKey[Figures] = pytest.StashKey()


def tell(item: pytest.Item, report: pytest.TestReport) -> None:
    if report.when != "call" or _STASH not in item.stash:
        return
    line = f"{item.name} (seed {SEED}): {item.stash[_STASH].line()}"
    if report.passed:
        report.user_properties.append((_PROPERTY, line))
    elif report.failed:
        report.sections.append(("Faults until then, FAULTS_SEED draws them again", line))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for report in terminalreporter.getreports("passed"):
        for name, line in report.user_properties:
            if name == _PROPERTY:
                terminalreporter.write_line(f"faults: {line}")
