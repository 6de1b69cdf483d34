"""A mode is a schema: mode `test` is schema `sandbox`, mode `live` is schema `live`. No data table has a mode column."""

from enum import StrEnum


class Mode(StrEnum):
    TEST = "test"
    LIVE = "live"

    @property
    def schema(self) -> str:
        return "sandbox" if self is Mode.TEST else "live"

    @property
    def role(self) -> str:
        """The login role that has rights in this mode's schema only."""
        return f"duro_{self.schema}"
