"""Keeps secrets out of pretty-printers.

`field(repr=False)` hides a field from repr() only. IPython and Hypothesis print the fields of a dataclass themselves,
unless it has `_repr_pretty_`.
"""

from typing import Protocol


class _Printer(Protocol):
    def text(self, text: str, /) -> object: ...


class HidesSecrets:
    """Base of dataclasses with secret fields: pretty-printers show their repr()."""

    __slots__ = ()

    def _repr_pretty_(self, printer: _Printer, _cycle: bool) -> None:
        printer.text(repr(self))
