"""Simulated customers, some of whom use one phone number with several merchants."""

from dataclasses import dataclass, field
from random import Random
from typing import Final
from uuid import UUID

from service.billing.checkout import Contact
from service.simulation.simulated_merchants import Store
from service.simulation.trades import person_name

_KNOWN_ELSEWHERE: Final = 0.1
_COMES_BACK: Final = 0.04


@dataclass(slots=True)
class Customer:
    store: Store
    contact: Contact
    rng: Random = field(repr=False)
    """Each customer has a generator, so that one customer's draws do not shift another's."""


class Population:
    def __init__(self, run: str, seed: int) -> None:
        """`run` keeps the e-mail addresses and phones of two simulations apart."""
        self._run = run
        self._seed = seed
        self._rng = Random(f"{seed}/people")  # noqa: S311  a script, not a secret
        self._phones: list[str] = []
        self._contacts: dict[UUID, list[Contact]] = {}
        self.count = 0

    def next_customer(self, store: Store) -> Customer:
        """Returns mostly a new customer, sometimes one that this or another merchant already has."""
        self.count += 1
        known = self._contacts.setdefault(store.tenant_id, [])
        if known and self._rng.random() < _COMES_BACK:
            contact = self._rng.choice(known)
        else:
            contact = self._newcomer()
            known.append(contact)
        return Customer(store, contact, Random(f"{self._seed}/{self.count}"))  # noqa: S311  a script, not a secret

    def _newcomer(self) -> Contact:
        name = person_name(self._rng)
        if self._phones and self._rng.random() < _KNOWN_ELSEWHERE:
            phone = self._rng.choice(self._phones)
        else:
            phone = f"+23480{self._run}{len(self._phones):06}"
            self._phones.append(phone)
        return Contact(name, f"customer.{self.count}.{self._run}@example.com", phone)
