"""Names and products of simulated merchants and customers."""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from random import Random
from typing import Final

from schema.billing.rows import Interval
from service.billing.catalog import NewPlan

TRADES: Final[Mapping[str, Sequence[NewPlan]]] = {
    "Fitness Club": (
        NewPlan("Gym, monthly", 1_500_000, Interval.MONTH, trial_days=7),
        NewPlan("Gym, quarterly", 4_000_000, Interval.QUARTER),
        NewPlan("Family pass ₦45k", 4_500_000, Interval.MONTH),
        NewPlan("Twelve-week programme", 600_000, Interval.WEEK, max_cycles=12),
    ),
    "Books": (
        NewPlan("Ìwé Ọ̀sẹ̀: a book a week", 350_000, Interval.WEEK),
        NewPlan("Student", 500_000, Interval.MONTH, trial_days=14),
        NewPlan("Library, yearly", 4_800_000, Interval.YEAR),
    ),
    "Kitchen": (
        NewPlan("Lunch, every day for a month", 250_000, Interval.DAY, max_cycles=30),
        NewPlan("Soup on Fridays", 480_000, Interval.WEEK),
        NewPlan("Pantry box", 2_200_000, Interval.MONTH),
    ),
    "Cloud": (
        NewPlan(
            "Starter, in dollars",
            2_000,
            Interval.MONTH,
            currency="USD",
            charge_currency="NGN",
            fx_rate=Decimal("1538.25"),
            trial_days=14,
        ),
        NewPlan("Team", 9_500_000, Interval.MONTH, trial_days=14),
        NewPlan("Team, yearly", 96_000_000, Interval.YEAR),
    ),
    "Academy": (
        NewPlan("Evening class", 1_800_000, Interval.MONTH, max_cycles=10),
        NewPlan("Half a year", 9_000_000, Interval.BIANNUAL),
        NewPlan("Exam weekend, by the hour", 80_000, Interval.HOUR, max_cycles=16),
    ),
}

_PLACES: Final = (
    "Ikeja", "Bodija", "Yaba", "Wuse", "Garki", "Aba", "Ijebu", "Ogba", "Surulere", "Ilorin", "Jos", "Enugu", "Benin",
    "Calabar", "Akure", "Owerri", "Kano", "Lekki", "Apapa", "Gbagada",
)  # fmt: skip
_FIRST: Final = (
    "Adébáyọ̀", "Chinwe", "Halima", "Ngozi", "Tunde", "Amaka", "Musa", "Ìyábọ̀", "Emeka", "Zainab", "Segun", "Ifeoma",
)  # fmt: skip
_LAST: Final = (
    "Ọlátúnjí", "Okafor", "Bello", "Eze", "Bakare", "Nwosu", "Danjuma", "Adéyẹmí", "Obi", "Lawal", "Ogunleye", "Uche",
)  # fmt: skip


def merchant_name(rng: Random, trade: str) -> str:
    return f"{rng.choice(_PLACES)} {trade}"


def person_name(rng: Random) -> str:
    return f"{rng.choice(_FIRST)} {rng.choice(_LAST)}"
