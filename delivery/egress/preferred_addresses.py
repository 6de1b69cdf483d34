"""Remembers with which of a destination's addresses the next attempt begins; see address_order.py."""

from typing import Final

from delivery.egress.guard import CheckedAddress

REMEMBERED: Final = 4096


class PreferredAddresses:
    """Covers the last 4,096 destinations with several addresses. A destination is (host, port)."""

    def __init__(self) -> None:
        self._preferred: dict[tuple[str, int], str] = {}

    def order(
        self, destination: tuple[str, int], addresses: tuple[CheckedAddress, ...]
    ) -> tuple[CheckedAddress, ...]:
        first = self._preferred.get(destination)
        if first is None or addresses[0].text == first:
            return addresses
        return _rotated(addresses, first)

    def answered(self, destination: tuple[str, int], address: str) -> None:
        if self._preferred.get(destination) != address:
            self._remember(destination, address)

    def failed(
        self, destination: tuple[str, int], address: str, addresses: tuple[CheckedAddress, ...]
    ) -> None:
        """The attempt got no status; `address` is the last one tried."""
        self._remember(destination, _rotated(addresses, address)[1].text)

    def _remember(self, destination: tuple[str, int], address: str) -> None:
        self._preferred.pop(destination, None)
        self._preferred[destination] = address
        if len(self._preferred) > REMEMBERED:
            del self._preferred[next(iter(self._preferred))]


def _rotated(addresses: tuple[CheckedAddress, ...], first: str) -> tuple[CheckedAddress, ...]:
    """Unchanged if `first` is not among them."""
    start = next((index for index, address in enumerate(addresses) if address.text == first), 0)
    return addresses[start:] + addresses[:start]
