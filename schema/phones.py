"""Phone numbers as E.164 has them: `+`, the country's code, the rest; at least 8 digits, at most 15."""

import re
from typing import Final

from schema.errors import InvalidInput

_E164: Final = re.compile(r"\+[1-9][0-9]{7,14}")
_SEPARATORS: Final = str.maketrans(
    "", "", " -."
)  # no brackets: what stands in "(0)" is not dialled from abroad


def normalise_phone(text: str) -> str:
    """One spelling for each number. Raises InvalidInput, which does not repeat what may be somebody's number."""
    phone = text.translate(_SEPARATORS)
    if not _E164.fullmatch(phone):
        raise InvalidInput(
            "This is no phone number: write + and the country's code before the rest, as in +2348031234567."
        )
    return phone
