"""Phone numbers in E.164 form: `+`, country code and number; 8 to 15 digits."""

import re
from typing import Final

from schema.errors import InvalidInput

_E164: Final = re.compile(r"\+[1-9][0-9]{7,14}")
_SEPARATORS: Final = str.maketrans("", "", " -.")  # no brackets: the 0 in "(0)" is not dialled from abroad


def normalise_phone(text: str) -> str:
    """Returns the one spelling of a number. Raises InvalidInput, whose text does not repeat the input."""
    phone = text.translate(_SEPARATORS)
    if not _E164.fullmatch(phone):
        raise InvalidInput("Invalid phone number: write + and the country code first, as in +2348031234567.")
    return phone
