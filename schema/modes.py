"""A mode is a schema: `test` lives in `sandbox`, `live` in `live`. No data table has a mode column."""

from enum import StrEnum


class Mode(StrEnum):
    TEST = "test"
    LIVE = "live"

    @property
    def schema(self) -> str:
        return "sandbox" if self is Mode.TEST else "live"

    @property
    def role(self) -> str:
        """The login role whose rights end at this mode's schema."""
        return f"duro_{self.schema}"
