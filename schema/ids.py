"""ULIDs with a prefix outside (`evt_01HK…`), `uuid` inside."""

from typing import Final
from uuid import UUID

from ulid import ULID

from schema.errors import InvalidInput

EVENT: Final = "evt"
ENDPOINT: Final = "we"
DELIVERY: Final = "dlv"
ATTEMPT: Final = "att"
TENANT: Final = "ten"


def new_id() -> UUID:
    return ULID().to_uuid()


def format_id(prefix: str, value: UUID) -> str:
    return f"{prefix}_{ULID.from_uuid(value)}"


def parse_id(prefix: str, text: str) -> UUID:
    """Raises InvalidInput unless `text` is `{prefix}_` and a ULID."""
    kind, separator, ulid = text.partition("_")
    if kind == prefix and separator:
        try:
            return ULID.from_str(ulid).to_uuid()
        except ValueError:
            pass
    raise InvalidInput(f"{text!r} is not an id of the form {prefix}_ followed by 26 letters and digits.")
