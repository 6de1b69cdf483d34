"""Which of a destination's addresses an attempt begins with; address_order.py says why."""

from typing import Final

from delivery.egress.guard import CheckedAddress

REMEMBERED: Final = 4096


class FirstAddresses:
    """For the last 4,096 destinations that have several addresses. A destination is (host, port)."""

    def __init__(self) -> None:
        self._first: dict[tuple[str, int], str] = {}

    def order(
        self, destination: tuple[str, int], addresses: tuple[CheckedAddress, ...]
    ) -> tuple[CheckedAddress, ...]:
        first = self._first.get(destination)
        if first is None or addresses[0].text == first:
            return addresses
        return _rotated(addresses, first)

    def answered(self, destination: tuple[str, int], address: str) -> None:
        if self._first.get(destination) != address:
            self._remember(destination, address)

    def failed(
        self, destination: tuple[str, int], address: str, addresses: tuple[CheckedAddress, ...]
    ) -> None:
        """`address` is the last that was tried."""
        self._remember(destination, _rotated(addresses, address)[1].text)

    def _remember(self, destination: tuple[str, int], address: str) -> None:
        self._first.pop(destination, None)
        self._first[destination] = address
        if len(self._first) > REMEMBERED:
            del self._first[next(iter(self._first))]


def _rotated(addresses: tuple[CheckedAddress, ...], first: str) -> tuple[CheckedAddress, ...]:
    """As they are when `first` is no longer among them."""
    start = next((index for index, address in enumerate(addresses) if address.text == first), 0)
    return addresses[start:] + addresses[:start]
